"""An iommufd in the place of a container (drivers/iommu/iommufd/vfio_compat.c)."""

from __future__ import annotations

import ctypes
import errno
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from vfiocore.uapi.iommufd import (
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    IOMMU_VFIO_IOAS_CLEAR,
    IOMMU_VFIO_IOAS_GET,
    IOMMU_VFIO_IOAS_SET,
    iommu_vfio_ioas,
)
from vfiocore.uapi.vfio import (
    VFIO_API_VERSION,
    VFIO_CHECK_EXTENSION,
    VFIO_DMA_CC_IOMMU,
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_GET_API_VERSION,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_IOMMU_UNMAP_DMA,
    VFIO_NOIOMMU_IOMMU,
    VFIO_SET_IOMMU,
    VFIO_TYPE1_IOMMU,
    VFIO_UNMAP_ALL,
    VFIO_TYPE1v2_IOMMU,
    vfio_info_cap_header,
    vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info,
    vfio_iommu_type1_info_cap_iova_range,
    vfio_iommu_type1_info_dma_avail,
    vfio_iova_range,
)
from vfiocore_sim.capchain import chained
from vfiocore_sim.kernel import ioas_ioctls
from vfiocore_sim.kernel.intervals import EVERYTHING, U64_MAX
from vfiocore_sim.kernel.ioas import Ioas
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.iommufd import Iommufd
    from vfiocore_sim.user import UserArg

REQUESTS = {
    VFIO_GET_API_VERSION: "VFIO_GET_API_VERSION",
    VFIO_CHECK_EXTENSION: "VFIO_CHECK_EXTENSION",
    VFIO_SET_IOMMU: "VFIO_SET_IOMMU",
    VFIO_IOMMU_GET_INFO: "VFIO_IOMMU_GET_INFO",
    VFIO_IOMMU_MAP_DMA: "VFIO_IOMMU_MAP_DMA",
    VFIO_IOMMU_UNMAP_DMA: "VFIO_IOMMU_UNMAP_DMA",
}
_INFO_MINIMUM = 16
_ACCESS_FLAGS = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE
_UNLIMITED = 0xFFFFFFFF


def ioctl(context: Iommufd, request: int, arg: UserArg) -> int:
    """``iommufd_vfio_ioctl``."""
    if request == VFIO_GET_API_VERSION:
        return VFIO_API_VERSION
    if request == VFIO_CHECK_EXTENSION:
        return _check_extension(context, arg.value)
    if request == VFIO_SET_IOMMU:
        return _set_iommu(context, arg.value)
    if request == VFIO_IOMMU_GET_INFO:
        return _get_info(context.compat(), arg)
    if request == VFIO_IOMMU_MAP_DMA:
        return _map(context, arg)
    if request == VFIO_IOMMU_UNMAP_DMA:
        return _unmap(context, arg)
    raise refused(errno.ENOTTY)


def vfio_ioas(context: Iommufd, wanted: iommu_vfio_ioas) -> None:
    """``iommufd_vfio_ioas``: which IOAS the container ioctls work on."""
    if wanted.__reserved:
        raise refused(errno.EOPNOTSUPP)
    if wanted.op == IOMMU_VFIO_IOAS_GET:
        wanted.ioas_id = context.compat_ioas_id()
    elif wanted.op == IOMMU_VFIO_IOAS_SET:
        context.compat_ioas = context.find(wanted.ioas_id, Ioas)
    elif wanted.op == IOMMU_VFIO_IOAS_CLEAR:
        context.compat_ioas = None
    else:
        raise refused(errno.EOPNOTSUPP)


def _check_extension(context: Iommufd, extension: int) -> int:
    """``iommufd_vfio_check_extension``."""
    if extension in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL):
        return int(not context.noiommu)
    if extension == VFIO_NOIOMMU_IOMMU:
        return int(context.machine.has("VFIO_NOIOMMU_IOMMU"))
    if extension == VFIO_DMA_CC_IOMMU:
        return int(all(hwpt.model.enforces_coherency for hwpt in context.compat().hwpts))
    return 0


def _set_iommu(context: Iommufd, kind: int) -> int:
    """``iommufd_vfio_set_iommu``; version 1 splits mappings, so it gives up large pages."""
    if context.noiommu and kind == VFIO_NOIOMMU_IOMMU:
        return 0
    if context.noiommu or kind not in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU):
        raise refused(errno.EINVAL)
    ioas = context.compat()
    if kind == VFIO_TYPE1_IOMMU:
        ioas.set_huge_pages(enabled=False)
    return 0


def _get_info(ioas: Ioas, arg: UserArg) -> int:
    """``iommufd_vfio_iommu_get_info``: argsz always comes back as what everything takes."""
    info = arg.struct(vfio_iommu_type1_info, _INFO_MINIMUM)
    room = info.argsz
    chain = chained(_capabilities(ioas), ctypes.sizeof(info))
    info.argsz = ctypes.sizeof(info) + len(chain)
    info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS
    info.iova_pgsizes = _page_sizes(ioas)
    info.cap_offset = 0
    if room >= info.argsz:
        info.cap_offset = ctypes.sizeof(info)
        arg.write(chain, ctypes.sizeof(info))
    arg.answer(info, min(room, ctypes.sizeof(info)))
    return 0


def _page_sizes(ioas: Ioas) -> int:
    """``iommufd_get_pagesizes``: what all page tables have; at least a page of the CPU's."""
    common = reduce(and_, (hwpt.page_sizes for hwpt in ioas.hwpts), U64_MAX)
    smaller = common & (ioas.page_size - 1)
    return (common & ~(ioas.page_size - 1)) | (ioas.page_size if smaller else 0)


def _capabilities(ioas: Ioas) -> list[ctypes.Structure | bytes]:
    available = vfio_iommu_type1_info_dma_avail(
        header=vfio_info_cap_header(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1), avail=_UNLIMITED
    )
    usable = ioas.iova_ranges()
    ranges = vfio_iommu_type1_info_cap_iova_range(
        header=vfio_info_cap_header(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1), nr_iovas=len(usable)
    )
    spans = b"".join(bytes(vfio_iova_range(span.first, span.last)) for span in usable)
    return [available, bytes(ranges) + spans]


def _map(context: Iommufd, arg: UserArg) -> int:
    """``iommufd_vfio_map_dma``."""
    wanted = arg.struct(vfio_iommu_type1_dma_map)
    if wanted.flags & ~_ACCESS_FLAGS:
        raise refused(errno.EINVAL)
    ioas = context.compat()
    flags = IOMMU_IOAS_MAP_FIXED_IOVA
    if wanted.flags & VFIO_DMA_MAP_FLAG_READ:
        flags |= IOMMU_IOAS_MAP_READABLE
    if wanted.flags & VFIO_DMA_MAP_FLAG_WRITE:
        flags |= IOMMU_IOAS_MAP_WRITEABLE
    ioas_ioctls.map_user(context, ioas, flags, wanted.vaddr, wanted.size, wanted.iova)
    return 0


def _unmap(context: Iommufd, arg: UserArg) -> int:
    """``iommufd_vfio_unmap_dma``: the size is written back also when the unmap failed."""
    wanted = arg.struct(vfio_iommu_type1_dma_unmap)
    if wanted.flags & ~VFIO_DMA_UNMAP_FLAG_ALL:
        raise refused(errno.EINVAL)
    ioas = context.compat()
    everything = bool(wanted.flags & VFIO_DMA_UNMAP_FLAG_ALL)
    if everything and (wanted.iova or wanted.size):
        raise refused(errno.EINVAL)
    if not (everything or ioas.huge_pages):
        _split_at_ends(ioas, wanted.iova, wanted.size)
    iova, size, wanted.size = wanted.iova, wanted.size, 0
    try:
        span = EVERYTHING if everything else ioas_ioctls.checked_span(iova, size)
        wanted.size = ioas.unmap(span)
    finally:
        arg.answer(wanted)
    return 0


def _split_at_ends(ioas: Ioas, iova: int, size: int) -> None:
    """``io_pagetable.c:iopt_cut_iova``: version 1 lets an unmap cut a mapping."""
    ioas.split_behind((iova + size - 1) & U64_MAX)
    if iova:
        ioas.split_behind(iova - 1)
