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

if TYPE_CHECKING:
    from vfiocore.container import DeviceTarget
    from vfiocore.host import FileStat, Host
    from vfiocore.sysfs import HostDevice

FOLDER = "/dev/vfio/devices"


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
    try:
        found = host.fstat(fd)
    except OSError as error:
        raise kernel_error(error, "fstat", subject) from error
    if not stat.S_ISCHR(found.mode):
        raise KernelError(
            errno.EBADFD,
            "fstat",
            subject,
            "not a character device",
            f"fd= takes an opened {FOLDER}/vfioN",
        )
    if target.device is not None:
        number = _device_number(host, target.device)
        if found.rdev != os.makedev(*number):
            raise _other_device(subject, found, number)


def _device_number(host: Host, device: HostDevice) -> tuple[int, int]:
    if device.cdev is None:
        bound = f"is bound to {device.driver}" if device.driver else "is bound to no driver"
        raise HostUnsupportedError(
            errno.ENOENT,
            "open",
            device.name,
            f"the device has no VFIO character device; it {bound}",
            "bind it to a vfio driver (vfio-pci); cdevs need Linux 6.6 with"
            " CONFIG_VFIO_DEVICE_CDEV, or use the legacy backend (no iommufd=)",
        )
    return sysfs.device_number(host, device)


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
    try:
        found = host.fstat(fd)
        if not stat.S_ISCHR(found.mode) or found.rdev != os.makedev(*number):
            raise _other_device(path, found, number)
    except OSError:
        host.close(fd)
        raise
    return fd


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
        return "the user needs read and write permission on the node"
    if error.errno == errno.ENODEV:
        return "the device is just being unbound from its driver"
    return None
