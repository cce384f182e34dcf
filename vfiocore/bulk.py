"""One ioctl for each mapping of a large batch, at little more than the cost of the ioctls.

For backends whose kernel interface takes one range a call in a struct of 8-byte words. The structs
are filled by columns, many at a time; packing each costs a quarter of a trivial ioctl.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from attrs import define, field

from vfiocore.container import take_back_items
from vfiocore.memory.batch import DmaBatch

if TYPE_CHECKING:
    from vfiocore.host import Host
    from vfiocore.memory.mapping import Access, DmaMapping

ROWS = 256
"""How many structs are filled at a time."""

Column: TypeAlias = "array[int]"

_pack_head = struct.Struct("=2I").pack


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
        ioctl, fd, request = self.host.ioctl, self.fd, self.request
        done = 0
        rows: Sequence[memoryview] = ()
        row = None
        try:
            for filled in self._filled(words):
                rows = filled
                for row in filled:
                    try:
                        ioctl(fd, request, row)
                    except OSError as error:
                        refused(error, batch[done + _place(rows, row)])
                done += len(rows)
                rows, row = (), None
        except BaseException as error:
            done += _place(rows, row)
            take_back_items(batch, done, undo, error)
            raise

    def _filled(self, words: Sequence[Column]) -> Iterator[Sequence[memoryview]]:
        """The structs, some at a time; they are used again for the next."""
        width = len(words)
        total = len(words[0])
        for start in range(0, total, ROWS):
            count = min(ROWS, total - start)
            for word, column in enumerate(words):
                self._memory[word : count * width : width] = column[start : start + count]
            yield self._rows if count == ROWS else self._rows[:count]


def heads(batch: DmaBatch, size: int, flags: Callable[[Access], int]) -> Column:
    """The first 8 bytes of each struct, as VFIO and iommufd have them: its size, and flags.

    Args:
        batch: What the structs are for.
        size: Of the struct, in bytes.
        flags: The flags of what a device may do.
    """
    if batch.access is not None:
        return array("Q", _pack_head(size, flags(batch.access))) * len(batch)
    return array("Q", b"".join(_pack_head(size, flags(mapping.access)) for mapping in batch))


def _place(rows: Sequence[memoryview], row: memoryview | None) -> int:
    """Where a row is; rows may have the same contents, so only identity tells."""
    return next((index for index, other in enumerate(rows) if other is row), 0)
