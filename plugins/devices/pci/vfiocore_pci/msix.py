"""Where the MSI-X table is, and what of its BAR may be mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import frozen

from vfiocore.region import Area
from vfiocore.uapi import pci_regs as pci
from vfiocore_pci.config_space import ConfigSpace


@frozen
class MsixTable:
    """The place of the MSI-X table; the kernel alone programs it.

    Attributes:
        bar: The index of the BAR that it is in.
        offset: Where it begins in the BAR, in bytes.
        vectors: How many entries it has.
    """

    bar: int
    offset: int
    vectors: int

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.vectors * pci.PCI_MSIX_ENTRY_SIZE


def find_msix_table(config: ConfigSpace) -> MsixTable | None:
    """The table's place as the MSI-X capability tells it, or None without MSI-X."""
    capability = config.find_capability(pci.PCI_CAP_ID_MSIX)
    if capability is None:
        return None
    flags = config.read16(capability.offset + pci.PCI_MSIX_FLAGS)
    table = config.read32(capability.offset + pci.PCI_MSIX_TABLE)
    return MsixTable(
        bar=table & pci.PCI_MSIX_TABLE_BIR,
        offset=table & pci.PCI_MSIX_TABLE_OFFSET,
        vectors=(flags & pci.PCI_MSIX_FLAGS_QSIZE) + 1,
    )


def without_table(areas: Iterable[Area], table: MsixTable, page_size: int) -> Iterator[Area]:
    """The areas without the pages (of `page_size` bytes) that the table touches.

    Before Linux 4.16 the kernel refuses to map them (vfio_pci.c:vfio_pci_mmap).
    """
    start = table.offset // page_size * page_size
    end = -(-(table.offset + table.size) // page_size) * page_size
    for area in areas:
        area_end = area.offset + area.size
        if area.offset < min(start, area_end):
            yield Area(area.offset, min(start, area_end) - area.offset)
        if max(end, area.offset) < area_end:
            yield Area(max(end, area.offset), area_end - max(end, area.offset))
