"""Channel programs for the control unit of QEMU's channel-attached virtio devices.

What they are is in virtio 1.0, chapter 4.3; numbers in big-endian, but where it says otherwise.
"""

from __future__ import annotations

import struct
from typing import Any

from vfiocore import Session
from vfiocore_ccw.channel import ADDRESS_LIMIT, ChannelProgram
from vfiocore_ccw.completion import Completion

READ_FEATURES, WRITE_FEATURES = 0x12, 0x11
READ_CONFIGURATION, WRITE_CONFIGURATION = 0x22, 0x21
WRITE_STATUS, READ_QUEUE = 0x31, 0x32
SET_REVISION = 0x83

VERSION_1_HALF, VERSION_1 = 1, 1
"""A half of the feature bits, and a bit in it: the device keeps to virtio 1.0."""

DATA = 0x1000
"""Where in the memory of a `Channel` there is room for data; the kernel reads 2 KiB of program."""

ROOM = 0x3000
SECONDS = 20
"""How long a program may take on a slow machine."""


class Channel:
    """A subchannel with memory for a program and its data."""

    def __init__(self, session: Session, name: str = "dev0") -> None:
        self.device: Any = session[name]
        self.memory = session.dma_alloc(ROOM, below=ADDRESS_LIMIT)

    def at(self, offset: int) -> int:
        """The iova of data."""
        return self.memory.iova + DATA + offset

    def put(self, data: bytes, offset: int = 0) -> None:
        """Lay data ready."""
        self.memory.write(DATA + offset, data)

    def get(self, size: int, offset: int = 0) -> bytes:
        """The data that is there now."""
        return self.memory.read(DATA + offset, size)

    def command(self, code: int, size: int, offset: int = 0, *, sli: bool = False) -> Completion:
        """Run a program of one command."""
        return self.run(ChannelProgram().command(code, self.at(offset), size, sli=sli))

    def run(self, program: ChannelProgram) -> Completion:
        """Run a program."""
        self.memory.write(0, program.to_bytes())
        ending: Completion = self.device.run(self.memory.iova, timeout=SECONDS)
        return ending

    # -- what a driver of virtio does --------------------------------------------------------
    def set_revision(self, revision: int) -> Completion:
        """The first thing that a driver says; once."""
        self.put(struct.pack(">HH", revision, 0))
        return self.command(SET_REVISION, 4)

    def features(self, half: int) -> int:
        """32 of the bits that the device offers; little-endian."""
        self.put(struct.pack("<IB", 0, half))
        assert self.command(READ_FEATURES, 5).ok
        return int.from_bytes(self.get(4), "little")

    def agree(self, half: int, bits: int) -> Completion:
        """Accept 32 of the bits; little-endian."""
        self.put(struct.pack("<IB", bits, half))
        return self.command(WRITE_FEATURES, 5)

    def configuration(self, size: int) -> bytes:
        """The first bytes of the device's configuration, in the byte order of its revision."""
        assert self.command(READ_CONFIGURATION, size).ok
        return self.get(size)
