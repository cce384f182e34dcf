"""Finding and opening a device's cdev."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from attrs import define, field

from vfiocore import sysfs
from vfiocore.errors import (
    DeviceNotFoundError,
    HostUnsupportedError,
    KernelError,
    kernel_error,
)
from vfiocore.undo import UndoStack

if TYPE_CHECKING:
    from vfiocore.container import DeviceTarget
    from vfiocore.host import FileStat, Host
    from vfiocore.sysfs import HostDevice

FOLDER = "/dev/vfio/devices"

NODE_PERMISSION_HINT = (
    "the user needs read and write permission on the node: a udev rule gives it, and a container"
    " (Docker, Podman) needs --device besides"
)
PASSED_HINT = f"fd= takes the number, or the name, of an opened {FOLDER}/vfioN"


@define(eq=False, kw_only=True)
class Cdev:
    """An open device file.

    Attributes:
        host: The host that the fd belongs to.
        name: The device's name in messages.
        fd: The fd.
        owned: False if it was passed in; then close() leaves it open.
    """

    host: Host = field(repr=False)
    name: str
    fd: int
    owned: bool

    def close(self) -> None:
        """Close what was opened here."""
        if not self.owned:
            return
        try:
            self.host.close(self.fd)
        except OSError as error:
            raise kernel_error(error, "close", self.name) from error


def open_cdev(host: Host, target: DeviceTarget) -> Cdev:
    """The cdev of a device: the one passed in (see `check_passed_fd`), or the one in sysfs.

    What was opened is checked to be the device that sysfs means, by its device number: nodes
    below /dev are files like any others, made by udev or by a container runtime.

    Raises:
        HostUnsupportedError: ENOENT, the device has no cdev: driver or kernel offer none.
        DeviceNotFoundError: ENOENT, there is no node; ENXIO, the node is that of another device.
        AccessDeniedError: EACCES, the node's permissions.
    """
    if target.fd is not None:
        return Cdev(host=host, name=target.name, fd=target.fd, owned=False)
    if target.device is None:
        raise DeviceNotFoundError(
            errno.ENODEV, "open", target.name, "neither sysfs nor an fd tells which device it is"
        )
    number = _device_number(host, target.device)
    fd = _open_node(host, target.device, number)
    return Cdev(host=host, name=target.name, fd=fd, owned=True)


def check_passed_fd(host: Host, target: DeviceTarget) -> None:
    """Make sure that a passed fd is an open character device, and the one that sysfs means.

    To be done before anything is opened: the next open takes the number of an fd that is closed.

    Raises:
        DeviceNotFoundError: ENXIO, it is another device.
        KernelError: EBADF or EBADFD, it is closed, or is no character device.
    """
    fd = target.fd
    if fd is None:
        return
    subject = f"{target.name} (fd {fd})"
    found = _fstat(host, fd, subject, PASSED_HINT)
    if not stat.S_ISCHR(found.mode):
        raise KernelError(
            errno.EBADFD,
            "fstat",
            subject,
            "not a character device",
            PASSED_HINT,
        )
    if target.device is not None:
        number = _device_number(host, target.device)
        if found.rdev != os.makedev(*number):
            raise _other_device(subject, found, number)


def _device_number(host: Host, device: HostDevice) -> tuple[int, int]:
    if device.cdev is None:
        raise _no_cdev(host, device)
    try:
        return sysfs.device_number(host, device)
    except HostUnsupportedError as error:
        # vfio_main.c:__vfio_register_dev: the folder in sysfs is there for every VFIO device.
        raise _no_cdev(host, device) from error


def _no_cdev(host: Host, device: HostDevice) -> HostUnsupportedError:
    """Why a device has no cdev: no IOMMU, no VFIO driver, or a kernel that makes none."""
    bound = f"is bound to {device.driver}" if device.driver else "is bound to no driver"
    reason = f"the device has no VFIO character device; it {bound}"
    hint = "bind it to a vfio driver (vfio-pci); cdevs need Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV,"
    if device.group is None and not device.is_mdev:
        reason = "the device is in no IOMMU group: the IOMMU is off or missing"
        hint = "turn it on in the firmware (VT-d, AMD-Vi, SMMU) and for the kernel (intel_iommu=on)"
    elif host.exists(f"/dev/vfio/noiommu-{device.group}"):
        # vfio_main.c:__vfio_register_dev: without an IOMMU there is a group, and no cdev.
        reason = f"group {device.group} is a no-IOMMU group, and its device has no cdev"
        hint = "turn on the IOMMU, or use the legacy backend (no iommufd=) with noiommu=on"
    elif device.on_vfio:
        hint = "cdevs need Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV; the legacy backend (no iommufd=) does without"
    else:
        hint = f"{hint} or use the legacy backend (no iommufd=)"
    return HostUnsupportedError(errno.ENOENT, "open", device.name, reason, hint)


def _open_node(host: Host, device: HostDevice, number: tuple[int, int]) -> int:
    """Open the first node that is this device: by name, then by number."""
    paths = (f"{FOLDER}/{device.cdev}", f"/dev/char/{number[0]}:{number[1]}")
    first: KernelError | None = None
    for path in paths:
        try:
            return _open_checked(host, path, number)
        except DeviceNotFoundError as error:
            first = first or error
    assert first is not None
    raise first


def _open_checked(host: Host, path: str, number: tuple[int, int]) -> int:
    try:
        fd = host.open(path)
    except OSError as error:
        raise kernel_error(error, "open", path, hint=_open_hint(error)) from error
    with UndoStack() as undo:
        undo.push(host.close, fd)
        found = _fstat(host, fd, path)
        if not stat.S_ISCHR(found.mode) or found.rdev != os.makedev(*number):
            raise _other_device(path, found, number)
    return fd


def _fstat(host: Host, fd: int, subject: str, hint: str | None = None) -> FileStat:
    try:
        return host.fstat(fd)
    except OSError as error:
        raise kernel_error(error, "fstat", subject, hint=hint) from error


def _other_device(subject: str, found: FileStat, number: tuple[int, int]) -> DeviceNotFoundError:
    what = (
        f"device {os.major(found.rdev)}:{os.minor(found.rdev)}"
        if stat.S_ISCHR(found.mode)
        else "no character device"
    )
    return DeviceNotFoundError(
        errno.ENXIO, "fstat", subject, f"it is {what}, sysfs means {number[0]}:{number[1]}"
    )


def _open_hint(error: OSError) -> str | None:
    if error.errno == errno.ENOENT:
        return "udev makes the nodes; in a container the node has to be passed in"
    if error.errno in (errno.EACCES, errno.EPERM):
        return NODE_PERMISSION_HINT
    if error.errno == errno.ENODEV:
        return "the device is just being unbound from its driver"
    return None
