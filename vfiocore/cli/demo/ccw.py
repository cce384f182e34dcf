"""A mainframe disk: SENSE ID, then a block written and read back, by channel programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from vfiocore.cli.demo.exercise import Moved, expect
from vfiocore.session import Session
from vfiocore.uapi.s390_cio import CCW1, CCW_CMD_SENSE_ID, CCW_FLAG_CC, CCW_FLAG_SLI

DEFINE_EXTENT, LOCATE, READ, WRITE = 0x63, 0x43, 0x42, 0x41
READ_WRITE_EXTENT, WRITE_DATA, READ_DATA = 0xC0, 0x05, 0x06
BLOCK = 512
BLOCK_NUMBER = 5
ADDRESS_LIMIT = 1 << 31
"""A CCW has a 31-bit address."""

PROGRAM, ARGUMENTS, DATA = 0x0, 0x80, 0x200


def exercise(session: Session, disk: Any) -> Moved:
    """Ask the disk what it is, then write a block of random bytes and read it back."""
    block = os.urandom(BLOCK)
    with session.dma_alloc(DATA + 2 * BLOCK, below=ADDRESS_LIMIT) as memory:
        base = memory.iova
        memory.write(PROGRAM, _program([(CCW_CMD_SENSE_ID, CCW_FLAG_SLI, 20, base + DATA)]))
        expect("SENSE ID ended well", disk.run(base, timeout=1).ok, wanted=True)
        identity = memory.read(DATA, 7)
        expect("the first byte of SENSE ID", identity[0], 0xFF)

        memory.write(DATA, block)
        _transfer(disk, memory, WRITE, WRITE_DATA, base + DATA)
        _transfer(disk, memory, READ, READ_DATA, base + DATA + BLOCK)
        expect("the block", memory.read(DATA + BLOCK, BLOCK), block)
    kind = f"{identity[1:3].hex()}/{identity[4:6].hex()}"
    return Moved(f"SENSE ID says {kind}, a block written and read", 2 * BLOCK + 7, 3)


def _transfer(disk: Any, memory: Any, command: int, operation: int, address: int) -> None:
    """Move one block: DEFINE EXTENT over the first blocks, LOCATE the block, READ or WRITE."""
    extent = bytes([READ_WRITE_EXTENT, 0]) + b"".join(
        number.to_bytes(width, "big") for number, width in ((BLOCK, 2), (0, 4), (0, 4), (15, 4))
    )
    locate = bytes([operation, 0]) + (1).to_bytes(2, "big") + BLOCK_NUMBER.to_bytes(4, "big")
    arguments = memory.iova + ARGUMENTS
    memory.write(ARGUMENTS, extent + locate)
    memory.write(
        PROGRAM,
        _program(
            [
                (DEFINE_EXTENT, CCW_FLAG_CC, len(extent), arguments),
                (LOCATE, CCW_FLAG_CC, len(locate), arguments + len(extent)),
                (command, 0, BLOCK, address),
            ]
        ),
    )
    expect(f"command {command:#x} ended well", disk.run(memory.iova, timeout=1).ok, wanted=True)


def _program(words: Sequence[tuple[int, int, int, int]]) -> bytes:
    return b"".join(bytes(CCW1(*word)) for word in words)
