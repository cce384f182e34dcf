"""Driving QEMU's edu card, which takes a tenth of a second for each transfer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vfiocore.irq import Vector

IDENTITY, LIVENESS, FACTORIAL, STATUS = 0x00, 0x04, 0x08, 0x20
IRQ_STATUS, IRQ_RAISE, IRQ_ACK = 0x24, 0x60, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_MEMORY, INTERRUPT = 0x1, 0x2, 0x4
COMPUTING = 0x1

BUFFER = 0x40000
"""Where the card keeps 4 KiB of its own."""

REACH = 1 << 28
"""Its DMA engine has 28 address bits."""

SECONDS = 20
"""How long a transfer may take on a slow machine."""


@contextmanager
def running(card: Any) -> Iterator[Vector]:
    """The card with its decoding, bus mastering and MSI on."""
    with card.enable():
        (vector,) = card.msi.enable(1)
        try:
            yield vector
        finally:
            card.msi.disable()


def load(card: Any, vector: Vector, source: int, size: int) -> int:
    """Have the card read memory into its buffer; how many interrupts that made."""
    return move(card, vector, source, BUFFER, size)


def store(card: Any, vector: Vector, destination: int, size: int) -> int:
    """Have the card write its buffer to memory; how many interrupts that made."""
    return move(card, vector, BUFFER, destination, size)


def move(card: Any, vector: Vector, source: int, destination: int, size: int) -> int:
    """Have the card move bytes between memory and its buffer; how many interrupts that made."""
    start(card, source, destination, size)
    count: int = vector.wait(timeout=SECONDS)
    bar = card.bars[0]
    bar.write32(IRQ_ACK, bar.read32(IRQ_STATUS))
    return count


def start(card: Any, source: int, destination: int, size: int) -> None:
    """Have the card begin to move bytes between memory and its buffer."""
    direction = TO_MEMORY if source == BUFFER else 0
    bar = card.bars[0]
    bar.write64(DMA_SOURCE, source)
    bar.write64(DMA_DESTINATION, destination)
    bar.write64(DMA_COUNT, size)
    bar.write64(DMA_COMMAND, START | INTERRUPT | direction)


def wait_until_idle(card: Any) -> None:
    """Let a transfer come to its end that somebody else began: the card has no reset that ends it."""
    deadline = time.monotonic() + SECONDS
    with card.enable():
        while card.bars[0].read64(DMA_COMMAND) & START:
            assert time.monotonic() < deadline, "the card is still at work"
