"""Guest memory from configuration: ``-object memory-backend-ram,id=ram0,size=64M``."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING

from vfiocore.config.schema import Property, TypeSchema
from vfiocore.config.types import BOOL, PATH, SIZE, UInt
from vfiocore.errors import KernelError, Problem, UnsupportedError, kernel_error
from vfiocore.memory.backing import Backing
from vfiocore.memory.hugepages import default_pool_size
from vfiocore.memory.ranges import IOVA_LIMIT
from vfiocore.memory.region import Ram

if TYPE_CHECKING:
    from vfiocore.config.model import Object
    from vfiocore.host import Host

_PLACE = (
    Property("size", SIZE, "How much, in bytes or with a suffix.", required=True),
    Property("addr", SIZE, "Where it begins in the address space.", default=0),
    Property("readonly", BOOL, "Devices may only read it.", default=False),
)
_PAGES = (
    Property("prealloc", BOOL, "Its pages are there before anybody asks for them.", default=False),
    Property(
        "prealloc-threads", UInt(255), "How many threads fill it; chosen by its size if not given."
    ),
)


def _share(text: str) -> Property:
    return Property("share", BOOL, text, default=False)


def _needs(item: Object) -> Iterator[Problem]:
    """Options that say how something is to be done which is not to be done."""
    options = item.properties
    for name, switch in (("hugetlbsize", "hugetlb"), ("prealloc-threads", "prealloc")):
        if options.get(name) is not None and not options[switch]:
            yield Problem(item.at(name), f"it is for {switch}=on")


RAM = TypeSchema(
    "memory-backend-ram",
    "Anonymous memory, with transparent huge pages.",
    (*_PLACE, *_PAGES, _share("It is a memfd, which other processes can have too.")),
    check=_needs,
)
MEMFD = TypeSchema(
    "memory-backend-memfd",
    "Memory in a memfd, which other processes can share and iommufd maps by file.",
    (
        *_PLACE,
        *_PAGES,
        Property("hugetlb", BOOL, "From a pool of huge pages.", default=False),
        Property(
            "hugetlbsize", SIZE, "The size of their pages; the kernel's default if not given."
        ),
    ),
    check=_needs,
)
FILE = TypeSchema(
    "memory-backend-file",
    "Memory in a file, such as one in /dev/shm or in hugetlbfs.",
    (
        *_PLACE,
        *_PAGES,
        Property("mem-path", PATH, "The file, or a directory to make one in.", required=True),
        _share("What is written goes into the file."),
    ),
    check=_needs,
)

MEMORY_BACKENDS = MappingProxyType({schema.name: schema for schema in (RAM, MEMFD, FILE)})
"""The object types that are memory, by name."""


def make_ram(host: Host, config: Object) -> tuple[Ram, int]:
    """The region that an object describes, and its offset in the address space, in bytes.

    Raises:
        KernelError: ENOMEM and others, the memory is not to be had.
    """
    options = config.properties
    size = options["size"]
    try:
        backing = _make_backing(host, config)
    except KernelError as error:
        error.detail = f"{error.subject}: {error.detail or error.strerror}"
        error.subject = config.label  # what was written is what the user knows
        raise
    except OSError as error:
        raise kernel_error(error, "mmap", config.label, detail=f"{size:#x} bytes") from error
    ram = Ram(config.id, size, readonly=options["readonly"], backing=backing)
    return ram, options["addr"]


def _make_backing(host: Host, config: Object) -> Backing:
    options = config.properties
    size, populate = options["size"], options["prealloc"]
    threads = options["prealloc-threads"] or None
    if config.type == FILE.name:
        path, shared = options["mem-path"], options["share"]
        return Backing.at_path(host, path, size, shared=shared, populate=populate, threads=threads)
    return Backing.allocate(
        host,
        size,
        shared=config.type == MEMFD.name or options["share"],
        hugetlb=_page_size(host, config) if options.get("hugetlb") else None,
        populate=populate,
        threads=threads,
    )


def _page_size(host: Host, config: Object) -> int:
    size: int | None = config.properties["hugetlbsize"] or default_pool_size(host)
    if size is None:
        raise UnsupportedError(
            errno.EINVAL, "memfd_create", config.label, "this kernel has no huge page pools"
        )
    return size


def memory_problems(objects: Iterable[Object]) -> Iterator[Problem]:
    """What is wrong with memory objects, typed: empty, past the end of the space, or overlapping."""
    placed: list[tuple[int, int, Object]] = []
    for item in objects:
        if item.type not in MEMORY_BACKENDS:
            continue
        start, size = item.properties["addr"], item.properties["size"]
        if not size:
            yield Problem(item.at("size"), "it is 0")
        if start + size > IOVA_LIMIT:
            yield Problem(item.at("addr"), "the memory goes past the end of the address space")
        for other_start, other_end, other in placed:
            if start < other_end and other_start < start + size:
                yield Problem(
                    item.at("addr"),
                    f'it overlaps "{other.id}" at {other_start:#x}-{other_end - 1:#x}',
                    f"the next free address is {other_end:#x}",
                )
        placed.append((start, start + size, item))
