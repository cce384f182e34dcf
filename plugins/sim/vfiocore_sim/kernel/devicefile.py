"""An open device: through its group, or as a character device (vfio_main.c, device_cdev.c)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, ClassVar

from vfiocore.uapi import vfio
from vfiocore.uapi.vfio import (
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_DEVICE_ATTACH_PASID,
    VFIO_DEVICE_BIND_FLAG_TOKEN,
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_DETACH_IOMMUFD_PT,
    VFIO_DEVICE_DETACH_PASID,
    vfio_device_attach_iommufd_pt,
    vfio_device_bind_iommufd,
    vfio_device_detach_iommufd_pt,
)
from vfiocore_sim.kernel.files import OpenFile
from vfiocore_sim.kernel.hwpt import BoundDevice
from vfiocore_sim.kernel.iommufd import Iommufd
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping

    from vfiocore_sim.kernel.group import GroupFile
    from vfiocore_sim.kernel.hwpt import Attachment
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.kernel.node import Node
    from vfiocore_sim.kernel.translation import Translation
    from vfiocore_sim.user import UserArg

_REQUESTS = (
    "VFIO_DEVICE_GET_INFO",
    "VFIO_DEVICE_GET_REGION_INFO",
    "VFIO_DEVICE_GET_IRQ_INFO",
    "VFIO_DEVICE_SET_IRQS",
    "VFIO_DEVICE_RESET",
    "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
    "VFIO_DEVICE_PCI_HOT_RESET",
    "VFIO_DEVICE_IOEVENTFD",
    "VFIO_DEVICE_FEATURE",
    "VFIO_DEVICE_BIND_IOMMUFD",
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
    "VFIO_DEVICE_DETACH_IOMMUFD_PT",
)
_BIND_MINIMUM = 16
_ATTACH_MINIMUM = 12
_DETACH_MINIMUM = 8
_TOKEN_SIZE = 16


class DeviceFile(OpenFile):
    """``struct vfio_device_file``: until access is granted, a cdev answers BIND only."""

    requests: ClassVar[Mapping[int, str]] = {getattr(vfio, name): name for name in _REQUESTS}

    def __init__(self, machine: Machine, node: Node, *, rdev: int = 0) -> None:
        """``device_cdev.c:vfio_device_fops_cdev_open``; the group's way ends here too."""
        super().__init__(machine, rdev=rdev)
        self.node = node
        node.files += 1
        self.granted: bool = False
        self.kvm: object | None = None
        self._group_file: GroupFile | None = None
        self._blocks_group = False
        self._attachment: Attachment | None = None

    def __str__(self) -> str:
        return f"device {self.node.name}"

    # -- through the group -------------------------------------------------------------------
    def open_through_group(self, group_file: GroupFile) -> None:
        """``group.c:vfio_df_group_open``."""
        if group_file.container is None and group_file.iommufd is None:
            raise refused(errno.EINVAL)
        if group_file.iommufd is not None:
            self._open_on_iommufd(group_file, group_file.iommufd)
        else:
            self._open_on_container(group_file)
        group_file.hold()
        self._group_file = group_file
        self.granted = True

    def _open_on_container(self, group_file: GroupFile) -> None:
        """``container.c:vfio_device_group_use_iommu``."""
        container = group_file.container
        if container is None or container.backend is None:
            raise refused(errno.EINVAL)
        self.node.open(group_file.kvm)
        group_file.container_users += 1
        self.node.opened_by_cdev = False
        self.node.translation = lambda: container.translation

    def _open_on_iommufd(self, group_file: GroupFile, iommufd: Iommufd) -> None:
        """``iommufd.c:vfio_df_iommufd_bind`` and ``vfio_iommufd_compat_attach_ioas``."""
        node = self.node
        if node.open_count:
            node.open(None)
            return
        if group_file.group.noiommu:
            if iommufd.compat_ioas is not None:
                raise refused(errno.EPERM)
            node.open(group_file.kvm)
            physical = self.machine.physical
            node.translation = lambda: physical
            return
        attachment = iommufd.bind(node)
        try:
            node.open(group_file.kvm)
        except OSError:
            attachment.unbind()
            raise
        try:
            attachment.attach(iommufd.compat_ioas_id())
        except OSError:
            node.close()
            attachment.unbind()
            raise
        self._bound(attachment)

    def _bound(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self.node.attachment = attachment
        self.node.translation = lambda: attachment.translation

    # -- ioctls ------------------------------------------------------------------------------
    def ioctl(self, request: int, arg: UserArg) -> int:
        """``vfio_main.c:vfio_device_fops_unl_ioctl``."""
        if request == VFIO_DEVICE_BIND_IOMMUFD:
            return self._bind(arg)
        self._check_access()
        if self._group_file is None:
            if request == VFIO_DEVICE_ATTACH_IOMMUFD_PT:
                return self._attach(arg)
            if request == VFIO_DEVICE_DETACH_IOMMUFD_PT:
                return self._detach(arg)
        return self.node.vfio_program().ioctl(request, arg)

    def _check_access(self) -> None:
        if not self.granted:
            raise refused(errno.EINVAL)

    def _bind(self, arg: UserArg) -> int:
        """``device_cdev.c:vfio_df_ioctl_bind_iommufd``, checks in their order."""
        wanted = self._bind_argument(arg)
        if wanted.iommufd < 0 or wanted.flags & ~VFIO_DEVICE_BIND_FLAG_TOKEN:
            raise refused(errno.EINVAL)
        group = self.node.group
        if self._group_file is not None or (group and group.file is not None):
            raise refused(errno.EINVAL if self._group_file else errno.EBUSY)
        if self.granted:
            raise refused(errno.EINVAL)
        token = None
        if wanted.flags & VFIO_DEVICE_BIND_FLAG_TOKEN:
            token = self.machine.memory.read(wanted.token_uuid_ptr, _TOKEN_SIZE)
        self.node.vfio_program().token_check(None, token)
        iommufd = self.machine.files.find(wanted.iommufd)
        if not isinstance(iommufd, Iommufd):
            raise refused(errno.EBADFD)
        if self.node.open_count:
            raise refused(errno.EINVAL)
        self._open_on_cdev(iommufd)
        wanted.out_devid = self.node.attachment.ident if self.node.attachment else 0
        arg.answer(wanted, min(wanted.argsz, ctypes.sizeof(wanted)))
        return 0

    @staticmethod
    def _bind_argument(arg: UserArg) -> vfio_device_bind_iommufd:
        (argsz,) = memoryview(arg.read(4)).cast("I")
        if argsz < _BIND_MINIMUM:
            raise refused(errno.EINVAL)
        wanted = arg.sized(vfio_device_bind_iommufd, _BIND_MINIMUM)
        wanted.argsz = argsz
        return wanted

    def _open_on_cdev(self, iommufd: Iommufd) -> None:
        """``vfio_main.c:vfio_df_open``."""
        attachment = iommufd.bind(self.node)
        try:
            self.node.open(self.kvm)
        except OSError:
            attachment.unbind()
            raise
        group = self.node.group
        assert group is not None  # without one a device has no cdev
        group.cdev_binds += 1
        self._blocks_group = True
        self.node.opened_by_cdev = True
        self._bound(attachment)
        self.granted = True

    def _attach(self, arg: UserArg) -> int:
        """``device_cdev.c:vfio_df_ioctl_attach_pt``."""
        wanted = arg.struct(vfio_device_attach_iommufd_pt, _ATTACH_MINIMUM)
        if wanted.flags & ~VFIO_DEVICE_ATTACH_PASID:
            raise refused(errno.EINVAL)
        attachment = self._granted_attachment()
        if wanted.flags & VFIO_DEVICE_ATTACH_PASID:
            device, pasid = self._pasid(arg, wanted)
            wanted.pt_id = device.attach_pasid(pasid, wanted.pt_id)
            arg.answer(wanted, _ATTACH_MINIMUM)
            return 0
        wanted.pt_id = attachment.attach(wanted.pt_id)
        try:
            arg.answer(wanted, _ATTACH_MINIMUM)
        except OSError:
            attachment.detach()
            raise
        return 0

    def _detach(self, arg: UserArg) -> int:
        """``device_cdev.c:vfio_df_ioctl_detach_pt``: succeeds also when nothing is attached."""
        wanted = arg.struct(vfio_device_detach_iommufd_pt, _DETACH_MINIMUM)
        if wanted.flags & ~VFIO_DEVICE_DETACH_PASID:
            raise refused(errno.EINVAL)
        if wanted.flags & VFIO_DEVICE_DETACH_PASID:
            device, pasid = self._pasid(arg, wanted)
            device.detach_pasid(pasid)
            return 0
        self._granted_attachment().detach()
        return 0

    def _pasid(
        self,
        arg: UserArg,
        wanted: vfio_device_attach_iommufd_pt | vfio_device_detach_iommufd_pt,
    ) -> tuple[BoundDevice, int]:
        """The device, and the last word of the struct, which older callers do not have."""
        attachment = self._granted_attachment()
        able = self.node.vfio_program().attaches_pasids
        if not (able and isinstance(attachment, BoundDevice)):
            raise refused(errno.EOPNOTSUPP)
        return attachment, int(arg.struct(type(wanted)).pasid)

    def _granted_attachment(self) -> Attachment:
        assert self._attachment is not None  # access to a cdev is granted by binding it
        return self._attachment

    # -- access ------------------------------------------------------------------------------
    def pread(self, size: int, offset: int) -> bytes:
        """``vfio_main.c:vfio_device_fops_read``."""
        self._check_access()
        return self.node.vfio_program().pread(size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        """``vfio_main.c:vfio_device_fops_write``."""
        self._check_access()
        return self.node.vfio_program().pwrite(data, offset)

    def mmap(self, length: int, prot: int, flags: int, offset: int) -> mmap.mmap:
        """``vfio_main.c:vfio_device_fops_mmap``."""
        self._check_access()
        return self.node.vfio_program().mmap(length, prot, flags, offset)

    # -- close -------------------------------------------------------------------------------
    def release(self) -> None:
        """``vfio_main.c:vfio_device_fops_release``: driver close, detach, unbind, in this order."""
        if self.granted:
            self._close()
        self.node.files -= 1
        self.machine.device_closed()

    def _close(self) -> None:
        node = self.node
        last = node.open_count == 1
        # The attachment belongs to the device, which every file of it shares.
        attachment = node.attachment if last else None
        node.close()
        if attachment is not None:
            attachment.detach()
            attachment.unbind()
        if last:
            node.attachment = None
            node.translation = no_translation
        if self._group_file is not None:
            if self._group_file.container is not None:
                self._group_file.container_users -= 1
            self._group_file.drop()
        if self._blocks_group and node.group is not None:
            node.group.cdev_binds -= 1
        self.granted = False


def no_translation() -> Translation | None:
    """Where a closed device's DMA goes: nowhere."""
    return None
