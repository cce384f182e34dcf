"""Memory that comes and goes in blocks, and behind a virtual IOMMU, on a real IOMMU."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from vfiocore.memory import (
    AddressSpace,
    Backing,
    DiscardableRam,
    IommuRegion,
    MemoryRegion,
    Ram,
    Translation,
)
from vfiocore.session import Session

from . import edu as card_of
from .devices import Device
from .way import Way

BLOCK = mmap.PAGESIZE
BLOCKS = 4
SHOWN_AT = 1 << 24
"""No IOMMU reserves anything there."""


@contextmanager
def shown(session: Session, region: MemoryRegion) -> Iterator[None]:
    session.memory.root.add(region, SHOWN_AT)
    try:
        yield
    finally:
        session.memory.root.remove(region)


def where_a_card_writes(session: Session, memory: mmap.mmap) -> set[int]:
    """The blocks of `memory` that change when the card writes to every block that is shown."""
    card = session["dev0"]
    memory[:] = bytes(len(memory))
    with (
        card_of.running(card) as vector,
        session.dma_alloc(BLOCK, below=card_of.REACH) as source,
    ):
        source.write(0, b"precious")
        card_of.load(card, vector, source.iova, 8)
        for block in range(BLOCKS):
            card_of.store(card, vector, SHOWN_AT + block * BLOCK, 8)
    return {block for block in range(BLOCKS) if any(memory[block * BLOCK : (block + 1) * BLOCK])}


def test_each_block_comes_and_goes_by_itself(edu: Device, way: Way) -> None:
    memory = mmap.mmap(-1, BLOCKS * BLOCK)
    with way.open(edu) as session, Backing.of(memory) as backing:
        ram = DiscardableRam("dimm", BLOCKS * BLOCK, backing, BLOCK)
        with shown(session, ram):
            ram.populate(0, 3 * BLOCK)
            ram.discard(BLOCK, BLOCK)
            assert where_a_card_writes(session, memory) == {0, 2}


def test_a_card_reaches_what_a_virtual_iommu_translates(edu: Device, way: Way) -> None:
    memory = mmap.mmap(-1, BLOCKS * BLOCK)
    with way.open(edu) as session, Backing.of(memory) as backing:
        guest = AddressSpace("guest memory")
        guest.root.add(Ram("ram", BLOCKS * BLOCK, backing), 0)
        viommu = IommuRegion("viommu", BLOCKS * BLOCK, guest)
        with shown(session, viommu):
            viommu.map([Translation(0, BLOCK, 3 * BLOCK), Translation(BLOCK, 2 * BLOCK, 0)])
            viommu.unmap(BLOCK, 2 * BLOCK)
            assert where_a_card_writes(session, memory) == {3}
