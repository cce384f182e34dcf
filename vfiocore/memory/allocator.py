"""Finding IOVAs that nothing uses yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from vfiocore.memory.mapping import DmaMapping
from vfiocore.memory.ranges import IOVA_LIMIT, IovaRange, normalise

_MOST_HINTS = 64


class NoIovaLeft(LookupError):  # noqa: N818 - reads as the fact it is
    """No free range of the size exists where it was asked for."""


class Taken(Protocol):
    """What the allocator asks of a `MappingTable`."""

    def overlapping(self, iova: int, size: int) -> DmaMapping | None:
        """The highest mapping that shares a byte with the range."""


class IovaAllocator:
    """First fit: the lowest free IOVAs, so that page tables stay small and low buses are served.

    Where the last search for a size and alignment ended is remembered, and the next one goes on
    from there, because all below was full. `freed` keeps this true. Addresses that became free
    without a word are found only once nothing higher is left.
    """

    def __init__(self) -> None:
        # (size, align) → nothing of this kind is free below.
        self._hints: dict[tuple[int, int], int] = {}
        self._lowest_freed: int | None = None

    def allocate(
        self,
        size: int,
        *,
        align: int,
        below: int | None = None,
        ranges: Sequence[IovaRange],
        taken: Taken,
    ) -> int:
        """The lowest IOVA with `size` free bytes; it stays free until it is in `taken`.

        Args:
            size: In bytes, at least 1.
            align: The result is a multiple of it: a power of two, at least the IOMMU's page size.
                The result is never below it: zero is what a device uses whose address register
                was never written, and should fault.
            below: All bytes are below this address, for devices with few address lines: ``1 << 32``.
            ranges: The usable IOVA ranges of the container.
            taken: Its mappings.

        Raises:
            ValueError: `size` or `align` cannot be.
            NoIovaLeft: Nothing is free there.
        """
        if size <= 0:
            raise ValueError(f"a size of {size} bytes")
        if align <= 0 or align & (align - 1):
            raise ValueError(f"an alignment of {align} is no power of two")
        self._lower_hints()
        limit = IOVA_LIMIT if below is None else min(below, IOVA_LIMIT)
        key = (size, align)
        hint = max(self._hints.get(key, 0), align)
        iova = _first_fit(size, align, hint, limit, ranges, taken)
        if iova is None and hint > align:
            iova = _first_fit(size, align, align, limit, ranges, taken)
        if iova is None:
            raise NoIovaLeft(_no_room(size, align, below, ranges))
        if len(self._hints) >= _MOST_HINTS and key not in self._hints:
            self._hints.clear()
        self._hints[key] = iova
        return iova

    def freed(self, iova: int) -> None:
        """Tell that the mapping at `iova` is gone, so that its addresses are given first again.

        After several at once, the lowest of them is enough.
        """
        if self._lowest_freed is None or iova < self._lowest_freed:
            self._lowest_freed = iova

    def reset(self) -> None:
        """Tell that the usable ranges have grown, or that every mapping is gone."""
        self._hints.clear()
        self._lowest_freed = None

    def _lower_hints(self) -> None:
        if self._lowest_freed is None:
            return
        for (size, align), hint in self._hints.items():
            # Room that was not there before has a byte of what was freed in it.
            self._hints[size, align] = min(hint, self._lowest_freed - size + 1)
        self._lowest_freed = None


def _first_fit(
    size: int, align: int, start: int, limit: int, ranges: Iterable[IovaRange], taken: Taken
) -> int | None:
    for usable in normalise(ranges):
        last = min(usable.last, limit - 1)
        iova = _round_up(max(usable.start, start), align)
        while iova + size - 1 <= last:
            in_the_way = taken.overlapping(iova, size)
            if in_the_way is None:
                return iova
            iova = _round_up(in_the_way.iova + in_the_way.size, align)
    return None


def _round_up(value: int, align: int) -> int:
    return (value + align - 1) & -align


def _no_room(size: int, align: int, below: int | None, ranges: Sequence[IovaRange]) -> str:
    where = ", ".join(map(str, ranges)) or "no range at all"
    bound = "" if below is None else f" below {below:#x}"
    return f"no {size:#x} bytes aligned to {align:#x} are free{bound} in {where}"
