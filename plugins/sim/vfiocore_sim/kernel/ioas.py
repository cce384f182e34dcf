"""An IOAS: IOVA space without a page table of its own (drivers/iommu/iommufd/io_pagetable.c)."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import define

from vfiocore_sim.kernel.intervals import EVERYTHING, U64_MAX, IntervalMap, Span, without
from vfiocore_sim.kernel.memory import Chunk
from vfiocore_sim.kernel.translation import Translated, Untranslatable
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.hwpt import Access, Hwpt
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.kernel.pages import Pages

_HUGE = 2 << 20
_UNMAP_RETRIES = 100


@define(eq=False)
class Area:
    """``struct iopt_area``: IOVAs that show part of some pages."""

    iova: int
    length: int
    pages: Pages
    #: Where in the pages the area begins, in bytes.
    offset: int
    read: bool
    write: bool

    @property
    def span(self) -> Span:
        """The IOVAs."""
        return Span(self.iova, self.iova + self.length - 1)


def _fill_domain(area: Area) -> None:
    """``pages.c:iopt_area_fill_domain``: pin, then show it to the IOMMU, which wants access."""
    area.pages.pin(area, area.offset, area.length)
    if not (area.read or area.write):
        area.pages.unpin(area)
        raise refused(errno.EINVAL)


class Ioas:
    """Mappings, and what may not be mapped, of every HWPT and access that hangs on it."""

    def __init__(self, machine: Machine) -> None:
        self.page_size: int = machine.page_size
        self.areas: IntervalMap[Area] = IntervalMap()
        self.allowed: list[Span] = []
        #: IOVAs that nothing may use, by who says so: a device group or an HWPT's aperture.
        self.reserved: dict[object, list[Span]] = {}
        self.hwpts: list[Hwpt] = []
        self.accesses: list[Access] = []
        self.huge_pages: bool = True
        self.alignment: int = 1

    # -- limits ------------------------------------------------------------------------------
    @property
    def _reserved_spans(self) -> list[Span]:
        return [span for spans in self.reserved.values() for span in spans]

    def iova_ranges(self) -> list[Span]:
        """``ioas.c:iommufd_ioas_iova_ranges``: everything but what is reserved."""
        return without([EVERYTHING], self._reserved_spans)

    def reserve(self, owner: object, spans: Sequence[Span]) -> None:
        """``iopt_reserve_iova``: EADDRINUSE when a mapping or the allow-list is in the way."""
        for span in spans:
            if self.areas.meeting(span) or any(span.meets(allowed) for allowed in self.allowed):
                raise refused(errno.EADDRINUSE)
        self.reserved[owner] = list(spans)

    def unreserve(self, owner: object) -> None:
        """``iopt_remove_reserved_iova``."""
        self.reserved.pop(owner, None)

    def allow(self, spans: Sequence[Span]) -> None:
        """``iopt_set_allow_iova``: replace the allow-list."""
        for number, span in enumerate(spans):
            if span.first >= span.last or any(span.meets(other) for other in spans[:number]):
                raise refused(errno.EINVAL)
        for span in spans:
            if any(span.meets(reserved) for reserved in self._reserved_spans):
                raise refused(errno.EADDRINUSE)
        self.allowed = list(spans)

    def _wanted_alignment(self, hwpts: Iterable[Hwpt], accesses: Iterable[Access]) -> int:
        page = self.page_size
        wanted = [hwpt.smallest_page for hwpt in hwpts] + [page for _access in accesses]
        return max([1 if self.huge_pages else page, *wanted])

    def _check_alignment(self, alignment: int) -> None:
        """``iopt_calculate_iova_alignment``: EADDRINUSE when a mapping does not keep to it."""
        if alignment <= self.alignment:
            return
        for area in self.areas:
            start = area.pages.start + area.offset
            if (area.iova | area.length | start) & (alignment - 1):
                raise refused(errno.EADDRINUSE)

    def _settle_alignment(self) -> None:
        self.alignment = self._wanted_alignment(self.hwpts, self.accesses)

    def set_huge_pages(self, *, enabled: bool) -> None:
        """``io_pagetable.c:iopt_disable_large_pages`` and ``iopt_enable_large_pages``."""
        if enabled == self.huge_pages:
            return
        if not enabled:
            if self.hwpts and len(self.areas):
                raise refused(errno.EINVAL)
            self._check_alignment(max(self.alignment, self.page_size))
        self.huge_pages = enabled
        self._settle_alignment()

    # -- users -------------------------------------------------------------------------------
    def add_hwpt(self, hwpt: Hwpt) -> None:
        """``iopt_table_add_domain``: the aperture is reserved around, every area is pinned."""
        self._check_alignment(self._wanted_alignment([*self.hwpts, hwpt], self.accesses))
        self.reserve(hwpt, hwpt.unreachable)
        if not self.hwpts:
            try:
                self._pin_areas()
            except OSError:
                self.unreserve(hwpt)
                raise
        self.hwpts.append(hwpt)
        self._settle_alignment()

    def _pin_areas(self) -> None:
        done: list[Area] = []
        try:
            for area in self.areas:
                _fill_domain(area)
                done.append(area)
        except OSError:
            for area in done:
                area.pages.unpin(area)
            raise

    def remove_hwpt(self, hwpt: Hwpt) -> None:
        """``iopt_table_remove_domain``."""
        self.hwpts.remove(hwpt)
        self.unreserve(hwpt)
        self._settle_alignment()
        if not self.hwpts:
            for area in self.areas:
                area.pages.unpin(area)

    def add_access(self, access: Access) -> None:
        """``iopt_add_access``."""
        self._check_alignment(self._wanted_alignment(self.hwpts, [*self.accesses, access]))
        self.accesses.append(access)
        self._settle_alignment()

    def remove_access(self, access: Access) -> None:
        """``iopt_remove_access``."""
        self.accesses.remove(access)
        self._settle_alignment()

    # -- map ---------------------------------------------------------------------------------
    def place(self, length: int, iova: int | None, address: int) -> int:
        """``iopt_alloc_area_pages``: the IOVA of a new area; `address` is what it shows.

        Raises:
            OSError: EINVAL for length or alignment, or a reserved range; EOVERFLOW when the
                range wraps; EEXIST when a mapping is there; ENOSPC when no hole is large enough.
        """
        if not length or length & (self.alignment - 1):
            raise refused(errno.EINVAL)
        if iova is None:
            return self._find_hole(length, address)
        if iova & (self.alignment - 1):
            raise refused(errno.EINVAL)
        if iova + length - 1 > U64_MAX:
            raise refused(errno.EOVERFLOW)
        span = Span(iova, iova + length - 1)
        if any(span.meets(reserved) for reserved in self._reserved_spans):
            raise refused(errno.EINVAL)
        if self.areas.meeting(span):
            raise refused(errno.EEXIST)
        if address & (self.alignment - 1):
            raise refused(errno.EINVAL)
        return iova

    def _find_hole(self, length: int, address: int) -> int:
        """``iopt_alloc_iova``: the lowest hole that suits the address's alignment."""
        if length >= 1 << 63:
            raise refused(errno.EOVERFLOW)
        page = self.page_size
        alignment = 1 << (length - 1).bit_length()
        if address:
            alignment = min(alignment, address & -address)
        alignment = min(alignment, _HUGE)
        if alignment < self.alignment:
            raise refused(errno.EINVAL)
        below_a_page = address & (page - 1)
        bounds = Span(page, U64_MAX - page)
        candidates = [
            Span(max(span.first, bounds.first), min(span.last, bounds.last))
            for span in self.allowed or [bounds]
            if span.meets(bounds)
        ]
        taken = [area.span for area in self.areas]
        for hole in without(candidates, [*taken, *self._reserved_spans]):
            start = -(-hole.first // alignment) * alignment | below_a_page
            if start >= hole.first and start + length - 1 <= hole.last:
                return start
        raise refused(errno.ENOSPC)

    def insert(self, area: Area) -> None:
        """Put an area in its place, pinned when a page table has to show it."""
        if area.write and not area.pages.writable:
            raise refused(errno.EPERM)
        area.pages.hold()
        if self.hwpts:
            try:
                _fill_domain(area)
            except OSError:
                area.pages.drop()
                raise
        self.areas.insert(area)

    def pieces(self, iova: int, length: int) -> list[tuple[Area, int, int]]:
        """``iopt_get_pages``: the areas behind a range, each with offset and length of its part.

        Raises:
            OSError: EINVAL for length 0, EOVERFLOW, ENOENT when part of the range is not mapped.
        """
        if not length:
            raise refused(errno.EINVAL)
        if iova + length - 1 > U64_MAX:
            raise refused(errno.EOVERFLOW)
        try:
            return self._walk(iova, length)
        except Untranslatable:
            raise refused(errno.ENOENT) from None

    def _walk(self, iova: int, length: int) -> list[tuple[Area, int, int]]:
        pieces = []
        end = iova + length
        while iova < end:
            area = self.areas.at(iova)
            if area is None:
                raise Untranslatable(f"iova {iova:#x} is not mapped")
            size = min(end, area.span.last + 1) - iova
            pieces.append((area, area.offset + iova - area.iova, size))
            iova += size
        return pieces

    # -- unmap -------------------------------------------------------------------------------
    def unmap(self, span: Span) -> int:
        """``iopt_unmap_iova_range``: bytes removed; what lies before an area that is cut is gone.

        Raises:
            OSError: ENOENT for an area that crosses an end; EDEADLK when a driver keeps its pins.
        """
        removed = 0
        for area in self.areas.meeting(span):
            if not span.covers(area.span):
                raise refused(errno.ENOENT)
            self._ask_accesses_to_unpin(area)
            self.remove(area)
            removed += area.length
        return removed

    def _ask_accesses_to_unpin(self, area: Area) -> None:
        for _attempt in range(_UNMAP_RETRIES):
            holders = [access for access in self.accesses if access.pins(area)]
            if not holders:
                return
            for access in holders:
                access.notify(area.iova, area.length)
        raise refused(errno.EDEADLK)

    def remove(self, area: Area) -> None:
        """Take an area out and give its pins back."""
        self.areas.remove(area)
        area.pages.unpin(area)
        area.pages.drop()

    def split_behind(self, last: int) -> None:
        """``iopt_area_split``: an area ends with the address `last`, and another begins there."""
        area = self.areas.at(last)
        if area is None or last in (area.iova, area.span.last):
            return
        iova = last + 1
        head = iova - area.iova
        if (iova | area.pages.start + area.offset + head) & (self.alignment - 1):
            raise refused(errno.EINVAL)
        tail = Area(iova, area.length - head, area.pages, area.offset + head, area.read, area.write)
        self.areas.remove(area)
        area.pages.unpin(area)
        area.length = head
        area.pages.hold()
        for part in (area, tail):
            if self.hwpts:
                _fill_domain(part)
            self.areas.insert(part)

    # -- DMA ---------------------------------------------------------------------------------
    def entries(self) -> Iterator[Translated]:
        """The areas, but for those of which a device took its memory back."""
        for area in self.areas:
            if not area.pages.revoked:
                yield Translated(area.iova, area.length, area.read, area.write)

    def translate(self, iova: int, size: int, *, write: bool) -> list[Chunk]:
        """What a page table filled from these areas lets through."""
        chunks = []
        for area, offset, length in self._walk(iova, size):
            if not (area.write if write else area.read):
                access = "write" if write else "read"
                raise Untranslatable(f"no {access} permission in the mapping at {area.iova:#x}")
            if area.pages.revoked:
                raise Untranslatable(f"the dma-buf at {area.iova:#x} was revoked")
            chunks.append(area.pages.chunk(offset, length))
        return chunks
