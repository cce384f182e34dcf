"""An IOMMU group's file, /dev/vfio/N: the way to its devices."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from attrs import define, field

from vfiocore.errors import (
    AccessDeniedError,
    BusyError,
    DeviceNotFoundError,
    HostUnsupportedError,
    UnsupportedError,
    kernel_error,
)
from vfiocore.uapi import vfio
from vfiocore_legacy.checks import not_viable

if TYPE_CHECKING:
    import uuid

    from vfiocore.errors import ErrorKinds
    from vfiocore.host import Host
    from vfiocore.kvm import KvmLink
    from vfiocore.log import Log

OPEN_HINTS = {
    errno.ENOENT: "the node comes when the first device of the group is bound to a VFIO driver"
    " (modprobe vfio-pci), on kernels with CONFIG_VFIO_GROUP",
    errno.ENODEV: "the last device of the group has just left its VFIO driver",
    errno.EACCES: "give your user the node with a udev rule, or run as root;"
    " a container (Docker, Podman) needs --device for it",
    errno.EPERM: "a group without an IOMMU needs CAP_SYS_RAWIO",
    errno.EBUSY: "a group is open once at a time: another process has it,"
    " or has a device of it open through iommufd (/dev/vfio/devices)",
}
DEVICE_HINTS = {
    errno.ENODEV: "no device of that name is bound to a VFIO driver in this group",
    errno.EACCES: "the VF token is missing or wrong: give the one that the PF's driver has set"
    " (vf-token=)",
    errno.EAGAIN: "the device is just being reset: try again",
    # iommufd/device.c:iommufd_device_bind, which /dev/iommu as the container comes to only here.
    errno.EPERM: "somebody else uses a device of the group, or interrupts are not isolated between"
    " devices: take the risk with iommufd.allow_unsafe_interrupts=1",
}
DEVICE_KINDS: ErrorKinds = {errno.EAGAIN: BusyError}


@define(eq=False, kw_only=True)
class LegacyGroup:
    """An open group.

    Attributes:
        host: The host that the fd belongs to.
        number: Its number in /sys/kernel/iommu_groups.
        fd: The fd of /dev/vfio/N.
        noiommu: True if nothing translates what its device does.
        kvm: The virtual machine that knows the group, or None.
    """

    host: Host = field(repr=False)
    number: int
    fd: int
    noiommu: bool = False
    kvm: KvmLink | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"group {self.number}"

    def check_viable(self) -> None:
        """VFIO_GROUP_GET_STATUS.

        Raises:
            GroupNotViableError: EPERM, with the devices in the way and their drivers.
        """
        try:
            flags = self._status()
        except OSError as error:
            raise kernel_error(error, "VFIO_GROUP_GET_STATUS", str(self)) from error
        if not flags & vfio.VFIO_GROUP_FLAGS_VIABLE:
            raise not_viable(self.host, self.number)

    def set_container(self, fd: int) -> None:
        """VFIO_GROUP_SET_CONTAINER; OSError as the kernel answers, for the caller to judge."""
        self.host.ioctl(self.fd, vfio.VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("=i", fd)))

    def unset_container(self) -> None:
        """VFIO_GROUP_UNSET_CONTAINER; the last group takes the container's mappings along.

        A group whose last device was unbound meanwhile is out already, and that is well.

        Raises:
            BusyError: EBUSY, a device of the group is still open or mapped.
        """
        try:
            self.host.ioctl(self.fd, vfio.VFIO_GROUP_UNSET_CONTAINER)
        except OSError as error:
            if error.errno == errno.EINVAL and not self.is_in_container():
                return
            raise kernel_error(
                error,
                "VFIO_GROUP_UNSET_CONTAINER",
                str(self),
                detail="a device of the group is still open" if error.errno == errno.EBUSY else "",
                hint="close the copies of its fd, and the mappings of its regions"
                if error.errno == errno.EBUSY
                else None,
            ) from error

    def is_in_container(self) -> bool:
        """False once the kernel has taken it out.

        The last device that leaves VFIO takes its group out of the container
        (group.c:vfio_device_remove_group).
        """
        try:
            return bool(self._status() & vfio.VFIO_GROUP_FLAGS_CONTAINER_SET)
        except OSError as error:
            return error.errno != errno.ENODEV  # which says that no device of it is with VFIO

    def _status(self) -> int:
        """The flags of VFIO_GROUP_GET_STATUS; OSError as the kernel answers."""
        status = vfio.vfio_group_status(argsz=ctypes.sizeof(vfio.vfio_group_status))
        self.host.ioctl(self.fd, vfio.VFIO_GROUP_GET_STATUS, status)
        return int(status.flags)

    def device_fd(self, name: str, vf_token: uuid.UUID | None) -> int:
        """VFIO_GROUP_GET_DEVICE_FD: open a device of the group by its kernel name.

        Args:
            name: ``0000:02:00.0``, or the UUID of a mediated device.
            vf_token: Goes behind the name (Linux 5.7), for VFs and for PFs with VFs.

        Raises:
            DeviceNotFoundError: ENODEV, no such device in the group.
            AccessDeniedError: EACCES, the token is missing or wrong; EPERM.
            UnsupportedError: EINVAL, a token for a device that takes none.
            BusyError: EAGAIN, a reset is under way; EBUSY.
        """
        text = name if vf_token is None else f"{name} vf_token={vf_token}"
        try:
            # Mutable, because fcntl returns the buffer and not the fd for an immutable one.
            return self.host.ioctl(
                self.fd, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(text.encode() + b"\0")
            )
        except OSError as error:
            kinds, hint = dict(DEVICE_KINDS), DEVICE_HINTS.get(error.errno or 0)
            if error.errno == errno.EINVAL and vf_token is not None:
                kinds[errno.EINVAL] = UnsupportedError
                hint = "the device takes no VF token: leave vf-token= out"
            raise kernel_error(
                error, "VFIO_GROUP_GET_DEVICE_FD", f"{name} of {self}", kinds=kinds, hint=hint
            ) from error

    def link(self, kvm: KvmLink) -> None:
        """Make the group known to a virtual machine, before any of its devices is opened."""
        kvm.add(self.fd)
        self.kvm = kvm

    def unlink(self) -> None:
        """Take back `link`, while the group is still open."""
        kvm, self.kvm = self.kvm, None
        if kvm is not None:
            kvm.remove(self.fd)

    def close(self) -> None:
        """Close the group; the kernel takes it out of its container if it is in one."""
        try:
            self.host.close(self.fd)
        except OSError as error:
            raise kernel_error(error, "close", str(self)) from error


def open_group(host: Host, number: int, *, allow_noiommu: bool, log: Log) -> LegacyGroup:
    """Open a group's node.

    Raises:
        DeviceNotFoundError: ENOENT or ENODEV, no device of the group is bound to a VFIO driver.
        AccessDeniedError: EACCES, EPERM.
        BusyError: EBUSY, somebody has the group open.
        HostUnsupportedError: EPERM, a group without an IOMMU that was not asked for.
    """
    # The node alone tells: the kernel names the groups of mediated devices "vfio-noiommu" in
    # sysfs too (group.c:vfio_noiommu_group_alloc).
    noiommu = host.exists(f"/dev/vfio/noiommu-{number}")
    node = f"/dev/vfio/noiommu-{number}" if noiommu else f"/dev/vfio/{number}"
    if noiommu:
        _check_noiommu(number, node, log, allowed=allow_noiommu)
    try:
        fd = host.open(node)
    except OSError as error:
        hint = OPEN_HINTS.get(error.errno or 0)
        raise kernel_error(error, "open", node, kinds=OPEN_KINDS, hint=hint) from error
    return LegacyGroup(host=host, number=number, fd=fd, noiommu=noiommu)


OPEN_KINDS: ErrorKinds = {
    errno.ENOENT: DeviceNotFoundError,
    errno.ENODEV: DeviceNotFoundError,
    errno.EACCES: AccessDeniedError,
    errno.EPERM: AccessDeniedError,
    errno.EBUSY: BusyError,
}


def _check_noiommu(number: int, node: str, log: Log, *, allowed: bool) -> None:
    if not allowed:
        raise HostUnsupportedError(
            errno.EPERM,
            "open",
            node,
            f"group {number} is a no-IOMMU group: its device could write anywhere in memory",
            "turn on the IOMMU, or accept it with noiommu=on",
        )
    log.warn_of(
        "legacy.noiommu",
        f"group {number} has no IOMMU: its device can read and write all memory, and maps of"
        " DMA memory are refused",
        group=number,
    )
