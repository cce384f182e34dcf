"""A platform timer: a level interrupt that is acknowledged and unmasked, and a record by DMA."""

from __future__ import annotations

import sys
from typing import Any

from vfiocore.cli.demo.exercise import Moved, expect
from vfiocore.session import Session

LOAD, CONTROL, STATUS, ACK, RECORD_LOW, RECORD_HIGH = 0x08, 0x0C, 0x14, 0x18, 0x1C, 0x20
START, EXPIRED = 0x1, 0x1
RECORD_SIZE = 16
MICROSECONDS = 200


def exercise(session: Session, timer: Any) -> Moved:
    """Let the timer expire twice; each time it writes its count of expiries into memory."""
    registers, expired = timer.regions[0], timer.irqs[0]
    with session.dma_alloc(RECORD_SIZE) as record:
        registers.write32(RECORD_LOW, record.iova & 0xFFFFFFFF)
        registers.write32(RECORD_HIGH, record.iova >> 32)
        (vector,) = expired.enable(1)
        try:
            for expiry in (1, 2):
                registers.write32(LOAD, MICROSECONDS)
                registers.write32(CONTROL, START)
                vector.wait(timeout=1)
                expect("status", registers.read32(STATUS), EXPIRED)
                wanted = expiry.to_bytes(8, sys.byteorder) + MICROSECONDS.to_bytes(8, sys.byteorder)
                expect("the record", record.read(0, RECORD_SIZE), wanted)
                registers.write32(ACK, EXPIRED)
                expired.unmask()
        finally:
            expired.disable()
    return Moved("expiries recorded by DMA, level interrupt", 2 * RECORD_SIZE, 2)
