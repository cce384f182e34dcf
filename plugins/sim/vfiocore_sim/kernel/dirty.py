"""Dirty pages of a type1 container (``vfio_iommu_type1.c:vfio_iommu_type1_dirty_pages``)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from vfiocore.uapi.vfio import (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    vfio_bitmap,
    vfio_iommu_type1_dirty_bitmap,
    vfio_iommu_type1_dirty_bitmap_get,
)
from vfiocore_sim.kernel.intervals import U64_MAX, Span
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.type1 import Mapping, Type1
    from vfiocore_sim.user import UserArg

MAXIMUM_BITMAP = 256 << 20
"""Bytes of bitmap that one request may ask for (``DIRTY_BITMAP_SIZE_MAX``)."""

_WORD_BITS = 64
_USER_END = 1 << 63
_FLAGS = (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
)


def dirty_pages(backend: Type1, arg: UserArg) -> int:
    """START, STOP or GET_BITMAP."""
    if not backend.v2:
        raise refused(errno.EACCES)
    wanted = arg.struct(vfio_iommu_type1_dirty_bitmap)
    if wanted.flags not in _FLAGS:
        raise refused(errno.EINVAL)
    if wanted.flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
        return _get_bitmap(backend, arg, wanted)
    start = wanted.flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_START
    if start != backend.logging:
        for mapping in backend.maps:
            mapping.dirty = mapping.pinned_pages() if start else set()
    backend.logging = start
    return 0


def check_bitmap(bitmap: vfio_bitmap, size: int) -> None:
    """``vfio_iommu_type1.c:verify_bitmap_size``, after the page size that the shift needs."""
    if not bitmap.pgsize or bitmap.data + bitmap.size > _USER_END:
        raise refused(errno.EINVAL)
    pages = size // (bitmap.pgsize & -bitmap.pgsize)
    needed = -(-pages // _WORD_BITS) * 8
    if not pages or not bitmap.size or bitmap.size > MAXIMUM_BITMAP or bitmap.size < needed:
        raise refused(errno.EINVAL)


def _get_bitmap(backend: Type1, arg: UserArg, header: vfio_iommu_type1_dirty_bitmap) -> int:
    start = ctypes.sizeof(header)
    if header.argsz < start + ctypes.sizeof(vfio_iommu_type1_dirty_bitmap_get):
        raise refused(errno.EINVAL)
    raw = arg.read(ctypes.sizeof(vfio_iommu_type1_dirty_bitmap_get), start)
    wanted = vfio_iommu_type1_dirty_bitmap_get.from_buffer_copy(raw)
    if not wanted.size:
        raise refused(errno.EINVAL)
    if wanted.iova + wanted.size - 1 > U64_MAX:
        raise refused(errno.EOVERFLOW)
    check_bitmap(wanted.bitmap, wanted.size)
    page = backend.smallest_page
    if wanted.bitmap.pgsize != page or (wanted.iova | wanted.size) & (page - 1):
        raise refused(errno.EINVAL)
    span = Span(wanted.iova, wanted.iova + wanted.size - 1)
    met = backend.maps.meeting(span)
    if not backend.logging or any(not span.covers(mapping.span) for mapping in met):
        raise refused(errno.EINVAL)
    for mapping in met:
        report(backend, mapping, wanted.iova, wanted.bitmap)
        mapping.dirty = mapping.pinned_pages()
    return 0


def report(backend: Type1, mapping: Mapping, base: int, bitmap: vfio_bitmap) -> None:
    """``update_user_bitmap``: a mapping's pages, as bits that count from the iova `base`.

    Whole little-endian words are written, and bits behind the mapping in its last word become 0. A
    first word that begins before the mapping keeps all of its bits.
    """
    page = backend.smallest_page
    offset = (mapping.iova - base) // page
    pages = mapping.size // page
    first_word, shift = divmod(offset, _WORD_BITS)
    words = -(-(shift + pages) // _WORD_BITS)
    address = bitmap.data + first_word * 8
    bits = 0
    if shift:
        bits = int.from_bytes(backend.machine.memory.read(address, 8), "little")
    if mapping.pinned:  # by an IOMMU that cannot tell what was written (num_non_pinned_groups)
        bits |= ((1 << pages) - 1) << shift
    else:
        for iova in mapping.dirty:
            bits |= 1 << (shift + (iova - mapping.iova) // page)
    backend.machine.memory.write(address, bits.to_bytes(words * 8, "little"))
