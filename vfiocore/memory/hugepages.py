"""Pools of huge pages: which this machine has, and what to do when one is short."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from attrs import frozen

from vfiocore.errors import KernelError, UnsupportedError, kernel_error

if TYPE_CHECKING:
    from vfiocore.host import Host

_POOLS = "/sys/kernel/mm/hugepages"
_POOL = re.compile(r"hugepages-([0-9]+)kB")
_DEFAULT = re.compile(rb"^Hugepagesize:\s+([0-9]+) kB$", re.MULTILINE)
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@frozen
class HugePagePool:
    """The huge pages of one size, on all NUMA nodes together.

    Attributes:
        page_size: In bytes.
        total: How many pages there are.
        free: How many of them nobody uses and nobody has been promised.
    """

    page_size: int
    total: int
    free: int

    @property
    def path(self) -> str:
        """Where the number of pages is set."""
        return f"{_POOLS}/hugepages-{self.page_size >> 10}kB/nr_hugepages"


def pool_sizes(host: Host) -> tuple[int, ...]:
    """The page sizes in bytes of which the machine can have pools, rising; none without hugetlb."""
    try:
        names = host.listdir(_POOLS)
    except OSError:
        return ()
    found = (_POOL.fullmatch(name) for name in names)
    return tuple(sorted(int(match[1]) << 10 for match in found if match is not None))


def default_pool_size(host: Host) -> int | None:
    """The page size in bytes that the kernel takes where none is named; None without hugetlb."""
    match = _DEFAULT.search(host.read_file("/proc/meminfo"))
    return None if match is None else int(match[1]) << 10


def read_pool(host: Host, page_size: int) -> HugePagePool:
    """The pool of a page size as it is now.

    Raises:
        OSError: ENOENT, the machine has none of this size.
    """
    total, free, promised = (
        int(host.read_file(f"{_POOLS}/hugepages-{page_size >> 10}kB/{name}"))
        for name in ("nr_hugepages", "free_hugepages", "resv_hugepages")
    )
    return HugePagePool(page_size, total, free - promised)


def check_pool_size(host: Host, page_size: int) -> None:
    """Refuse a page size that the machine has no pool of.

    Raises:
        UnsupportedError: EINVAL; the text has the sizes there are.
    """
    sizes = pool_sizes(host)
    if page_size in sizes:
        return
    there = f"only of {', '.join(map(_size, sizes))}" if sizes else "none at all"
    raise UnsupportedError(
        errno.EINVAL,
        "mmap",
        _subject(page_size),
        f"this machine has no huge pages of {_size(page_size)}, {there}",
        None if sizes else "the kernel is built without CONFIG_HUGETLBFS",
    )


def pool_error(host: Host, error: OSError, page_size: int, length: int) -> KernelError:
    """The exception for `length` bytes that did not come out of a pool."""
    subject = _subject(page_size)
    if error.errno != errno.ENOMEM:
        return kernel_error(error, "mmap", subject, detail=f"{length:#x} bytes")
    pool, wanted = read_pool(host, page_size), length // page_size
    enough = pool.total + max(wanted - pool.free, 0)
    return KernelError(
        errno.ENOMEM,
        "mmap",
        subject,
        f"{wanted} wanted, {pool.free} of {pool.total} free",
        f"echo {enough} > {pool.path}, soon after the machine has started: later there may not"
        " be as much memory in one piece",
    )


def _subject(page_size: int) -> str:
    return f"huge pages of {_size(page_size)}"


def _size(size: int) -> str:
    for unit, name in _UNITS:
        if size and not size % unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"
