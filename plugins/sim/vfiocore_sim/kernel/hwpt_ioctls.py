"""The page table ioctls of an iommufd (drivers/iommu/iommufd/{hw_pagetable,device}.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore.uapi.iommufd import (
    IOMMU_HW_CAP_DIRTY_TRACKING,
    IOMMU_HW_INFO_FLAG_INPUT_TYPE,
    IOMMU_HW_INFO_TYPE_DEFAULT,
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_DATA_NONE,
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
    IOMMU_HWPT_FAULT_ID_VALID,
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
    iommu_hw_info,
    iommu_hwpt_alloc,
    iommu_hwpt_get_dirty_bitmap,
    iommu_hwpt_set_dirty_tracking,
)
from vfiocore_sim.kernel.hwpt import BoundDevice, Hwpt, dirty_bitmap
from vfiocore_sim.kernel.intervals import U64_MAX, Span
from vfiocore_sim.kernel.ioas import Ioas
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.iommufd import Iommufd

_ALLOC_FLAGS = (
    IOMMU_HWPT_ALLOC_NEST_PARENT
    | IOMMU_HWPT_ALLOC_DIRTY_TRACKING
    | IOMMU_HWPT_FAULT_ID_VALID
    | IOMMU_HWPT_ALLOC_PASID
)


def alloc(context: Iommufd, wanted: iommu_hwpt_alloc) -> None:
    """``hw_pagetable.c:iommufd_hwpt_alloc``: no simulated IOMMU nests or takes PASIDs."""
    if wanted.flags & ~_ALLOC_FLAGS or wanted.__reserved or wanted.__reserved2:
        raise refused(errno.EOPNOTSUPP)
    if (wanted.data_type == IOMMU_HWPT_DATA_NONE) != (wanted.data_len == 0):
        raise refused(errno.EINVAL)
    device = context.find(wanted.dev_id, BoundDevice)
    try:
        parent = context.get(wanted.pt_id)
    except OSError:
        raise refused(errno.EINVAL) from None
    if not isinstance(parent, Ioas):
        # An Hwpt would have to be a nest parent, which none is.
        raise refused(errno.EINVAL)
    if wanted.flags & ~IOMMU_HWPT_ALLOC_DIRTY_TRACKING or wanted.data_len:
        raise refused(errno.EOPNOTSUPP)
    tracks = bool(wanted.flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    if tracks and not device.group.iommu.dirty_tracking:
        raise refused(errno.EOPNOTSUPP)
    hwpt = Hwpt(parent, device.group.iommu, context.machine.page_size, auto=False)
    hwpt.tracks_dirty = tracks
    parent.add_hwpt(hwpt)
    wanted.out_hwpt_id = context.add(hwpt)


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
    wanted.out_capabilities = IOMMU_HW_CAP_DIRTY_TRACKING if model.dirty_tracking else 0


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
    for offset, bits in dirty_bitmap(hwpt, span, wanted.page_size, clear=clear).items():
        (before,) = memory.read(wanted.data + offset, 1)
        memory.write(wanted.data + offset, bytes([before | bits]))


def _check_dirty_range(hwpt: Hwpt, wanted: iommu_hwpt_get_dirty_bitmap) -> None:
    """``io_pagetable.c:iommufd_check_iova_range``."""
    if wanted.iova + wanted.length - 1 > U64_MAX:
        raise refused(errno.EOVERFLOW)
    end = wanted.iova + wanted.length
    if (wanted.iova | end) & (hwpt.ioas.alignment - 1):
        raise refused(errno.EINVAL)
    if not wanted.page_size or wanted.iova % wanted.page_size or end % wanted.page_size:
        raise refused(errno.EINVAL)
