"""Physical region pages: where a command's data is."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from vfiocore_sim.devices.nvme.status import PRP_OFFSET_INVALID, CommandError

_ENTRY = 8


def prp_segments(
    prp1: int, prp2: int, size: int, page: int, read: Callable[[int, int], bytes]
) -> Iterator[tuple[int, int]]:
    """The stretches of memory that hold `size` bytes: ``(iova, bytes)``.

    Args:
        prp1: First page, with an offset into it.
        prp2: Second page, or the list of pages when two are not enough.
        size: Bytes to transfer, at least one.
        page: The controller's page size in bytes.
        read: Reads memory, for the list.

    Raises:
        CommandError: PRP offset invalid.
    """
    first = min(size, page - prp1 % page)
    yield prp1, first
    left = size - first
    if not left:
        return
    pages = iter([prp2]) if left <= page else _list(prp2, -(-left // page), page, read)
    for iova in pages:
        if iova % page:
            raise CommandError(PRP_OFFSET_INVALID)
        yield iova, min(left, page)
        left -= min(left, page)


def _list(address: int, count: int, page: int, read: Callable[[int, int], bytes]) -> Iterator[int]:
    """The entries of a PRP list: the last of a page leads to the next when more are needed."""
    while count:
        if address % _ENTRY:
            raise CommandError(PRP_OFFSET_INVALID)
        room = (page - address % page) // _ENTRY
        entries = min(count, room)
        values = struct.unpack(f"<{entries}Q", read(address, entries * _ENTRY))
        if count > room:
            yield from values[:-1]
            count -= room - 1
            address = values[-1]
        else:
            yield from values
            count = 0
