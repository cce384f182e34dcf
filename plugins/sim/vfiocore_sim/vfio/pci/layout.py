"""What an author declares about a PCI function: its BARs and its MSI-X table."""

from __future__ import annotations

from attrs import frozen

from vfiocore.uapi.pci_regs import (
    PCI_BASE_ADDRESS_MEM_PREFETCH,
    PCI_BASE_ADDRESS_MEM_TYPE_64,
    PCI_BASE_ADDRESS_SPACE_IO,
)

_SMALLEST = 16
_BARS = 6


@frozen(kw_only=True)
class Bar:
    """One base address register.

    Attributes:
        index: 0 to 5; a 64-bit BAR takes the next register too.
        size: In bytes, a power of two, at least 16.
        io: I/O ports instead of memory.
        wide: 64-bit addressing.
        prefetchable: Reads have no side effects.
        ram: Parts that are plain memory, ``(offset, size)`` in bytes. They answer reads and writes
            by themselves and can be mapped; `offset` must be a multiple of the page size, and the
            area is rounded up to whole pages.
    """

    index: int
    size: int
    io: bool = False
    wide: bool = False
    prefetchable: bool = False
    ram: tuple[tuple[int, int], ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.size < _SMALLEST or self.size & (self.size - 1):
            msg = f"BAR {self.index}: {self.size:#x} is not a power of two of at least 16 bytes"
            raise ValueError(msg)
        if not 0 <= self.index + self.wide < _BARS:
            msg = f"BAR {self.index} does not exist or has no register above it"
            raise ValueError(msg)

    @property
    def type_bits(self) -> int:
        """The read-only low bits of the register."""
        if self.io:
            return PCI_BASE_ADDRESS_SPACE_IO
        wide = PCI_BASE_ADDRESS_MEM_TYPE_64 if self.wide else 0
        return wide | (PCI_BASE_ADDRESS_MEM_PREFETCH if self.prefetchable else 0)


@frozen(kw_only=True)
class MsixTable:
    """Where the MSI-X table and pending bits live: offsets in bytes inside `bar`."""

    vectors: int
    bar: int
    table: int
    pba: int

    @property
    def size(self) -> int:
        """The size of the table in bytes."""
        return self.vectors * 16
