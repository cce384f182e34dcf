"""QEMU's edu card: DMA there and back through its buffer, and a factorial, by MSI."""

from __future__ import annotations

import os
from typing import Any

from vfiocore.cli.demo.exercise import Moved, expect
from vfiocore.session import Session

FACTORIAL, STATUS, IRQ_STATUS, IRQ_ACK = 0x08, 0x20, 0x24, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
BUFFER = 0x40000
START, TO_MEMORY, INTERRUPT = 0x1, 0x2, 0x4
STATUS_INTERRUPT = 0x80
DMA_BITS = 28
SIZE = 1024


def exercise(session: Session, card: Any) -> Moved:
    """Send random bytes to the card and have it write them back elsewhere."""
    sent = os.urandom(SIZE)
    bar = card.bars[0]
    with card.enable(), session.dma_alloc(2 * SIZE, below=1 << DMA_BITS) as memory:
        (vector,) = card.msi.enable(1)
        try:
            memory.write(0, sent)
            interrupts = _copy(bar, vector, memory.iova, BUFFER, START | INTERRUPT)
            back = memory.iova + SIZE
            interrupts += _copy(bar, vector, BUFFER, back, START | TO_MEMORY | INTERRUPT)
            expect("the card's copy", memory.read(SIZE, SIZE), sent)
            bar.write32(STATUS, STATUS_INTERRUPT)
            bar.write32(FACTORIAL, 10)
            interrupts += _acknowledge(bar, vector)
            expect("10!", bar.read32(FACTORIAL), 3628800)
        finally:
            card.msi.disable()
    return Moved("DMA to the card and back, MSI", 2 * SIZE, interrupts)


def _copy(bar: Any, vector: Any, source: int, destination: int, command: int) -> int:
    bar.write64(DMA_SOURCE, source)
    bar.write64(DMA_DESTINATION, destination)
    bar.write64(DMA_COUNT, SIZE)
    bar.write64(DMA_COMMAND, command)
    return _acknowledge(bar, vector)


def _acknowledge(bar: Any, vector: Any) -> int:
    count: int = vector.wait(timeout=1)
    bar.write32(IRQ_ACK, bar.read32(IRQ_STATUS))
    return count
