"""Binding a device to an iommufd: from then on it has an id there, and can be attached."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from attrs import define, field

from vfiocore import sysfs
from vfiocore.errors import (
    AccessDeniedError,
    BusyError,
    GroupNotViableError,
    KernelError,
    UnsupportedError,
    VfioError,
    kernel_error,
)
from vfiocore.uapi import vfio
from vfiocore_iommufd.cdev import FOLDER, PASSED_HINT, open_cdev
from vfiocore_iommufd.holders import holders, is_bound
from vfiocore_iommufd.hwpt import UNKNOWN, read_hw_info

if TYPE_CHECKING:
    import uuid

    from vfiocore.access import DeviceAccess
    from vfiocore.container import DeviceTarget
    from vfiocore.host import Host
    from vfiocore.registration import ContextRequest
    from vfiocore.undo import UndoStack
    from vfiocore_iommufd.cdev import Cdev
    from vfiocore_iommufd.hwpt import HwInfo, Hwpt
    from vfiocore_iommufd.iommufd import Iommufd

BIND = "VFIO_DEVICE_BIND_IOMMUFD"
OLD_SIZE = vfio.vfio_device_bind_iommufd.token_uuid_ptr.offset
FULL_SIZE = ctypes.sizeof(vfio.vfio_device_bind_iommufd)


@define(eq=False, kw_only=True)
class BoundDevice:
    """A device that is bound to an iommufd.

    Attributes:
        name: The device's name in messages.
        cdev: Its open file.
        dev_id: Its id in the iommufd.
        hw: What its IOMMU can do; None for an emulated device (mdev), which has none.
        hwpt: The page table that it is attached to; None before, and for plain attachment.
        access: The device as it was handed out, once it was.
    """

    name: str
    cdev: Cdev
    dev_id: int
    hw: HwInfo | None
    hwpt: Hwpt | None = None
    access: DeviceAccess | None = field(default=None, repr=False)

    def close(self) -> None:
        """Close the cdev, which is what unbinds; a passed one stays open, and bound."""
        if self.access is not None:
            self.access.close()
        else:
            self.cdev.close()


def bind_device(request: ContextRequest, iommufd: Iommufd, undo: UndoStack) -> BoundDevice:
    """Open the device, make it known to KVM, bind it, and ask what its IOMMU can do.

    KVM comes before the bind: drivers that need it (vfio-ap) look for it when they are bound
    (vfio/device_cdev.c: vfio_df_ioctl_bind_iommufd).
    """
    host, target = request.host, request.target
    cdev = open_cdev(host, target)
    device = BoundDevice(name=target.name, cdev=cdev, dev_id=0, hw=UNKNOWN)
    undo.push(device.close)
    if request.kvm is not None:
        request.kvm.add(cdev.fd)
        undo.push(request.kvm.remove, cdev.fd)
    device.dev_id = _bind(host, cdev.fd, iommufd, target)
    device.hw = None if target.is_mdev else read_hw_info(iommufd, device.name, device.dev_id)
    return device


def _bind(host: Host, fd: int, iommufd: Iommufd, target: DeviceTarget) -> int:
    """VFIO_DEVICE_BIND_IOMMUFD: the device's id in the iommufd."""
    token = None if target.vf_token is None else _token_bytes(target.vf_token)
    # Without a token only what Linux 6.6 had is passed, so that older kernels are served alike.
    arg = vfio.vfio_device_bind_iommufd(argsz=OLD_SIZE, iommufd=iommufd.fd)
    if token is not None:
        arg.argsz = FULL_SIZE
        arg.flags = vfio.VFIO_DEVICE_BIND_FLAG_TOKEN
        arg.token_uuid_ptr = ctypes.addressof(token)
    try:
        host.ioctl(fd, vfio.VFIO_DEVICE_BIND_IOMMUFD, arg)
    except OSError as error:
        raise _explained(error, host, fd, target) from error
    return int(arg.out_devid)


def _token_bytes(token: uuid.UUID) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(token.bytes, len(token.bytes))


def _explained(error: OSError, host: Host, fd: int, target: DeviceTarget) -> KernelError:
    """Say why: the errnos of BIND stand for many things (vfio/device_cdev.c, vfio_pci_core.c)."""
    device = target.device
    if error.errno == errno.EBUSY:
        node = f"/dev/vfio/{device.group}" if device and device.group is not None else "its group"
        who = holders(host, node) or "here or in another program"
        hint = f"{node} is open, {who}, for the legacy backend: close it"
        return kernel_error(error, BIND, target.name, hint=hint)
    if error.errno == errno.EPERM:
        return _not_permitted(error, host, target)
    if error.errno == errno.EACCES:
        hint = "the device is a VF, or a PF with VFs in use: give the right vf-token="
        return kernel_error(error, BIND, target.name, hint=hint)
    if error.errno == errno.ENODEV:
        hint = "it has no IOMMU group: enable the IOMMU (intel_iommu=on, firmware settings)"
        return kernel_error(error, BIND, target.name, hint=hint)
    if error.errno == errno.ENOTTY and target.fd is not None:
        reason = f"fd {target.fd} is no VFIO device"
        return kernel_error(error, BIND, target.name, detail=reason, hint=PASSED_HINT)
    if error.errno == errno.EINVAL:
        return _invalid(error, host, fd, target)
    return kernel_error(error, BIND, target.name)


def _not_permitted(error: OSError, host: Host, target: DeviceTarget) -> KernelError:
    """EPERM: a host driver in the group, another owner of the group, or unsafe interrupts."""
    group = None if target.device is None else target.device.group
    try:
        others = [] if group is None else sysfs.in_the_way(host, group)
    except VfioError:
        others = []  # what the kernel said is what matters
    if others:
        drivers = ", ".join(f"{device.name} ({device.driver})" for device in others)
        return GroupNotViableError(
            errno.EPERM,
            BIND,
            target.name,
            f"host drivers use devices of its IOMMU group {group}: {drivers}",
            "bind them to vfio-pci, or to no driver",
        )
    return AccessDeniedError(
        error.errno or errno.EPERM,
        BIND,
        target.name,
        hint="a device of its IOMMU group is in use through another iommufd or container,"
        " or the machine does not isolate interrupts (iommufd.allow_unsafe_interrupts=1 accepts it)",
    )


def _invalid(error: OSError, host: Host, fd: int, target: DeviceTarget) -> KernelError:
    """EINVAL: among other things, what a device that is bound already is answered with."""
    device = target.device
    # vfio_main.c:vfio_df_open: a device that has been opened by way of a cdev is not opened again.
    who = holders(host, f"{FOLDER}/{device.cdev}", own=1) if device is not None else ""
    by = f": {who}" if who else ""
    if device is not None and is_bound(host, device):
        hint = "one program at a time has a device: close it there"
        if target.fd is not None:
            hint += (
                f"; or fd {target.fd} itself has been bound before: pass one that was opened anew"
            )
        return BusyError(errno.EINVAL, BIND, target.name, f"the device is in use already{by}", hint)
    causes = ["the device is open or bound already", "its IOMMU is not cache coherent"]
    if target.vf_token is not None:
        if not _knows_tokens(host, fd):
            return UnsupportedError(
                errno.EINVAL,
                BIND,
                target.name,
                "this kernel takes no vf-token for a cdev",
                "that came with Linux 6.17; the legacy backend (no iommufd=) always takes one",
            )
        causes.insert(0, "it takes no vf-token")
    if target.device is None or target.is_mdev:
        causes.append("its driver (vfio-ap) wants a virtual machine first")
    if target.fd is not None:
        # container.c:vfio_fops_unl_ioctl answers it to whatever comes before SET_IOMMU.
        causes.append(f"fd {target.fd} is no VFIO device: {PASSED_HINT}")
    return kernel_error(
        error, BIND, target.name, detail=who, hint=f"possible causes: {'; '.join(causes)}"
    )


def _knows_tokens(host: Host, fd: int) -> bool:
    """Whether BIND takes a token: a kernel that does checks what follows the struct.

    It then answers E2BIG for a byte that it does not know, before anything else; older ones look
    at the first 16 bytes only and find the fd wrong (EINVAL).
    """
    arg = bytearray(bytes(vfio.vfio_device_bind_iommufd(argsz=FULL_SIZE + 1, iommufd=-1)) + b"\xff")
    try:
        host.ioctl(fd, vfio.VFIO_DEVICE_BIND_IOMMUFD, arg)
    except OSError as error:
        return error.errno == errno.E2BIG
    return False
