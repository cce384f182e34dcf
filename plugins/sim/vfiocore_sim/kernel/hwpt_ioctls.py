"""The page table ioctls of an iommufd (drivers/iommu/iommufd/{hw_pagetable,device}.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore.uapi.iommufd import (
    IOMMU_HW_CAP_DIRTY_TRACKING,
    IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
    IOMMU_HW_INFO_FLAG_INPUT_TYPE,
    IOMMU_HW_INFO_TYPE_DEFAULT,
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_DATA_NONE,
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
    IOMMU_HWPT_FAULT_ID_VALID,
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
    iommu_fault_alloc,
    iommu_hw_info,
    iommu_hwpt_alloc,
    iommu_hwpt_get_dirty_bitmap,
    iommu_hwpt_set_dirty_tracking,
)
from vfiocore_sim.kernel.faultqueue import FaultFile, FaultQueue
from vfiocore_sim.kernel.hwpt import BoundDevice, Hwpt, dirty_bitmap
from vfiocore_sim.kernel.intervals import U64_MAX, Span
from vfiocore_sim.kernel.ioas import Ioas
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.iommu import IommuModel
    from vfiocore_sim.kernel.iommufd import Iommufd

_ALLOC_FLAGS = (
    IOMMU_HWPT_ALLOC_NEST_PARENT
    | IOMMU_HWPT_ALLOC_DIRTY_TRACKING
    | IOMMU_HWPT_FAULT_ID_VALID
    | IOMMU_HWPT_ALLOC_PASID
)


def alloc(context: Iommufd, wanted: iommu_hwpt_alloc) -> None:
    """``hw_pagetable.c:iommufd_hwpt_alloc``: no simulated IOMMU nests."""
    if wanted.flags & ~_ALLOC_FLAGS or wanted.__reserved:
        raise refused(errno.EOPNOTSUPP)
    if (wanted.data_type == IOMMU_HWPT_DATA_NONE) != (wanted.data_len == 0):
        raise refused(errno.EINVAL)
    device = context.find(wanted.dev_id, BoundDevice)
    try:
        parent = context.get(wanted.pt_id)
    except OSError:
        raise refused(errno.EINVAL) from None
    if isinstance(parent, Hwpt) and not wanted.data_len:
        raise refused(errno.EOPNOTSUPP)
    if not isinstance(parent, Ioas):
        # An Hwpt would have to be a nest parent, which none is.
        raise refused(errno.EINVAL)
    _check_abilities(wanted, device.group.iommu)
    faults = _fault_queue(context, wanted)
    hwpt = Hwpt(parent, device.group.iommu, context.machine.page_size, auto=False)
    hwpt.tracks_dirty = bool(wanted.flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    hwpt.for_pasids = bool(wanted.flags & IOMMU_HWPT_ALLOC_PASID)
    hwpt.faults = faults
    parent.add_hwpt(hwpt)
    wanted.out_hwpt_id = context.add(hwpt)


def _check_abilities(wanted: iommu_hwpt_alloc, model: IommuModel) -> None:
    """``hw_pagetable.c:iommufd_hwpt_paging_alloc``, and what the IOMMU's driver says."""
    lacking = IOMMU_HWPT_ALLOC_NEST_PARENT
    if not model.dirty_tracking:
        lacking |= IOMMU_HWPT_ALLOC_DIRTY_TRACKING
    if not model.pasids:
        lacking |= IOMMU_HWPT_ALLOC_PASID
    if wanted.flags & lacking or wanted.data_len:
        raise refused(errno.EOPNOTSUPP)


def _fault_queue(context: Iommufd, wanted: iommu_hwpt_alloc) -> FaultQueue | None:
    if not wanted.flags & IOMMU_HWPT_FAULT_ID_VALID:
        return None
    return context.find(wanted.fault_id, FaultQueue)


def alloc_fault_queue(context: Iommufd, wanted: iommu_fault_alloc) -> None:
    """``eventq.c:iommufd_fault_alloc``."""
    if wanted.flags:
        raise refused(errno.EOPNOTSUPP)
    queue = FaultQueue()
    wanted.out_fault_id = context.add(queue)
    wanted.out_fault_fd = context.machine.files.install(FaultFile(context, queue))


def hw_info(context: Iommufd, wanted: iommu_hw_info) -> None:
    """``device.c:iommufd_get_hw_info``."""
    if wanted.flags & ~IOMMU_HW_INFO_FLAG_INPUT_TYPE or any(wanted.__reserved):
        raise refused(errno.EOPNOTSUPP)
    asked = wanted.in_data_type if wanted.flags & IOMMU_HW_INFO_FLAG_INPUT_TYPE else 0
    device = context.find(wanted.dev_id, BoundDevice)
    model = device.group.iommu
    if asked not in (IOMMU_HW_INFO_TYPE_DEFAULT, model.hw_info_type):
        raise refused(errno.EOPNOTSUPP)
    room = wanted.data_len
    data = model.hw_info_data[:room]
    if room:
        context.machine.memory.write(wanted.data_uptr, data.ljust(room, b"\0"))
    wanted.data_len = len(model.hw_info_data)
    wanted.out_data_type = model.hw_info_type
    wanted.out_max_pasid_log2 = 0
    tracking = IOMMU_HW_CAP_DIRTY_TRACKING if model.dirty_tracking else 0
    # No simulated device has the ATS capability.
    wanted.out_capabilities = tracking | IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED


def set_dirty_tracking(context: Iommufd, wanted: iommu_hwpt_set_dirty_tracking) -> None:
    """``hw_pagetable.c:iommufd_hwpt_set_dirty_tracking``."""
    if wanted.flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE:
        raise refused(errno.EOPNOTSUPP)
    hwpt = context.find(wanted.hwpt_id, Hwpt)
    if not hwpt.tracks_dirty:
        raise refused(errno.EOPNOTSUPP)
    hwpt.tracking = bool(wanted.flags & IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
    if hwpt.tracking:
        hwpt.dirty.clear()


def get_dirty_bitmap(context: Iommufd, wanted: iommu_hwpt_get_dirty_bitmap) -> None:
    """``hw_pagetable.c:iommufd_hwpt_get_dirty_bitmap``: only ever sets bits."""
    if wanted.flags & ~IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or wanted.__reserved:
        raise refused(errno.EOPNOTSUPP)
    hwpt = context.find(wanted.hwpt_id, Hwpt)
    _check_dirty_range(hwpt, wanted)
    if not hwpt.tracks_dirty:
        raise refused(errno.EOPNOTSUPP)
    if not hwpt.tracking:
        return  # the walk's errors are swallowed: nothing is found
    span = Span(wanted.iova, wanted.iova + wanted.length - 1)
    clear = not wanted.flags & IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
    memory = context.machine.memory
    # iova_bitmap.c:iova_bitmap_alloc shifts by the lowest bit of any size.
    page_size = wanted.page_size & -wanted.page_size
    for offset, bits in dirty_bitmap(hwpt, span, page_size, clear=clear).items():
        (before,) = memory.read(wanted.data + offset, 1)
        memory.write(wanted.data + offset, bytes([before | bits]))


def _check_dirty_range(hwpt: Hwpt, wanted: iommu_hwpt_get_dirty_bitmap) -> None:
    """``io_pagetable.c:iommufd_check_iova_range``."""
    # The length less one is counted in 64 bits too: nothing is nearly everything.
    last = wanted.iova + ((wanted.length - 1) & U64_MAX)
    if last > U64_MAX:
        raise refused(errno.EOVERFLOW)
    ends = wanted.iova | (last + 1)
    if ends & (hwpt.ioas.alignment - 1):
        raise refused(errno.EINVAL)
    if not wanted.page_size or ends & (wanted.page_size - 1):
        raise refused(errno.EINVAL)
