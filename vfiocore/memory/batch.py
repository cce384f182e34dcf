"""Many mappings at once, and what one look at all of them tells.

A loop over mappings costs more in Python than the ioctl that each of them needs. What can be said
of a whole batch is therefore computed on columns of numbers, in C; only a batch that does not pass
is gone through item by item, to name the one at fault.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import add

from attrs import evolve, frozen

from vfiocore.memory.mapping import Access, DmaMapping

BULK = 16
"""From how many mappings on columns pay; below, a loop is as fast."""


@frozen(eq=False)
class Columns:
    """The numbers of a batch, one array for each field; in bytes.

    Attributes:
        iovas: Where devices see each mapping.
        sizes: How long each is.
        vaddrs: Where each is in the process.
        end: The IOVA behind the last mapping, if they are in order.
        in_order: True if the mappings rise, none is empty and none overlaps the one before.
    """

    iovas: array[int]
    sizes: array[int]
    vaddrs: array[int]
    end: int
    in_order: bool

    @property
    def start(self) -> int:
        """The first IOVA."""
        return self.iovas[0]

    def aligned(self, page_size: int) -> bool:
        """True if every address and size is a multiple of `page_size`, a power of two."""
        order = sys.byteorder
        bits = (
            int.from_bytes(self.iovas, order)
            | int.from_bytes(self.sizes, order)
            | int.from_bytes(self.vaddrs, order)
        )
        forbidden = array("Q", [page_size - 1]) * len(self.iovas)
        return not bits & int.from_bytes(forbidden, order)


class DmaBatch(tuple[DmaMapping, ...]):  # noqa: SLOT001 - cached properties need a dict
    """Mappings that are handed on together; a sequence, whose columns are made when asked for."""

    @classmethod
    def of(cls, batch: Sequence[DmaMapping]) -> DmaBatch:
        """The batch itself if it is one; so whoever is handed it finds the columns there."""
        return batch if isinstance(batch, cls) else cls(batch)

    @cached_property
    def columns(self) -> Columns | None:
        """The columns; None if a number does not fit 64 bits."""
        iovas = [mapping.iova for mapping in self]
        sizes = [mapping.size for mapping in self]
        vaddrs = [mapping.vaddr for mapping in self]
        edges = [0] * (2 * len(self))
        edges[::2] = iovas
        edges[1::2] = map(add, iovas, sizes)
        try:
            return Columns(
                array("Q", iovas),
                array("Q", sizes),
                array("Q", vaddrs),
                end=edges[-1],
                # Sorting what is sorted is one pass.
                in_order=all(sizes) and edges == sorted(edges),
            )
        except OverflowError:
            return None

    @cached_property
    def access(self) -> Access | None:
        """What the device may do with all of it; None if that differs."""
        kinds = [mapping.access for mapping in self]
        return kinds[0] if kinds.count(kinds[0]) == len(kinds) else None

    @cached_property
    def has_files(self) -> bool:
        """True if a memory file is known for any."""
        files = [mapping.fd for mapping in self]
        return files.count(None) < len(files)


def merged(mappings: Iterable[DmaMapping]) -> DmaBatch:
    """The same memory at the same addresses in as few mappings as possible: neighbours are one.

    Two mappings are neighbours if the second comes right after the first, in `mappings` as in IOVA,
    in the process and in the memory file, and devices may do the same with both. What overlaps stays
    apart, and is refused when it is mapped.

    The result is what is to be mapped, and what is unmapped later: the kernel unmaps as it mapped,
    so one of several neighbours cannot go alone (`DmaSplitError`).
    """
    result: list[DmaMapping] = []
    first: DmaMapping | None = None
    end = shift = file_shift = 0
    access, fd = None, None
    for mapping in mappings:
        iova, size = mapping.iova, mapping.size
        if (
            iova != end
            or mapping.vaddr - iova != shift
            or mapping.access is not access
            or mapping.fd != fd
            or (fd is not None and mapping.fd_offset - iova != file_shift)
            or size <= 0  # to be refused, and not to vanish in another
        ):
            if first is not None:
                result.append(_extended(first, end))
            first = mapping
            shift, file_shift = mapping.vaddr - iova, mapping.fd_offset - iova
            access, fd = mapping.access, mapping.fd
        end = iova + size
    if first is not None:
        result.append(_extended(first, end))
    return DmaBatch(result)


def _extended(first: DmaMapping, end: int) -> DmaMapping:
    size = end - first.iova
    return first if size == first.size else evolve(first, size=size)
