"""The registers of the edu card, and what a driver does with them."""

from __future__ import annotations

from typing import Any

IDENTITY, LIVENESS, FACTORIAL = 0x00, 0x04, 0x08
IRQ_STATUS, IRQ_RAISE, IRQ_ACK = 0x24, 0x60, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_MEMORY, INTERRUPT = 0x1, 0x2, 0x4
BUFFER = 0x40000
"""The card's buffer: only its DMA engine reaches it."""

ASIDE = 0xF00_0000
"""Where the helpers put memory for themselves: above what tests use, in reach of the card."""


def copy(card: Any, source: int, destination: int, size: int, command: int = 0) -> None:
    """Have the card move bytes; the transfer is over when this returns."""
    bar = card.bars[0]
    bar.write64(DMA_SOURCE, source)
    bar.write64(DMA_DESTINATION, destination)
    bar.write64(DMA_COUNT, size)
    bar.write64(DMA_COMMAND, command | START)


def fetch(session: Any, card: Any, iova: int, size: int) -> bytes:
    """Have the card read memory into its buffer; what the buffer has then."""
    copy(card, iova, BUFFER, size)
    with session.dma_alloc(size, iova=ASIDE) as memory:
        copy(card, BUFFER, memory.iova, size, TO_MEMORY)
        found: bytes = memory.read(0, size)
    return found


def store(session: Any, card: Any, iova: int, data: bytes, interrupt: int = 0) -> None:
    """Have the card write its buffer, filled with `data`, to memory."""
    with session.dma_alloc(len(data), iova=ASIDE) as memory:
        memory.write(0, data)
        copy(card, memory.iova, BUFFER, len(data))
    copy(card, BUFFER, iova, len(data), TO_MEMORY | interrupt)


def acknowledge(card: Any) -> int:
    """Take the card's interrupt back; the causes that it had."""
    causes: int = card.bars[0].read32(IRQ_STATUS)
    card.bars[0].write32(IRQ_ACK, causes)
    return causes
