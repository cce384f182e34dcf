"""Filling memory with pages before anybody asks for them."""

from __future__ import annotations

import errno
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from vfiocore.host import MADV_POPULATE_WRITE

if TYPE_CHECKING:
    import mmap

    from vfiocore.host import Host

_WORTH_A_THREAD = 64 << 20
_MOST_THREADS = 8


def populate(
    host: Host,
    memory: mmap.mmap,
    offset: int,
    length: int,
    *,
    step: int,
    threads: int | None = None,
) -> None:
    """Give `length` bytes at `offset` their pages, zeroed, in parallel where there are many.

    Uses MADV_POPULATE_WRITE (Linux 5.14); on an older kernel the pages come when they are first
    used, as they would anyway.

    Args:
        host: Where the memory is from.
        memory: What it is a part of.
        offset: In bytes, in whole pages.
        length: In bytes, in whole pages.
        step: What to cut between, in bytes: the size of the pages that the memory may have.
        threads: How many fill it at a time; chosen by CPUs and length if None.

    Raises:
        OSError: ENOMEM, EFAULT or EHWPOISON, pages that are not to be had.
    """
    if threads is None:
        threads = min(host.cpu_count(), _MOST_THREADS, length // _WORTH_A_THREAD)
    pieces = slices(offset, length, step=step, count=threads)
    fill = partial(_fill, host, memory)
    if len(pieces) == 1:
        fill(pieces[0])
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for large memory alone

    with ThreadPoolExecutor(len(pieces), "vfiocore-populate") as pool:
        list(pool.map(fill, pieces))  # raises the first error, after all have ended


def slices(offset: int, length: int, *, step: int, count: int) -> list[tuple[int, int]]:
    """`count` neighbours ``(offset, length)`` of about one size, cut at multiples of `step`.

    Fewer where there is not a step for each, and at least one; their lengths add up to `length`.
    """
    steps = -(-length // step)
    count = max(min(count, steps), 1)
    cuts = [min(steps * number // count * step, length) for number in range(count + 1)]
    return [(offset + start, end - start) for start, end in pairwise(cuts)]


def _fill(host: Host, memory: mmap.mmap, piece: tuple[int, int]) -> None:
    try:
        host.madvise(memory, MADV_POPULATE_WRITE, *piece)
    except OSError as error:
        # mm/madvise.c: a kernel before 5.14 does not know the advice.
        if error.errno != errno.EINVAL:
            raise
