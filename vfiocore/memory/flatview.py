"""What a tree of regions comes to: ranges of RAM that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, TypeAlias

from attrs import field, frozen

from vfiocore.memory.backing import Backing
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.memory.ranges import IOVA_LIMIT
from vfiocore.memory.region import Alias, MemoryRegion, Ram, RamDevice, Region
from vfiocore.memory.viommu import IommuRegion


@frozen
class FlatRange:
    """One stretch of RAM as devices see it, or of what a virtual IOMMU translates.

    Attributes:
        start: The guest address, which is the IOVA.
        size: In bytes.
        ram: The region it is of; an `IommuRegion` has no memory of its own.
        offset: Where in `ram` it begins, in bytes.
        readonly: Devices may only read.
        logging: What devices write here is to be logged. Ranges that differ in this alone are
            equal: nothing has to be mapped anew.
    """

    start: int
    size: int
    ram: Ram | IommuRegion
    offset: int
    readonly: bool = False
    logging: bool = field(default=False, eq=False, repr=False)

    @property
    def is_device(self) -> bool:
        """The memory is a device's (`RamDevice`): not pages that can be pinned."""
        return isinstance(self.ram, RamDevice)

    @property
    def last(self) -> int:
        """The last guest address, included."""
        return self.start + self.size - 1

    @property
    def vaddr(self) -> int:
        """The process address behind `start`."""
        return self._backing.address + self.offset

    @property
    def access(self) -> Access:
        """What devices may do."""
        return Access.READ if self.readonly else Access.READ_WRITE

    def mapping(self) -> DmaMapping:
        """The range as a container is asked to map it.

        Raises:
            TypeError: It is of an `IommuRegion`, which is not mapped: what it translates is.
        """
        backing = self._backing
        offset = 0 if backing.fd is None else backing.fd_offset + self.offset
        return DmaMapping(self.start, self.size, self.vaddr, self.access, backing.fd, offset)

    @property
    def _backing(self) -> Backing:
        if isinstance(self.ram, IommuRegion):
            raise TypeError(f"{self.ram.name} translates, it has no memory of its own")
        return self.ram.backing

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


Part: TypeAlias = tuple[int, int, Ram | IommuRegion, int, bool]
"""What is seen somewhere: start, end, the RAM, offset in the RAM minus address, read-only."""

_Leaf: TypeAlias = tuple[int, int, int, Ram | IommuRegion | None, int, bool]
"""A region's part that covers others or is covered: start, rank, and the rest as of a `Part`. The
lowest rank is uppermost; None covers, and is not mapped."""


class Difference(NamedTuple):
    """What makes one view another; ranges by rising address."""

    removed: Sequence[FlatRange] = ()
    added: Sequence[FlatRange] = ()
    relogged: Sequence[FlatRange] = ()
    """Those that are in both, as they are now: logged if they were not, or the other way round."""


def flatten(root: MemoryRegion) -> FlatView:
    """What of `root` devices can reach, where each range comes from, and how.

    Rules as QEMU's ``render_memory_region`` has them: what sticks out of a container or alias is
    cut off; the higher priority is seen, among equals what was added last. O(n log n).

    Raises:
        ValueError: An alias shows itself.
    """
    return FlatView(tuple(joined(render(root, 0, IOVA_LIMIT))))


def render(root: MemoryRegion, low: int, high: int) -> Iterator[Part]:
    """What of `root` is seen from `low` to below `high`, by rising address.

    Only regions that reach into these bytes are looked at.

    Raises:
        ValueError: An alias shows itself there.
    """
    leaves: list[_Leaf] = []
    _collect(root, 0, low, high, leaves, readonly=False, through=())
    return _uppermost(leaves)


def joined(parts: Iterable[Part]) -> Iterator[FlatRange]:
    """Make one of neighbours that continue: the same memory, onwards, with the same access."""
    start = end = shift = 0
    ram: Ram | IommuRegion | None = None
    readonly = False
    for low, high, seen, by, protected in parts:
        if low == end and seen is ram and by == shift and protected == readonly:
            end = high
            continue
        if ram is not None:
            yield FlatRange(start, end - start, ram, start + shift, readonly, ram.logging)
        start, end, ram, shift, readonly = low, high, seen, by, protected
    if ram is not None:
        yield FlatRange(start, end - start, ram, start + shift, readonly, ram.logging)


def difference(old: FlatView, new: FlatView) -> tuple[tuple[FlatRange, ...], tuple[FlatRange, ...]]:
    """The ranges that are only in `old` and those only in `new`, by rising address.

    A range that is in both, with the same memory and access, is in neither.
    """
    removed, added, _ = compare(old.ranges, new.ranges)
    return tuple(removed), tuple(added)


def compare(old: Sequence[FlatRange], new: Sequence[FlatRange]) -> Difference:
    """What makes `old` ranges `new` ones, both by rising address and apart."""
    removed: list[FlatRange] = []
    added: list[FlatRange] = []
    relogged: list[FlatRange] = []
    i = j = 0
    while i < len(old) and j < len(new):
        before, after = old[i], new[j]
        if before == after:
            i, j = i + 1, j + 1
            if before.logging != after.logging:
                relogged.append(after)
        elif before.start <= after.start:
            removed.append(before)
            i += 1
        else:
            added.append(after)
            j += 1
    removed.extend(old[i:])
    added.extend(new[j:])
    return Difference(removed, added, relogged)


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
        for child in region.children_between(low - base, high - base):
            at = base + child.offset
            _collect(child, at, low, high, leaves, readonly=readonly, through=through)
    elif isinstance(region, Alias):
        if region in through:
            raise ValueError(f"the alias {region.name} shows itself")
        through = (*through, region)
        at = base - region.target_offset
        _collect(region.target, at, low, high, leaves, readonly=readonly, through=through)
    else:
        ram = region if isinstance(region, Ram | IommuRegion) else None
        leaves.append((low, len(leaves), high, ram, -base, readonly))


def _uppermost(leaves: list[_Leaf]) -> Iterator[Part]:
    """Sweep over the addresses: what is seen wherever the uppermost leaf is of RAM."""
    leaves.sort()
    covering: list[tuple[int, _Leaf]] = []  # those that reach here, as a heap, uppermost first
    for index, leaf in enumerate(leaves):
        at = leaf[0]
        until = leaves[index + 1][0] if index + 1 < len(leaves) else IOVA_LIMIT
        heappush(covering, (leaf[1], leaf))
        while covering and at < until:
            _, _, end, ram, shift, readonly = covering[0][1]
            if end <= at:
                heappop(covering)
                continue
            low, at = at, min(end, until)
            if ram is not None:
                yield low, at, ram, shift, readonly
