"""One range of memory as a device sees it."""

from __future__ import annotations

import enum
from typing import Any

from attrs import define, frozen


class Access(enum.Flag):
    """What a device may do with memory. The values are those of VFIO_DMA_MAP_FLAG_READ/WRITE."""

    READ = 1
    WRITE = 2
    READ_WRITE = 3


_READ_WRITE = Access.READ_WRITE


@define(eq=False, init=False, weakref_slot=False)
class _Writable:
    """What a mapping is while its numbers are written into it: the same slots, and no lock."""

    iova: int
    size: int
    vaddr: int
    access: Access
    fd: int | None
    fd_offset: int


# A frozen attrs class: a NamedTuple would be equal to any tuple with the same numbers and could be
# unpacked in the wrong order. Mappings come by the thousand, and what attrs does to write into a
# frozen object costs more for each of six fields than to be another class meanwhile costs once.
@frozen(init=False, weakref_slot=False)
class DmaMapping:
    """The `size` bytes of process memory at `vaddr`, which a device reaches at `iova`.

    Attributes:
        iova: The address on the device's side, in bytes.
        size: In bytes.
        vaddr: The address in this process.
        access: What the device may do.
        fd: A file with the same memory, which iommufd can map by file: a memfd, or the dma-buf of
            another device's BAR.
        fd_offset: Where in the file the memory begins, in bytes.
    """

    iova: int
    size: int
    vaddr: int
    access: Access = _READ_WRITE
    fd: int | None = None
    fd_offset: int = 0

    def __init__(
        self,
        iova: int,
        size: int,
        vaddr: int,
        access: Access = _READ_WRITE,
        fd: int | None = None,
        fd_offset: int = 0,
    ) -> None:
        new: Any = self
        object.__setattr__(new, "__class__", _Writable)
        new.iova = iova
        new.size = size
        new.vaddr = vaddr
        new.access = access
        new.fd = fd
        new.fd_offset = fd_offset
        new.__class__ = DmaMapping

    @property
    def last(self) -> int:
        """The last IOVA, included."""
        return self.iova + self.size - 1

    def part(self, offset: int, size: int) -> DmaMapping:
        """The `size` bytes from `offset` on, at the addresses that they have in this mapping."""
        fd_offset = 0 if self.fd is None else self.fd_offset + offset
        iova, vaddr = self.iova + offset, self.vaddr + offset
        return DmaMapping(iova, size, vaddr, self.access, self.fd, fd_offset)

    def __str__(self) -> str:
        return f"{self.iova:#x}-{self.last:#x} → {self.vaddr:#x}"
