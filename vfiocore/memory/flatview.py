"""What a tree of regions comes to: ranges of RAM that do not overlap."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from attrs import frozen

from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.memory.ranges import IOVA_LIMIT
from vfiocore.memory.region import Alias, MemoryRegion, Ram, Region


@frozen
class FlatRange:
    """One stretch of RAM as devices see it.

    Attributes:
        start: The guest address, which is the IOVA where no virtual IOMMU is in front.
        size: In bytes.
        ram: The region it is of.
        offset: Where in `ram` it begins, in bytes.
        readonly: Devices may only read.
    """

    start: int
    size: int
    ram: Ram
    offset: int
    readonly: bool = False

    @property
    def last(self) -> int:
        """The last guest address, included."""
        return self.start + self.size - 1

    @property
    def vaddr(self) -> int:
        """The process address behind `start`."""
        return self.ram.backing.address + self.offset

    @property
    def access(self) -> Access:
        """What devices may do."""
        return Access.READ if self.readonly else Access.READ_WRITE

    def mapping(self) -> DmaMapping:
        """The range as a container is asked to map it."""
        backing = self.ram.backing
        offset = 0 if backing.fd is None else backing.fd_offset + self.offset
        return DmaMapping(self.start, self.size, self.vaddr, self.access, backing.fd, offset)

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.last:#x} {self.ram.name} @{self.offset:#x}"


@frozen
class FlatView:
    """Ranges by rising address. No two overlap; neighbours that could be one are one."""

    ranges: tuple[FlatRange, ...] = ()

    def __iter__(self) -> Iterator[FlatRange]:
        return iter(self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)


class _Leaf(NamedTuple):
    """A region's part that covers others or is covered; the lowest rank is uppermost."""

    start: int
    rank: int
    end: int
    ram: Ram | None  # None: covers, and is not mapped
    shift: int  # offset in the RAM minus address
    readonly: bool


def flatten(root: MemoryRegion) -> FlatView:
    """What of `root` devices can reach, where each range comes from, and how.

    Rules as QEMU's ``render_memory_region`` has them: what sticks out of a container or alias is
    cut off; the higher priority is seen, among equals what was added last. O(n log n).

    Raises:
        ValueError: An alias shows itself.
    """
    leaves: list[_Leaf] = []
    _collect(root, 0, 0, IOVA_LIMIT, leaves, readonly=False, through=())
    return FlatView(tuple(_merged(_uppermost(leaves))))


def difference(old: FlatView, new: FlatView) -> tuple[tuple[FlatRange, ...], tuple[FlatRange, ...]]:
    """The ranges that are only in `old` and those only in `new`, by rising address.

    A range that is in both, with the same memory and access, is in neither.
    """
    removed: list[FlatRange] = []
    added: list[FlatRange] = []
    i = j = 0
    while i < len(old.ranges) and j < len(new.ranges):
        before, after = old.ranges[i], new.ranges[j]
        if before == after:
            i, j = i + 1, j + 1
        elif before.start <= after.start:
            removed.append(before)
            i += 1
        else:
            added.append(after)
            j += 1
    removed.extend(old.ranges[i:])
    added.extend(new.ranges[j:])
    return tuple(removed), tuple(added)


def _collect(
    region: MemoryRegion,
    base: int,
    low: int,
    high: int,
    leaves: list[_Leaf],
    *,
    readonly: bool,
    through: tuple[Alias, ...],
) -> None:
    """Add the leaves of `region`, which begins at `base`, between `low` and `high`, by rank."""
    low, high = max(low, base), min(high, base + region.size)
    if low >= high or not region.enabled:
        return
    readonly = readonly or region.readonly
    if isinstance(region, Region):
        for child in region.children:
            at = base + child.offset
            _collect(child, at, low, high, leaves, readonly=readonly, through=through)
    elif isinstance(region, Alias):
        if region in through:
            raise ValueError(f"the alias {region.name} shows itself")
        through = (*through, region)
        at = base - region.target_offset
        _collect(region.target, at, low, high, leaves, readonly=readonly, through=through)
    else:
        ram = region if isinstance(region, Ram) else None
        leaves.append(_Leaf(low, len(leaves), high, ram, -base, readonly))


def _uppermost(leaves: list[_Leaf]) -> Iterator[tuple[int, int, _Leaf]]:
    """Sweep over the addresses: ``(start, end, leaf)`` wherever a leaf is the uppermost."""
    leaves.sort()
    active: list[tuple[int, _Leaf]] = []
    at = 0
    for index in range(len(leaves) + 1):
        until = leaves[index].start if index < len(leaves) else IOVA_LIMIT
        while active and at < until:
            leaf = active[0][1]
            if leaf.end <= at:
                heappop(active)
                continue
            end = min(leaf.end, until)
            yield at, end, leaf
            at = end
        at = until
        if index < len(leaves):
            heappush(active, (leaves[index].rank, leaves[index]))


def _merged(parts: Iterator[tuple[int, int, _Leaf]]) -> Iterator[FlatRange]:
    """Join what continues: the same memory, onwards, with the same access."""
    start = end = shift = 0
    ram: Ram | None = None
    readonly = False
    for low, high, leaf in parts:
        if low == end and leaf.ram is ram and leaf.shift == shift and leaf.readonly == readonly:
            end = high
            continue
        if ram is not None:
            yield FlatRange(start, end - start, ram, start + shift, readonly)
        start, end = low, high
        ram, shift, readonly = leaf.ram, leaf.shift, leaf.readonly
    if ram is not None:
        yield FlatRange(start, end - start, ram, start + shift, readonly)
