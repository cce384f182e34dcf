"""One ioctl for each mapping of a large batch, at little more than the cost of the ioctls.

For backends whose kernel interface takes one range a call in a struct of 8-byte words. The structs
are filled by columns, many at a time; packing each costs a quarter of a trivial ioctl.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, TypeAlias

from attrs import define, field

from vfiocore.container import take_back_items
from vfiocore.errors import DmaError
from vfiocore.memory.batch import DmaBatch

if TYPE_CHECKING:
    from vfiocore.host import Host
    from vfiocore.memory.mapping import Access, DmaMapping

ROWS = 256
"""How many structs are filled at a time."""

Column: TypeAlias = "array[int]"

_pack_pair = struct.Struct("=2I").pack


@define(eq=False)
class BulkIoctl:
    """One kind of ioctl on one fd, issued for whole batches.

    Attributes:
        host: The host.
        fd: The fd.
        request: The ioctl's number.
        size: Of its struct, in bytes; a multiple of 8.
    """

    host: Host = field(repr=False)
    fd: int
    request: int
    size: int
    _memory: Column = field(init=False, repr=False)
    _rows: list[memoryview] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._memory = array("Q", bytes(self.size * ROWS))
        view = memoryview(self._memory).cast("B")
        self._rows = [view[start : start + self.size] for start in range(0, len(view), self.size)]

    def issue(
        self,
        batch: DmaBatch,
        words: Sequence[Column],
        refused: Callable[[OSError, DmaMapping], object],
        undo: Callable[[DmaMapping], None],
    ) -> None:
        """Issue the ioctl for each mapping; if one fails, `undo` those before it.

        Args:
            batch: What the ioctls are for.
            words: For each 8 bytes of the struct a column, with one value for each mapping.
            refused: Called with what the kernel said to one mapping; raises, unless it could
                do otherwise what was asked.
            undo: Takes one mapping back.

        Raises:
            DmaError: from `refused`; its ``index`` is set.
        """
        answers: list[int] = []
        try:
            for start, rows in self._filled(words):
                self._issue_rows(batch, start, rows, answers, refused)
        except BaseException as error:
            take_back_items(batch, len(answers), undo, error)
            raise

    def issue_confirmed(
        self,
        batch: DmaBatch,
        words: Sequence[Column],
        confirmed: int,
        refused: Callable[[OSError, DmaMapping], object],
        differs: Callable[[DmaMapping, int], object],
        undo: Callable[[DmaMapping], None],
    ) -> None:
        """As `issue`, for an ioctl that writes into its struct how much it did.

        Args:
            batch: What the ioctls are for.
            words: As for `issue`.
            confirmed: Which of the words comes back; it must come back as it was.
            refused: As for `issue`; where it does not raise, the word counts as confirmed.
            differs: Called with a mapping and what came back for it instead; raises.
            undo: Takes one mapping back; also the one that differs, of which nothing is known.

        Raises:
            DmaError: from `refused` or `differs`; its ``index`` is set.
        """
        answers: list[int] = []
        other: int | None = None
        try:
            for start, rows in self._filled(words):
                self._issue_rows(batch, start, rows, answers, refused)
                back = self._memory[confirmed : len(rows) * len(words) : len(words)]
                asked = words[confirmed][start : start + len(rows)]
                if back != asked:
                    place = next(n for n, word in enumerate(asked) if word != back[n])
                    other = start + place
                    differs(batch[other], back[place])
        except BaseException as error:
            take_back_items(batch, len(answers), undo, error)
            if other is not None and isinstance(error, DmaError):
                error.index = other
            raise

    def _issue_rows(
        self,
        batch: DmaBatch,
        start: int,
        rows: Sequence[memoryview],
        answers: list[int],
        refused: Callable[[OSError, DmaMapping], object],
    ) -> None:
        """Issue some of the ioctls; `answers` gets one entry for each that is done."""
        ioctl, fd, request = self.host.ioctl, repeat(self.fd), repeat(self.request)
        while (done := len(answers) - start) < len(rows):
            try:
                # A loop in C. What a failing call interrupts keeps the answers before it.
                answers.extend(map(ioctl, fd, request, rows[done:]))
            except OSError as error:
                refused(error, batch[len(answers)])
                answers.append(0)

    def _filled(self, words: Sequence[Column]) -> Iterator[tuple[int, Sequence[memoryview]]]:
        """The structs, some at a time, and which is the first; they are used again for the next."""
        width = len(words)
        total = len(words[0])
        for start in range(0, total, ROWS):
            count = min(ROWS, total - start)
            for word, column in enumerate(words):
                self._memory[word : count * width : width] = column[start : start + count]
            yield start, self._rows if count == ROWS else self._rows[:count]


def heads(batch: DmaBatch, size: int, flags: Callable[[Access], int]) -> Column:
    """The first 8 bytes of each struct, as VFIO and iommufd have them: its size, and flags.

    Args:
        batch: What the structs are for.
        size: Of the struct, in bytes.
        flags: The flags of what a device may do.
    """
    if batch.access is not None:
        return pairs(size, flags(batch.access), len(batch))
    return array("Q", b"".join(_pack_pair(size, flags(mapping.access)) for mapping in batch))


def pairs(first: int, second: int, count: int) -> Column:
    """A column of the same two 4-byte numbers `count` times."""
    return array("Q", _pack_pair(first, second)) * count
