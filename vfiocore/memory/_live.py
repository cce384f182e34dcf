"""The flat view of a tree that changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from vfiocore.memory._chunks import SortedChunks
from vfiocore.memory.flatview import (
    Difference,
    FlatRange,
    FlatView,
    Part,
    compare,
    flatten,
    joined,
    render,
)
from vfiocore.memory.region import MemoryRegion

Interval = tuple[int, int]
"""The first address, and the one behind the last."""

SCATTERED = 64
"""When there are this many more intervals than ranges, one sweep over all of them costs less."""


class LiveView:
    """The ranges of a view by address, of which a few at a time are replaced."""

    __slots__ = ("_frozen", "_ranges")

    def __init__(self, root: MemoryRegion) -> None:
        self._frozen: FlatView | None = flatten(root)
        self._ranges = _by_start(self._frozen)

    def __iter__(self) -> Iterator[FlatRange]:
        for _start, flat in self._ranges:
            yield flat

    def frozen(self) -> FlatView:
        """The view as it is now; made when it is asked for."""
        if self._frozen is None:
            self._frozen = FlatView(tuple(self))
        return self._frozen

    def at(self, address: int) -> FlatRange | None:
        """The range that has the byte at `address`. O(log n)."""
        found = self._ranges.before((address + 1,))
        return found[1] if found is not None and found[1].last >= address else None

    def without(self, removed: Iterable[FlatRange]) -> Iterator[FlatRange]:
        """What is there besides `removed`."""
        starts = {flat.start for flat in removed}
        return (flat for flat in self if flat.start not in starts)

    def look_again(self, root: MemoryRegion, marked: Iterable[Interval]) -> Difference:
        """What `root` shows otherwise than this view, which can only be where it was marked.

        O(log n) for each interval, and what is in it.

        Raises:
            ValueError: An alias shows itself.
        """
        intervals = _apart(marked)
        if len(intervals) > SCATTERED + len(self._ranges):
            intervals = [(intervals[0][0], intervals[-1][1])]
        there = self._touching(intervals)
        parts = [*_outside(there, intervals)]
        for low, high in intervals:
            parts += render(root, low, high)
        parts.sort()  # no two begin at one address
        return compare(there, list(joined(parts)))

    def apply(self, change: Difference) -> None:
        """Become what `look_again` found."""
        go = [*change.removed, *change.relogged]
        come = [*change.added, *change.relogged]
        self._frozen = None
        if len(go) + len(come) > len(self._ranges) // 4:  # then sorting anew costs less
            self._ranges = _by_start(sorted([*self.without(go), *come], key=attrgetter("start")))
            return
        for flat in go:
            self._ranges.remove((flat.start,))
        for flat in come:
            self._ranges.add((flat.start, flat))

    def _touching(self, intervals: Iterable[Interval]) -> list[FlatRange]:
        """The ranges that have a byte in an interval or beside it, each once."""
        found: list[FlatRange] = []
        for low, high in intervals:
            before = self._ranges.before((low,))
            if before is not None and before[1].last + 1 >= low and before[1] not in found[-1:]:
                found.append(before[1])
            found += (flat for _, flat in self._ranges.between((low,), (high + 1,)))
        return found


def _by_start(ranges: Iterable[FlatRange]) -> SortedChunks[tuple[int, FlatRange]]:
    return SortedChunks((flat.start, flat) for flat in ranges)


def _apart(marked: Iterable[Interval]) -> list[Interval]:
    """The same addresses as intervals that rise and do not touch."""
    result: list[Interval] = []
    for low, high in sorted(marked):
        if result and low <= result[-1][1]:
            result[-1] = result[-1][0], max(result[-1][1], high)
        else:
            result.append((low, high))
    return result


def _outside(flats: Iterable[FlatRange], intervals: Sequence[Interval]) -> Iterator[Part]:
    """What of the ranges is in no interval."""
    index = 0
    for flat in flats:
        at, end = flat.start, flat.last + 1
        while index < len(intervals) and intervals[index][1] <= at:
            index += 1
        cut = index
        while at < end:
            low, high = intervals[cut] if cut < len(intervals) else (end, end)
            if at < low:
                yield at, min(low, end), flat.ram, flat.offset - flat.start, flat.readonly
            at, cut = high, cut + 1
