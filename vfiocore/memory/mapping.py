"""One range of memory as a device sees it."""

from __future__ import annotations

import enum

from attrs import frozen


class Access(enum.Flag):
    """What a device may do with memory. The values are those of VFIO_DMA_MAP_FLAG_READ/WRITE."""

    READ = 1
    WRITE = 2
    READ_WRITE = 3


_READ_WRITE = Access.READ_WRITE


# A frozen attrs class: about 0.5 µs to make, two to three times a NamedTuple, which would be equal
# to any tuple with the same numbers and could be unpacked in the wrong order.
@frozen
class DmaMapping:
    """The `size` bytes of process memory at `vaddr`, which a device reaches at `iova`.

    Attributes:
        iova: The address on the device's side, in bytes.
        size: In bytes.
        vaddr: The address in this process.
        access: What the device may do.
        fd: A memory file (memfd) with the same memory, which iommufd can map by file.
        fd_offset: Where in the file the memory begins, in bytes.
    """

    iova: int
    size: int
    vaddr: int
    access: Access = _READ_WRITE
    fd: int | None = None
    fd_offset: int = 0

    @property
    def last(self) -> int:
        """The last IOVA, included."""
        return self.iova + self.size - 1

    def __str__(self) -> str:
        return f"{self.iova:#x}-{self.last:#x} → {self.vaddr:#x}"
