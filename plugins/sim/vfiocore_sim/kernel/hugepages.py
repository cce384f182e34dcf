"""Pools of huge pages (``mm/hugetlb.c``). The memory itself is ordinary."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial

from attrs import define

from vfiocore_sim.refusal import refused

_SHIFT = 26
_SIZE_BITS = 0x3F


@define(eq=False)
class _File:
    """A memory file of huge pages. They are promised as long as it is mapped."""

    page_size: int
    mappings: int = 0
    give_back: Callable[[], None] = lambda: None

    def unmap(self) -> None:
        self.mappings -= 1
        if not self.mappings:
            self.give_back()


class HugePagePools:
    """How many huge pages there are of each size, and how many are in use; sizes in bytes."""

    def __init__(self, pages: Mapping[int, int]) -> None:
        self.total: dict[int, int] = dict(pages)
        self.used: dict[int, int] = dict.fromkeys(pages, 0)
        self._files: dict[int, _File] = {}  # by inode

    @property
    def default(self) -> int:
        """``Hugepagesize`` of /proc/meminfo: the smallest."""
        return min(self.total)

    def size_of(self, flags: int) -> int:
        """The page size that mmap's flags name; EINVAL for one the machine has not."""
        order = flags >> _SHIFT & _SIZE_BITS
        size = 1 << order if order else self.default
        if size not in self.total:
            raise refused(errno.EINVAL)
        return size

    def take(self, page_size: int, length: int) -> Callable[[], None]:
        """Promise the pages of `length` bytes; what gives them back.

        Raises:
            OSError: ENOMEM, so many are not free.
        """
        pages = -(-length // page_size)
        if pages > self.total[page_size] - self.used[page_size]:
            raise refused(errno.ENOMEM)
        self.used[page_size] += pages
        return partial(self._give_back, page_size, pages)

    def _give_back(self, page_size: int, pages: int) -> None:
        self.used[page_size] -= pages

    def resize(self, page_size: int, data: bytes) -> None:
        """A store to ``nr_hugepages``: pages in use stay; EINVAL for what is no number."""
        try:
            wanted = int(data)
        except ValueError:
            raise refused(errno.EINVAL) from None
        self.total[page_size] = max(wanted, self.used[page_size])

    # -- memory files ------------------------------------------------------------------------
    def check_file(self, page_size: int, size: int) -> None:
        """``memfd_create`` and ``ftruncate``: ENODEV for no such pool, EINVAL for half a page."""
        if page_size not in self.total:
            raise refused(errno.ENODEV)
        if size % page_size:
            raise refused(errno.EINVAL)

    def add_file(self, fd: int, page_size: int) -> None:
        """Remember that a memory file is of huge pages."""
        self._files[os.fstat(fd).st_ino] = _File(page_size)

    def map_file(self, fd: int) -> Callable[[], None] | None:
        """A memory file is mapped: its pages are promised once, whoever maps it besides.

        What undoes it; None for a file that has no huge pages.

        Raises:
            OSError: ENOMEM, so many are not free.
        """
        stat = os.fstat(fd)
        file = self._files.get(stat.st_ino)
        if file is None:
            return None
        if not file.mappings:
            file.give_back = self.take(file.page_size, stat.st_size)
        file.mappings += 1
        return file.unmap
