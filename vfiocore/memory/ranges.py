"""Ranges of IOVAs: what an IOMMU can translate, and set arithmetic on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

IOVA_LIMIT = 1 << 64
"""One past the highest address that a device can put on the bus."""


@frozen(order=True)
class IovaRange:
    """The addresses from `start` to `last`, both included, in bytes.

    The last byte rather than the end, as the kernel's own ``iommu_iova_range`` and
    ``vfio_iova_range`` have it: a range that ends at 2^64 has no end that fits 64 bits.

    Raises:
        ValueError: The range is empty, reversed or outside 64 bits.
    """

    start: int
    last: int

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.start <= self.last < IOVA_LIMIT:
            raise ValueError(f"no range of IOVAs: {self.start:#x}-{self.last:#x}")

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.last - self.start + 1

    def covers(self, iova: int, size: int) -> bool:
        """True when the `size` bytes at `iova` are all inside."""
        return self.start <= iova and iova + size - 1 <= self.last

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.last:#x}"


FULL_RANGE = IovaRange(0, IOVA_LIMIT - 1)
"""All of the 64-bit space: what an IOMMU without limits offers."""


def normalise(ranges: Iterable[IovaRange]) -> tuple[IovaRange, ...]:
    """The same addresses as sorted ranges that neither overlap nor touch."""
    result: list[IovaRange] = []
    for item in sorted(ranges):
        if result and item.start <= result[-1].last + 1:
            result[-1] = IovaRange(result[-1].start, max(result[-1].last, item.last))
        else:
            result.append(item)
    return tuple(result)


def intersect(a: Sequence[IovaRange], b: Sequence[IovaRange]) -> tuple[IovaRange, ...]:
    """The addresses that are in both, normalised: what two IOMMUs can both translate."""
    left, right = normalise(a), normalise(b)
    result: list[IovaRange] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, last = max(left[i].start, right[j].start), min(left[i].last, right[j].last)
        if start <= last:
            result.append(IovaRange(start, last))
        if left[i].last < right[j].last:
            i += 1
        else:
            j += 1
    return tuple(result)


def subtract(ranges: Sequence[IovaRange], hole: IovaRange) -> tuple[IovaRange, ...]:
    """The addresses of `ranges` that are not in `hole`, normalised."""
    result: list[IovaRange] = []
    for item in normalise(ranges):
        if item.start < hole.start:
            result.append(IovaRange(item.start, min(item.last, hole.start - 1)))
        if item.last > hole.last:
            result.append(IovaRange(max(item.start, hole.last + 1), item.last))
    return tuple(result)
