"""File offsets, access widths and mappings that vfio-pci and vfio-platform share."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator, Sequence

from vfiocore_sim.device import DeviceMapping
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.ram import RamArea

_OFFSET_SHIFT = 40


def region_offset(index: int) -> int:
    """Where region `index` begins in the device file."""
    return index << _OFFSET_SHIFT


def locate(offset: int) -> tuple[int, int]:
    """Split a file offset into region index and offset in the region, in bytes."""
    return offset >> _OFFSET_SHIFT, offset & ((1 << _OFFSET_SHIFT) - 1)


def access_widths(
    position: int, size: int, hole: range, widest: int = 8
) -> Iterator[tuple[int, int]]:
    """Cut an access into naturally aligned register accesses: ``(offset, bytes)``.

    ``vfio_pci_rdwr.c:vfio_pci_core_do_io_rw``: at most `widest` bytes each; the part inside
    `hole` (the MSI-X table) comes as one piece.
    """
    end = position + size
    while position < end:
        width = _width(position, end, hole, widest)
        yield position, width
        position += width


def _width(position: int, end: int, hole: range, widest: int) -> int:
    if position in hole:
        return min(end, hole.stop) - position
    limit = min(end, hole.start) if position < hole.start else end
    width = widest
    while width > limit - position or position % width:
        width //= 2
    return width


def map_area(
    areas: Sequence[RamArea], length: int, prot: int, flags: int, position: int
) -> DeviceMapping:
    """Map `length` bytes at `position` of a region, where a RAM area covers all of them.

    Raises:
        OSError: EINVAL anywhere else, or off a page boundary.
    """
    if position % mmap.PAGESIZE:
        fail(errno.EINVAL)
    pages = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
    area = next((area for area in areas if _covers(area, position, pages)), None)
    if area is None or not length:
        fail(errno.EINVAL)
    return DeviceMapping(area.fd, length, flags, prot, offset=position - area.offset)


def _covers(area: RamArea, position: int, size: int) -> bool:
    return area.offset <= position and position + size <= area.offset + area.size
