"""/dev/kvm, as far as VFIO needs it: the KVM-VFIO device (virt/kvm/vfio.c)."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING, ClassVar, TypeVar

from vfiocore.uapi.kvm import (
    KVM_API_VERSION,
    KVM_CREATE_DEVICE,
    KVM_CREATE_VM,
    KVM_DEV_TYPE_VFIO,
    KVM_DEV_VFIO_FILE,
    KVM_DEV_VFIO_FILE_ADD,
    KVM_DEV_VFIO_FILE_DEL,
    KVM_GET_API_VERSION,
    KVM_SET_DEVICE_ATTR,
    kvm_create_device,
    kvm_device_attr,
)
from vfiocore_sim.kernel.devicefile import DeviceFile
from vfiocore_sim.kernel.files import OpenFile
from vfiocore_sim.kernel.group import GroupFile
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.user import UserArg
S = TypeVar("S", bound=ctypes.Structure)


class KvmFile(OpenFile):
    """An open /dev/kvm."""

    requests: ClassVar[Mapping[int, str]] = {
        KVM_GET_API_VERSION: "KVM_GET_API_VERSION",
        KVM_CREATE_VM: "KVM_CREATE_VM",
    }

    def __str__(self) -> str:
        return "kvm"

    def ioctl(self, request: int, arg: UserArg) -> int:
        """``kvm_main.c:kvm_dev_ioctl``."""
        if request == KVM_GET_API_VERSION:
            return KVM_API_VERSION
        if request == KVM_CREATE_VM:
            return self.machine.files.install(VmFile(self.machine))
        raise refused(errno.EINVAL)


class VmFile(OpenFile):
    """A virtual machine."""

    requests: ClassVar[Mapping[int, str]] = {KVM_CREATE_DEVICE: "KVM_CREATE_DEVICE"}

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.has_vfio = False

    def __str__(self) -> str:
        return "kvm-vm"

    def ioctl(self, request: int, arg: UserArg) -> int:
        """``kvm_main.c:kvm_vm_ioctl``."""
        if request != KVM_CREATE_DEVICE:
            raise refused(errno.ENOTTY)
        wanted = copied(arg, kvm_create_device)
        if wanted.type != KVM_DEV_TYPE_VFIO:
            raise refused(errno.ENODEV)
        if self.has_vfio:
            raise refused(errno.EBUSY)  # vfio.c:kvm_vfio_create: one for each machine
        wanted.fd = self.machine.files.install(KvmVfioFile(self.machine, self))
        arg.answer(wanted)
        return 0


class KvmVfioFile(OpenFile):
    """The KVM-VFIO pseudo device: the files whose devices the machine uses."""

    requests: ClassVar[Mapping[int, str]] = {KVM_SET_DEVICE_ATTR: "KVM_SET_DEVICE_ATTR"}

    def __init__(self, machine: Machine, virtual_machine: VmFile) -> None:
        super().__init__(machine)
        virtual_machine.hold()
        virtual_machine.has_vfio = True
        self._virtual_machine = virtual_machine
        self._linked: list[GroupFile | DeviceFile] = []

    def __str__(self) -> str:
        return "kvm-vfio"

    def ioctl(self, request: int, arg: UserArg) -> int:
        """``vfio.c:kvm_vfio_set_attr``."""
        if request != KVM_SET_DEVICE_ATTR:
            raise refused(errno.ENOTTY)
        wanted = copied(arg, kvm_device_attr)
        if wanted.group != KVM_DEV_VFIO_FILE:
            raise refused(errno.ENXIO)
        (fd,) = struct.unpack("=i", self.machine.memory.read(wanted.addr, 4))
        if wanted.attr == KVM_DEV_VFIO_FILE_ADD:
            self._add(fd)
        elif wanted.attr == KVM_DEV_VFIO_FILE_DEL:
            self._delete(fd)
        else:
            raise refused(errno.ENXIO)
        return 0

    def _add(self, fd: int) -> None:
        """``vfio.c:kvm_vfio_file_add``."""
        file = self.machine.files.find(fd)
        if not isinstance(file, GroupFile | DeviceFile):
            raise refused(errno.EINVAL)
        if file in self._linked:
            raise refused(errno.EEXIST)
        file.hold()
        file.kvm = self._virtual_machine
        self._linked.append(file)

    def _delete(self, fd: int) -> None:
        """``vfio.c:kvm_vfio_file_del``."""
        file = self.machine.files.find(fd)
        if not isinstance(file, GroupFile | DeviceFile) or file not in self._linked:
            raise refused(errno.ENOENT)
        self._linked.remove(file)
        self._unlink(file)

    @staticmethod
    def _unlink(file: GroupFile | DeviceFile) -> None:
        file.kvm = None
        file.drop()

    def release(self) -> None:
        """``vfio.c:kvm_vfio_release``."""
        while self._linked:
            self._unlink(self._linked.pop())
        self._virtual_machine.has_vfio = False
        self._virtual_machine.drop()


def copied(arg: UserArg, kind: type[S]) -> S:
    """A struct without a size field in front."""
    return kind.from_buffer_copy(arg.read(ctypes.sizeof(kind)))
