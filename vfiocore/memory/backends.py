"""Guest memory from configuration: ``-object memory-backend-ram,id=ram0,size=64M``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING

from vfiocore.config.schema import Property, TypeSchema
from vfiocore.config.types import BOOL, SIZE
from vfiocore.errors import Problem, kernel_error
from vfiocore.memory.backing import Backing
from vfiocore.memory.ranges import IOVA_LIMIT
from vfiocore.memory.region import Ram

if TYPE_CHECKING:
    from vfiocore.config.model import Object
    from vfiocore.host import Host

_PROPERTIES = (
    Property("size", SIZE, "How much, in bytes or with a suffix.", required=True),
    Property("addr", SIZE, "Where it begins in the address space.", default=0),
    Property("readonly", BOOL, "Devices may only read it.", default=False),
)

RAM = TypeSchema("memory-backend-ram", "Anonymous private memory.", _PROPERTIES)
MEMFD = TypeSchema(
    "memory-backend-memfd",
    "Memory in a memfd, which other processes can share and iommufd maps by file.",
    _PROPERTIES,
)

MEMORY_BACKENDS = MappingProxyType({schema.name: schema for schema in (RAM, MEMFD)})
"""The object types that are memory, by name."""


def make_ram(host: Host, config: Object) -> tuple[Ram, int]:
    """The region that an object describes, and its offset in the address space, in bytes.

    Raises:
        KernelError: ENOMEM and others, the memory is not to be had.
    """
    options = config.properties
    try:
        backing = Backing.allocate(host, options["size"], shared=config.type == MEMFD.name)
    except OSError as error:
        size = options["size"]
        raise kernel_error(error, "mmap", config.label, detail=f"{size:#x} bytes") from error
    ram = Ram(config.id, options["size"], readonly=options["readonly"], backing=backing)
    return ram, options["addr"]


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
