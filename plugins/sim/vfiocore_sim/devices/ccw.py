"""A fixed-block (FBA) disk on an I/O subchannel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from attrs import frozen

from vfiocore.uapi.s390_cio import (
    CCW_CMD_BASIC_SENSE,
    CCW_CMD_NOOP,
    CCW_CMD_RDC,
    CCW_CMD_READ_IPL,
    CCW_CMD_SENSE_ID,
    SCSW_DSTAT_CHANNEL_END,
    SCSW_DSTAT_DEVICE_END,
    SCSW_DSTAT_UNIT_CHECK,
)
from vfiocore_sim.vfio.ccw import CcwSubchannel
from vfiocore_sim.vfio.channel import ChannelData, Ending

BLOCK_SIZE = 512

#: FBA commands (drivers/s390/block/dasd_fba.h).
CMD_WRITE = 0x41
CMD_READ = 0x42
CMD_LOCATE = 0x43
CMD_DEFINE_EXTENT = 0x63

#: LOCATE operations.
OPERATION_WRITE = 0x5
OPERATION_READ = 0x6

#: DEFINE EXTENT permission, the upper two bits of its first byte.
PERMISSION_MASK = 0xC0
PERMISSION_READ_ONLY = 0x40

#: Sense byte 0 and 1.
SENSE_COMMAND_REJECT = 0x80
SENSE_FILE_PROTECTED = 0x04
SENSE_SIZE = 32

CONTROL_UNIT = (0x6310, 0x80)
DEVICE = (0x9336, 0x10)

_UNIT_CHECK = SCSW_DSTAT_CHANNEL_END | SCSW_DSTAT_DEVICE_END | SCSW_DSTAT_UNIT_CHECK


class _DefineExtent(ctypes.BigEndianStructure):
    """Struct DE_fba_data."""

    _fields_ = (
        ("mask", ctypes.c_uint8),
        ("zero", ctypes.c_uint8),
        ("block_size", ctypes.c_uint16),
        ("location", ctypes.c_uint32),
        ("begin", ctypes.c_uint32),
        ("end", ctypes.c_uint32),
    )


class _Locate(ctypes.BigEndianStructure):
    """Struct LO_fba_data."""

    _fields_ = (
        ("operation", ctypes.c_uint8),
        ("auxiliary", ctypes.c_uint8),
        ("count", ctypes.c_uint16),
        ("block", ctypes.c_uint32),
    )


class _Characteristics(ctypes.BigEndianStructure):
    """Struct dasd_fba_characteristics, 32 bytes."""

    _fields_ = (
        ("mode", ctypes.c_uint8),
        ("features", ctypes.c_uint8),
        ("device_class", ctypes.c_uint8),
        ("unit_type", ctypes.c_uint8),
        ("block_size", ctypes.c_uint16),
        ("blocks_per_cylinder", ctypes.c_uint32),
        ("blocks_per_boundary", ctypes.c_uint32),
        ("blocks", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 12),
    )
    _pack_ = 1


@frozen
class _Extent:
    """What DEFINE EXTENT allows: blocks `start` to `start + blocks - 1` of the disk."""

    start: int
    first: int
    last: int
    read_only: bool

    def block(self, number: int, count: int) -> int | None:
        """The disk block of block `number` of the extent, if `count` blocks from there are in it."""
        if not count or number < self.first or number + count - 1 > self.last:
            return None
        return self.start + number - self.first


@frozen
class _Located:
    block: int
    count: int
    operation: int


class CcwDiskDevice(CcwSubchannel):
    """A 9336-type disk of 512-byte blocks: SENSE ID, SENSE, FBA reads and writes.

    A read or a write is one chain of DEFINE EXTENT, LOCATE and READ or WRITE. A command out of
    turn, an unknown one or a block outside the extent ends with unit check; SENSE tells why.

    Args:
        blocks: Size of an empty disk in blocks of 512 bytes.
        content: What is on the disk from block 0 on; it may enlarge the disk.
        device_number: See `CcwSubchannel`.
        chpids: See `CcwSubchannel`.
        latency: See `CcwSubchannel`.
    """

    def __init__(
        self,
        *,
        blocks: int = 2048,
        content: bytes = b"",
        device_number: int = 0x1234,
        chpids: Sequence[int] = (0x40,),
        latency: float = 0.0,
    ) -> None:
        super().__init__(device_number=device_number, chpids=chpids, latency=latency)
        size = max(blocks, -(-len(content) // BLOCK_SIZE)) * BLOCK_SIZE
        #: The bytes of the disk.
        self.content: bytearray = bytearray(content.ljust(size, b"\0"))
        self.device_reset()

    @property
    def blocks(self) -> int:
        """The size of the disk in blocks."""
        return len(self.content) // BLOCK_SIZE

    def device_reset(self) -> None:
        """No extent, nothing located, no sense data."""
        self._extent: _Extent | None = None
        self._located: _Located | None = None
        self._sense = bytes(SENSE_SIZE)

    def execute(self, command: int, data: ChannelData) -> Ending:
        """One FBA command."""
        handlers: dict[int, Callable[[ChannelData], Ending]] = {
            CCW_CMD_NOOP: lambda _data: Ending(immediate=True),
            CCW_CMD_READ_IPL: self._read_ipl,
            CCW_CMD_BASIC_SENSE: self._basic_sense,
            CCW_CMD_SENSE_ID: self._sense_id,
            CCW_CMD_RDC: self._read_characteristics,
            CMD_DEFINE_EXTENT: self._define_extent,
            CMD_LOCATE: self._locate_blocks,
            CMD_READ: self._read,
            CMD_WRITE: self._write,
        }
        handler = handlers.get(command)
        if handler is None:
            return self._reject(SENSE_COMMAND_REJECT)
        return handler(data)

    def _reject(self, *sense: int) -> Ending:
        self._sense = bytes(sense).ljust(SENSE_SIZE, b"\0")
        self._extent = self._located = None
        # Nothing was transferred and the count does not matter beside a unit check.
        return Ending(dstat=_UNIT_CHECK, immediate=True)

    def _sense_id(self, data: ChannelData) -> Ending:
        unit, device = CONTROL_UNIT, DEVICE
        raw = b"\xff" + unit[0].to_bytes(2, "big") + bytes([unit[1]])
        return _send(data, raw + device[0].to_bytes(2, "big") + bytes([device[1]]))

    def _basic_sense(self, data: ChannelData) -> Ending:
        sense, self._sense = self._sense, bytes(SENSE_SIZE)
        return _send(data, sense)

    def _read_ipl(self, data: ChannelData) -> Ending:
        return _send(data, bytes(self.content[:BLOCK_SIZE]))

    def _read_characteristics(self, data: ChannelData) -> Ending:
        raw = _Characteristics(
            device_class=0x21, block_size=BLOCK_SIZE, blocks_per_cylinder=64, blocks=self.blocks
        )
        return _send(data, bytes(raw))

    def _define_extent(self, data: ChannelData) -> Ending:
        raw = data.get(ctypes.sizeof(_DefineExtent))
        if len(raw) < ctypes.sizeof(_DefineExtent):
            return self._reject(SENSE_COMMAND_REJECT)
        extent = _DefineExtent.from_buffer_copy(raw)
        length = extent.end - extent.begin + 1
        if extent.end < extent.begin or extent.location + length > self.blocks:
            return self._reject(SENSE_COMMAND_REJECT)
        read_only = extent.mask & PERMISSION_MASK == PERMISSION_READ_ONLY
        self._extent = _Extent(extent.location, extent.begin, extent.end, read_only)
        self._located = None
        return Ending(used=len(raw))

    def _locate_blocks(self, data: ChannelData) -> Ending:
        raw = data.get(ctypes.sizeof(_Locate))
        if len(raw) < ctypes.sizeof(_Locate) or self._extent is None:
            return self._reject(SENSE_COMMAND_REJECT)
        wanted = _Locate.from_buffer_copy(raw)
        operation = wanted.operation & 0xF
        if operation not in (OPERATION_READ, OPERATION_WRITE):
            return self._reject(SENSE_COMMAND_REJECT)
        block = self._extent.block(wanted.block, wanted.count)
        if block is None or (operation == OPERATION_WRITE and self._extent.read_only):
            return self._reject(0, SENSE_FILE_PROTECTED)
        self._located = _Located(block, wanted.count, operation)
        return Ending(used=len(raw))

    def _read(self, data: ChannelData) -> Ending:
        at = self._take_located(OPERATION_READ)
        if at is None:
            return self._reject(SENSE_COMMAND_REJECT)
        return _send(data, bytes(self.content[at]))

    def _write(self, data: ChannelData) -> Ending:
        at = self._take_located(OPERATION_WRITE)
        if at is None:
            return self._reject(SENSE_COMMAND_REJECT)
        wanted = at.stop - at.start
        raw = data.get(wanted)
        # A block that the program cuts short is filled up with zeros.
        whole = -(-len(raw) // BLOCK_SIZE) * BLOCK_SIZE
        self.content[at.start : at.start + whole] = raw.ljust(whole, b"\0")
        return Ending(used=wanted)

    def _take_located(self, operation: int) -> slice | None:
        located, self._located = self._located, None
        if located is None or located.operation != operation:
            return None
        start = located.block * BLOCK_SIZE
        return slice(start, start + located.count * BLOCK_SIZE)


def _send(data: ChannelData, raw: bytes) -> Ending:
    """Hand `raw` to the program; all of it counts as offered, whatever the room was."""
    data.put(raw)
    return Ending(used=len(raw))
