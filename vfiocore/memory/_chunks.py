"""A sorted list that stays fast when it is long."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Generic, TypeVar

CHUNK = 512
"""Entries a chunk is made with; so an insertion moves at most twice as many pointers."""

Entry = TypeVar("Entry", bound=tuple[Any, ...])


class SortedChunks(Generic[Entry]):
    """Tuples in order, in lists of some hundreds each.

    Finding, adding and removing one costs two bisections and a move inside one short list,
    however many there are. Tuples are compared as such, so they differ in their first members,
    and a key is the first one or more of them.
    """

    __slots__ = ("_chunks", "_firsts", "_length")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        ordered = list(entries)
        self._chunks = [ordered[at : at + CHUNK] for at in range(0, len(ordered), CHUNK)]
        self._firsts: list[tuple[Any, ...]] = [chunk[0] for chunk in self._chunks]
        self._length = len(ordered)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        """The entries by rising key; the list must not change meanwhile."""
        return chain.from_iterable(self._chunks)

    def add(self, entry: Entry) -> None:
        """Enter what is not there yet."""
        if not self._chunks:
            self._chunks.append([])
            self._firsts.append(entry)
        index = self._chunk_of(entry)
        chunk = self._chunks[index]
        chunk.insert(bisect_left(chunk, entry), entry)
        self._firsts[index] = chunk[0]
        self._length += 1
        if len(chunk) > 2 * CHUNK:
            self._split(index)

    def remove(self, key: tuple[int, ...]) -> None:
        """Take out what has this key.

        Raises:
            KeyError: Nothing has.
        """
        index = self._chunk_of(key) if self._chunks else 0
        index, at = self._position(index, key)
        if index == len(self._chunks) or self._chunks[index][at][: len(key)] != key:
            raise KeyError(key)
        chunk = self._chunks[index]
        del chunk[at]
        self._length -= 1
        if len(chunk) < CHUNK // 4:
            self._join(index)
        else:
            self._firsts[index] = chunk[0]

    def before(self, key: tuple[int, ...]) -> Entry | None:
        """The last entry below `key`."""
        if not self._chunks:
            return None
        chunk = self._chunks[self._chunk_of(key)]
        at = bisect_left(chunk, key)
        return chunk[at - 1] if at else None

    def between(self, low: tuple[int, ...], high: tuple[int, ...]) -> Iterator[Entry]:
        """The entries from `low` on and below `high`, by rising key."""
        if not self._chunks:
            return
        index, at = self._position(self._chunk_of(low), low)
        while index < len(self._chunks):
            chunk = self._chunks[index]
            end = bisect_left(chunk, high)
            yield from chunk[at:end]
            if end < len(chunk):
                return
            index, at = index + 1, 0

    def _chunk_of(self, key: tuple[Any, ...]) -> int:
        """The index of the last chunk that begins at or below `key`, or of the first."""
        return max(bisect_right(self._firsts, key) - 1, 0)

    def _position(self, index: int, key: tuple[int, ...]) -> tuple[int, int]:
        """Where the first entry from `key` on is: the chunk with this index, or the next."""
        if index == len(self._chunks):
            return index, 0
        at = bisect_left(self._chunks[index], key)
        return (index, at) if at < len(self._chunks[index]) else (index + 1, 0)

    def _split(self, index: int) -> None:
        chunk = self._chunks[index]
        half = len(chunk) // 2
        self._chunks[index : index + 1] = [chunk[:half], chunk[half:]]
        self._firsts.insert(index + 1, chunk[half])

    def _join(self, index: int) -> None:
        """Make one of a short chunk and its neighbour."""
        if len(self._chunks) == 1:
            if self._chunks[0]:
                self._firsts[0] = self._chunks[0][0]
            else:
                self._chunks.clear()
                self._firsts.clear()
            return
        left = max(index - 1, 0)
        self._chunks[left] += self._chunks.pop(left + 1)
        del self._firsts[left + 1]
        self._firsts[left] = self._chunks[left][0]
        if len(self._chunks[left]) > 2 * CHUNK:
            self._split(left)
