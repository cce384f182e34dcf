"""Intervals that may overlap, found by the addresses they cover."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from vfiocore.memory._chunks import SortedChunks

Item = TypeVar("Item")


class IntervalIndex(Generic[Item]):
    """Items with a place, and a number that tells those at the same place apart.

    A sorted list for each binary order of magnitude of the size. Inside one list only those that
    begin less than twice that magnitude below an address can reach it, so one huge interval does
    not make the search among many small ones long.
    """

    __slots__ = ("_by_magnitude",)

    def __init__(self) -> None:
        self._by_magnitude: dict[int, SortedChunks[tuple[int, int, int, Item]]] = {}

    def add(self, start: int, size: int, number: int, item: Item) -> None:
        """Enter an item; no other has this start and number."""
        magnitude = size.bit_length()
        entries = self._by_magnitude.get(magnitude)
        if entries is None:
            entries = self._by_magnitude[magnitude] = SortedChunks()
        entries.add((start, number, start + size, item))

    def remove(self, start: int, size: int, number: int) -> None:
        """Take out what was entered so.

        Raises:
            KeyError: Nothing was.
        """
        magnitude = size.bit_length()
        entries = self._by_magnitude[magnitude]
        entries.remove((start, number))
        if not entries:
            del self._by_magnitude[magnitude]

    def __iter__(self) -> Iterator[Item]:
        """Every item, in no order."""
        for entries in self._by_magnitude.values():
            for _start, _number, _end, item in entries:
                yield item

    def overlapping(self, low: int, high: int) -> Iterator[Item]:
        """Every item that covers an address from `low` to below `high`, in no order."""
        for magnitude, entries in self._by_magnitude.items():
            reaching = (low - (1 << magnitude) + 1,)
            for start, _number, end, item in entries.between(reaching, (high,)):
                if end > max(low, start):
                    yield item
