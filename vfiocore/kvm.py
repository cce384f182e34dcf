"""KVM's list of assigned files, which some drivers insist on (vfio-ap) and others profit from.

Source: KVM_DEV_TYPE_VFIO (Linux 3.13), KVM_DEV_VFIO_FILE (6.6; groups only before).
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, Self

from attrs import define, field

from vfiocore.errors import ClosedError, UnsupportedError, kernel_error
from vfiocore.uapi import kvm
from vfiocore.undo import UndoStack

if TYPE_CHECKING:
    from vfiocore.host import Host

KVM_NODE = "/dev/kvm"

KINDS = {errno.ENODEV: UnsupportedError, errno.ENXIO: UnsupportedError}
"""KVM without its VFIO device says ENODEV, a KVM-VFIO device without an attribute ENXIO."""


@define(eq=False)
class KvmLink:
    """A KVM-VFIO device: files that are added to it belong to its virtual machine.

    Attributes:
        host: The host that the fd belongs to.
        fd: The fd of the KVM-VFIO device.
    """

    host: Host = field(repr=False)
    fd: int
    _undo: UndoStack = field(factory=UndoStack, repr=False)
    _closed: bool = field(default=False, init=False)

    @classmethod
    def create(cls, host: Host) -> Self:
        """Make an empty virtual machine just for the link, where no embedder brings its own.

        Raises:
            KernelError: /dev/kvm is missing or not accessible.
        """
        with UndoStack() as undo:
            system = _open(host)
            undo.push(_close, host, system, KVM_NODE)
            machine = _ioctl(host, system, "KVM_CREATE_VM", kvm.KVM_CREATE_VM, 0)
            undo.push(_close, host, machine, "KVM virtual machine")
            request = kvm.kvm_create_device(type=kvm.KVM_DEV_TYPE_VFIO)
            _ioctl(host, machine, "KVM_CREATE_DEVICE", kvm.KVM_CREATE_DEVICE, request)
            undo.push(_close, host, request.fd, "KVM-VFIO device")
            return cls(host, int(request.fd), undo)

    def add(self, fd: int) -> None:
        """Add a group or a device cdev: KVM_DEV_VFIO_FILE_ADD.

        Raises:
            KernelError: EEXIST, it is there already; EINVAL, the fd is no VFIO file.
        """
        self._set(kvm.KVM_DEV_VFIO_FILE_ADD, fd)

    def remove(self, fd: int) -> None:
        """Remove what `add` added, while its fd is still open: KVM_DEV_VFIO_FILE_DEL."""
        self._set(kvm.KVM_DEV_VFIO_FILE_DEL, fd)

    def close(self) -> None:
        """Close what `create` opened; an fd that was passed in stays open. Idempotent."""
        self._closed = True
        self._undo.run()

    def _set(self, attribute: int, fd: int) -> None:
        if self._closed:
            raise ClosedError("the link to KVM is closed")
        value = ctypes.c_int32(fd)
        request = kvm.kvm_device_attr(
            group=kvm.KVM_DEV_VFIO_FILE, attr=attribute, addr=ctypes.addressof(value)
        )
        _ioctl(self.host, self.fd, "KVM_SET_DEVICE_ATTR", kvm.KVM_SET_DEVICE_ATTR, request)


def _open(host: Host) -> int:
    try:
        return host.open(KVM_NODE)
    except OSError as error:
        raise kernel_error(
            error,
            "open",
            KVM_NODE,
            hint="this kind of device only opens for a virtual machine: enable KVM,"
            " or pass the KVM-VFIO device of yours (kvm_fd=)",
        ) from error


def _ioctl(host: Host, fd: int, name: str, request: int, arg: ctypes.Structure | int) -> int:
    try:
        return host.ioctl(fd, request, arg)
    except OSError as error:
        raise kernel_error(error, name, "KVM", kinds=KINDS) from error


def _close(host: Host, fd: int, subject: str) -> None:
    try:
        host.close(fd)
    except OSError as error:
        raise kernel_error(error, "close", subject) from error
