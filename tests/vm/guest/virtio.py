"""Driving a virtio device as a PCI function: its registers, and one virtqueue of a disk.

Little-endian on every machine (virtio 1.0, chapters 2.6, 4.1 and 5.2).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

VENDOR_CAPABILITY = 0x09
COMMON, NOTIFY, ISR, DEVICE = 1, 2, 3, 4
"""The parts of the registers, by the type of the capability that says where each is."""

FEATURE_SELECT, FEATURES = 0x00, 0x04
DRIVER_FEATURE_SELECT, DRIVER_FEATURES = 0x08, 0x0C
NUM_QUEUES, STATUS = 0x12, 0x14
QUEUE_SELECT, QUEUE_SIZE, QUEUE_VECTOR, QUEUE_ENABLE, QUEUE_NOTIFY = 0x16, 0x18, 0x1A, 0x1C, 0x1E
DESCRIPTORS, AVAILABLE, USED = 0x20, 0x28, 0x30
"""Registers of `COMMON`."""

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 0x01, 0x02, 0x04, 0x08, 0x40
VERSION_1, ACCESS_PLATFORM = 1 << 32, 1 << 33

NO_VECTOR = 0xFFFF
READ, WRITE = 0, 1
SECTOR = 512
SECONDS = 20
"""How long a request may take on a slow machine."""

ROOM = 4096
"""What `Disk` takes of its memory."""

_SIZE = 8
_DESCRIPTORS, _AVAILABLE, _USED, _HEADER, _ANSWER = 0x000, 0x100, 0x200, 0x300, 0x310
_NEXT, _DEVICE_WRITES = 1, 2


class BrokenQueueError(Exception):
    """The device could not make sense of its queue, and wants to be reset."""


class Memory(Protocol):
    """What a disk keeps its queue in: a `vfiocore.memory.buffer.DmaBuffer`."""

    @property
    def iova(self) -> int: ...
    def read(self, offset: int, size: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...


class Registers:
    """One part of a function's registers."""

    def __init__(self, card: Any, part: int) -> None:
        bar, self.offset, self.at = _place(card.config_space, part)
        self.bar = card.bars[bar]

    def read8(self, register: int) -> int:
        return int(self.bar.read8(self.offset + register))

    def read16(self, register: int) -> int:
        return int(self.bar.read16(self.offset + register))

    def read32(self, register: int) -> int:
        return int(self.bar.read32(self.offset + register))

    def read64(self, register: int) -> int:
        """Two halves: registers of virtio have 32 bits at most."""
        return self.read32(register) | self.read32(register + 4) << 32

    def write8(self, register: int, value: int) -> None:
        self.bar.write8(self.offset + register, value)

    def write16(self, register: int, value: int) -> None:
        self.bar.write16(self.offset + register, value)

    def write32(self, register: int, value: int) -> None:
        self.bar.write32(self.offset + register, value)

    def write64(self, register: int, value: int) -> None:
        """Two halves."""
        self.write32(register, value & 0xFFFF_FFFF)
        self.write32(register + 4, value >> 32)


def _place(config_space: Any, part: int) -> tuple[int, int, int]:
    """Of a part: its BAR, its offset there, and where its capability is."""
    for capability in config_space.capabilities():
        at = capability.offset
        if capability.id == VENDOR_CAPABILITY and config_space.read8(at + 3) == part:
            return config_space.read8(at + 4), config_space.read32(at + 8), at
    raise AssertionError(f"no capability says where part {part} of the registers is")


def features(common: Registers) -> int:
    """What the device offers."""
    found = 0
    for half in (0, 1):
        common.write32(FEATURE_SELECT, half)
        found |= common.read32(FEATURES) << 32 * half
    return found


def reset(common: Registers) -> None:
    """Have the device forget everything."""
    common.write8(STATUS, 0)
    until(lambda: common.read8(STATUS) == 0, "the device does not come out of its reset")


def negotiate(common: Registers, wanted: int) -> None:
    """Agree on features, as every driver begins."""
    reset(common)
    common.write8(STATUS, ACKNOWLEDGE | DRIVER)
    for half in (0, 1):
        common.write32(DRIVER_FEATURE_SELECT, half)
        common.write32(DRIVER_FEATURES, wanted >> 32 * half & 0xFFFF_FFFF)
    common.write8(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert common.read8(STATUS) & FEATURES_OK, f"the device does without {wanted:#x}"


class Disk:
    """A virtio disk at work: one queue, one request at a time.

    The card decodes memory and masters the bus; its queue is in the first `ROOM` bytes of memory
    that it reaches. It interrupts by the vector of a number, after each request.
    """

    def __init__(self, card: Any, memory: Memory, vector: int = NO_VECTOR) -> None:
        self._common, self._notify = Registers(card, COMMON), Registers(card, NOTIFY)
        self._config = Registers(card, DEVICE)
        self._memory = memory
        self._requests = 0
        memory.write(0, bytes(ROOM))
        negotiate(self._common, VERSION_1 | ACCESS_PLATFORM)
        self._doorbell = self._set_up_queue(card, vector)
        self._common.write8(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    @property
    def sectors(self) -> int:
        """Its capacity."""
        return self._config.read64(0)

    def write(self, sector: int, *pieces: tuple[int, int]) -> int:
        """Write a sector from pieces of memory, each an iova and a size; 0 if all is well."""
        return self._request(WRITE, sector, pieces)

    def read(self, sector: int, *pieces: tuple[int, int]) -> int:
        """Read a sector to pieces of memory; 0 if all is well."""
        return self._request(READ, sector, pieces)

    def send(self, kind: int, sector: int, *pieces: tuple[int, int]) -> None:
        """Begin a request, whatever comes of it."""
        assert sum(size for _, size in pieces) == SECTOR
        iova = self._memory.iova
        self._memory.write(_HEADER, struct.pack("<IIQ", kind, 0, sector))
        self._memory.write(_ANSWER, b"\xff")
        data = [(at, size, _DEVICE_WRITES if kind == READ else 0) for at, size in pieces]
        self._chain([(iova + _HEADER, 16, 0), *data, (iova + _ANSWER, 1, _DEVICE_WRITES)])
        self._ring()

    def stop(self) -> None:
        """From now on it leaves memory alone."""
        reset(self._common)

    # ----------------------------------------------------------------------------------------
    def _request(self, kind: int, sector: int, pieces: Sequence[tuple[int, int]]) -> int:
        self.send(kind, sector, *pieces)
        until(self._is_done, "the request does not end")
        return self._memory.read(_ANSWER, 1)[0]

    def _set_up_queue(self, card: Any, vector: int) -> int:
        common, iova = self._common, self._memory.iova
        common.write16(QUEUE_SELECT, 0)
        common.write16(QUEUE_SIZE, _SIZE)
        common.write16(QUEUE_VECTOR, vector)
        common.write64(DESCRIPTORS, iova + _DESCRIPTORS)
        common.write64(AVAILABLE, iova + _AVAILABLE)
        common.write64(USED, iova + _USED)
        common.write16(QUEUE_ENABLE, 1)
        multiplier: int = card.config_space.read32(self._notify.at + 16)
        return common.read16(QUEUE_NOTIFY) * multiplier

    def _chain(self, parts: Sequence[tuple[int, int, int]]) -> None:
        last = len(parts) - 1
        table = b"".join(
            struct.pack("<QIHH", at, size, flags | (_NEXT if n < last else 0), n + 1)
            for n, (at, size, flags) in enumerate(parts)
        )
        self._memory.write(_DESCRIPTORS, table)

    def _ring(self) -> None:
        slot = _AVAILABLE + 4 + 2 * (self._requests % _SIZE)
        self._memory.write(slot, struct.pack("<H", 0))
        self._requests += 1
        self._memory.write(_AVAILABLE + 2, struct.pack("<H", self._requests & 0xFFFF))
        self._notify.write16(self._doorbell, 0)

    def _is_done(self) -> bool:
        if self._common.read8(STATUS) & NEEDS_RESET:
            raise BrokenQueueError
        (used,) = struct.unpack("<H", self._memory.read(_USED + 2, 2))
        return bool(used == self._requests & 0xFFFF)


def until(done: Callable[[], bool], otherwise: str) -> None:
    """Wait for something to be so, within `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.0005)
