"""Ordered, non-overlapping address ranges: what a page table or an IOVA allocator holds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

U64_MAX = (1 << 64) - 1


class Span(NamedTuple):
    """Addresses `first` to `last`, both included."""

    first: int
    last: int

    def covers(self, other: Span) -> bool:
        """True when `other` lies wholly inside."""
        return self.first <= other.first and other.last <= self.last

    def meets(self, other: Span) -> bool:
        """True when the two share an address."""
        return self.first <= other.last and other.first <= self.last


EVERYTHING = Span(0, U64_MAX)


class HasSpan(Protocol):
    """Anything that stands at a range of addresses."""

    @property
    def span(self) -> Span:
        """Where it stands."""


T = TypeVar("T", bound=HasSpan)


class IntervalMap(Generic[T]):
    """Items that do not overlap, by address."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._items: list[T] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._items))

    def at(self, address: int) -> T | None:
        """The item that contains `address`."""
        index = bisect_right(self._firsts, address) - 1
        if index < 0 or self._items[index].span.last < address:
            return None
        return self._items[index]

    def meeting(self, span: Span) -> list[T]:
        """The items that share an address with `span`, in order."""
        low = bisect_right(self._firsts, span.first) - 1
        if low < 0 or self._items[low].span.last < span.first:
            low += 1
        return self._items[low : bisect_right(self._firsts, span.last)]

    def insert(self, item: T) -> None:
        """Add an item; the caller has checked that its place is free."""
        index = bisect_left(self._firsts, item.span.first)
        self._firsts.insert(index, item.span.first)
        self._items.insert(index, item)

    def remove(self, item: T) -> None:
        """Take an item out."""
        index = bisect_left(self._firsts, item.span.first)
        if index == len(self._items) or self._items[index] is not item:
            raise KeyError(item)
        del self._firsts[index]
        del self._items[index]


def union(spans: Iterable[Span]) -> list[Span]:
    """The same addresses as ascending spans with gaps in between."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.first <= merged[-1].last + 1:
            merged[-1] = Span(merged[-1].first, max(merged[-1].last, span.last))
        else:
            merged.append(span)
    return merged


def without(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """What is left of `spans` outside of `holes`."""
    closed = union(holes)
    return [piece for span in union(spans) for piece in _cut(span, closed)]


def _cut(span: Span, holes: Sequence[Span]) -> Iterator[Span]:
    first = span.first
    for hole in holes:
        if hole.last < first:
            continue
        if hole.first > span.last:
            break
        if hole.first > first:
            yield Span(first, hole.first - 1)
        first = hole.last + 1
    if first <= span.last:
        yield Span(first, span.last)
