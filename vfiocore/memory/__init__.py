"""Address spaces, IOVA ranges and memory for DMA."""

from vfiocore.memory.allocator import IovaAllocator, NoIovaLeft
from vfiocore.memory.backing import Backing
from vfiocore.memory.batch import Columns, DmaBatch, merged
from vfiocore.memory.buffer import DmaBuffer, address_of
from vfiocore.memory.discard import (
    DiscardableRam,
    DiscardHold,
    DiscardListener,
    RamDiscardPolicy,
)
from vfiocore.memory.flatview import FlatRange, FlatView, difference, flatten
from vfiocore.memory.listener import MemoryListener
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.memory.ranges import FULL_RANGE, IovaRange, intersect, normalise, subtract
from vfiocore.memory.region import Alias, Io, MemoryRegion, Ram, RamDevice, Region
from vfiocore.memory.space import AddressSpace
from vfiocore.memory.table import MappingCut, MappingTable, NothingMapped
from vfiocore.memory.viommu import IommuListener, IommuRegion, Translation

__all__ = [
    "FULL_RANGE",
    "Access",
    "AddressSpace",
    "Alias",
    "Backing",
    "Columns",
    "DiscardHold",
    "DiscardListener",
    "DiscardableRam",
    "DmaBatch",
    "DmaBuffer",
    "DmaMapping",
    "FlatRange",
    "FlatView",
    "Io",
    "IommuListener",
    "IommuRegion",
    "IovaAllocator",
    "IovaRange",
    "MappingCut",
    "MappingTable",
    "MemoryListener",
    "MemoryRegion",
    "NoIovaLeft",
    "NothingMapped",
    "Ram",
    "RamDevice",
    "RamDiscardPolicy",
    "Region",
    "Translation",
    "address_of",
    "difference",
    "flatten",
    "intersect",
    "merged",
    "normalise",
    "subtract",
]
