"""Channel programs: fetching CCWs from guest memory as vfio-ccw does, and walking them.

The layouts are big-endian by definition of the architecture, on every machine.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from attrs import define, field, frozen

from vfiocore.uapi.s390_cio import (
    CCW0,
    CCW1,
    CCW_CMD_NOOP,
    CCW_CMD_TIC,
    CCW_FLAG_CC,
    CCW_FLAG_DC,
    CCW_FLAG_IDA,
    CCW_FLAG_PCI,
    CCW_FLAG_SKIP,
    CCW_FLAG_SLI,
    CCW_FLAG_SUSPEND,
    ORB,
    ORB_CTRL0_MASK_C64,
    ORB_CTRL0_MASK_FMT,
    ORB_CTRL0_MASK_I2K,
    SCSW_CSTAT_INCORR_LEN,
    SCSW_CSTAT_PCI,
    SCSW_CSTAT_PROG_CHECK,
    SCSW_DSTAT_CHANNEL_END,
    SCSW_DSTAT_DEVICE_END,
)
from vfiocore_sim.device import DmaFault, DmaPort
from vfiocore_sim.refusal import fail

_CCW_SIZE = 8
#: vfio_ccw_cp.c: CCWCHAIN_LEN_MAX, CCWCHAIN_CP_MAX
_MAX_CHAIN = 256
_MAX_CHAINS = 16
_BLOCK_2K = 2048
_BLOCK_4K = 4096
_DONE = SCSW_DSTAT_CHANNEL_END | SCSW_DSTAT_DEVICE_END


@frozen
class Ccw:
    """One channel command word, whatever its format was."""

    command: int
    flags: int
    #: Bytes to transfer.
    count: int
    #: Address of the data, of an indirect address list, or of the CCW that a TIC goes to.
    address: int

    @property
    def is_tic(self) -> bool:
        """Transfer in channel."""
        return self.command == CCW_CMD_TIC

    @property
    def chains(self) -> bool:
        """Another CCW follows in the chain."""
        return bool(self.flags & (CCW_FLAG_CC | CCW_FLAG_DC))

    @property
    def skips(self) -> bool:
        """A read that stores nothing."""
        reads = self.command & 0x3 == 0x2 or self.command & 0xF in (0x4, 0xC)
        return bool(self.flags & CCW_FLAG_SKIP) and reads

    @property
    def transfers(self) -> bool:
        """``vfio_ccw_cp.c:ccw_does_data_transfer``."""
        return bool(self.count) and self.command != CCW_CMD_NOOP and not self.skips


@frozen
class Segment:
    """A stretch of guest memory: `size` bytes at `iova`."""

    iova: int
    size: int


@frozen
class Program:
    """A channel program whose CCWs are all read and whose data is pinned.

    Attributes:
        start: Address of the first CCW.
        ccws: Every CCW by its address.
        data: Where each transferring CCW's data is, by the address of the CCW.
    """

    start: int
    ccws: Mapping[int, Ccw]
    data: Mapping[int, Sequence[Segment]]

    @property
    def pins(self) -> list[Segment]:
        """What was pinned for the program."""
        return [segment for segments in self.data.values() for segment in segments]


# -- fetching (vfio_ccw_cp.c) -------------------------------------------------------------------
def fetch(orb: ORB, dma: DmaPort) -> Program:
    """Read and pin the program that `orb` points to (``cp_init``, ``cp_prefetch``).

    Raises:
        OSError: EINVAL for memory that is not mapped, too many CCWs (256) or chains (16); EPERM for
            memory without read or write permission; EFAULT for a TIC out of the chains. Nothing
            stays pinned then.
    """
    ccws = _fetch_chains(orb, dma)
    data: dict[int, Sequence[Segment]] = {}
    pinned: list[Segment] = []
    try:
        for address, ccw in ccws.items():
            if ccw.is_tic:
                if ccw.address not in ccws:
                    fail(errno.EFAULT)
            elif ccw.transfers:
                data[address] = _segments(ccw, orb, dma)
                _pin(data[address], pinned, dma)
    except OSError:
        release(pinned, dma)
        raise
    return Program(orb.cpa, ccws, data)


def release(pinned: Sequence[Segment], dma: DmaPort) -> None:
    """Give the pages back (``cp_free``)."""
    for segment in reversed(pinned):
        dma.unpin(segment.iova, segment.size)


def _pin(segments: Sequence[Segment], pinned: list[Segment], dma: DmaPort) -> None:
    for segment in segments:
        dma.pin(segment.iova, segment.size, write=True)
        pinned.append(segment)


def _fetch_chains(orb: ORB, dma: DmaPort) -> dict[int, Ccw]:
    """``ccwchain_handle_ccw`` and ``ccwchain_loop_tic``, without the recursion."""
    ccws: dict[int, Ccw] = {}
    targets = [orb.cpa]
    chains = 0
    while targets:
        target = targets.pop(0)
        if target in ccws:
            continue
        chains += 1
        if chains > _MAX_CHAINS:
            fail(errno.EINVAL)
        chain = _fetch_chain(target, orb, dma)
        ccws.update(chain)
        targets += [ccw.address for ccw in chain.values() if ccw.is_tic]
    return ccws


def _fetch_chain(target: int, orb: ORB, dma: DmaPort) -> dict[int, Ccw]:
    """``ccwchain_handle_ccw``, ``ccwchain_calc_length``: 2 KiB are read whatever the length is."""
    raw = _read(dma, target, _MAX_CHAIN * _CCW_SIZE)
    decode = _decode1 if orb.ctrl0 & ORB_CTRL0_MASK_FMT else _decode0
    chain: dict[int, Ccw] = {}
    for number in range(_MAX_CHAIN):
        address = target + number * _CCW_SIZE
        ccw = decode(raw[number * _CCW_SIZE : (number + 1) * _CCW_SIZE])
        chain[address] = ccw
        # A TIC back into the chain is a loop, and what follows it is part of the chain too.
        loops = ccw.is_tic and target <= ccw.address <= address
        if not ccw.chains and not loops:
            break
    else:
        fail(errno.EINVAL)
    return chain


def _decode0(raw: bytes) -> Ccw:
    ccw = CCW0.from_buffer_copy(raw)
    address = ccw.cda0 << 16 | ccw.cda1
    if ccw.cmd_code & 0xF == CCW_CMD_TIC:
        return Ccw(CCW_CMD_TIC, 0, 0, address)
    return Ccw(ccw.cmd_code, ccw.flags, ccw.count, address)


def _decode1(raw: bytes) -> Ccw:
    ccw = CCW1.from_buffer_copy(raw)
    return Ccw(ccw.cmd_code, ccw.flags, ccw.count, ccw.cda)


def _segments(ccw: Ccw, orb: ORB, dma: DmaPort) -> Sequence[Segment]:
    """``get_guest_idal``, ``ccw_count_idaws``."""
    if not ccw.flags & CCW_FLAG_IDA:
        return [Segment(ccw.address, ccw.count)]
    wide = bool(orb.ctrl0 & ORB_CTRL0_MASK_C64)
    word = 8 if wide else 4
    block = _BLOCK_4K if wide and not orb.ctrl0 & ORB_CTRL0_MASK_I2K else _BLOCK_2K
    first = int.from_bytes(_read(dma, ccw.address, word), "big")
    words = -(-(first % block + ccw.count) // block)
    raw = _read(dma, ccw.address, words * word)
    segments = []
    left = ccw.count
    for number in range(words):
        iova = int.from_bytes(raw[number * word : (number + 1) * word], "big")
        size = min(left, block - first % block if not number else block)
        segments.append(Segment(iova, size))
        left -= size
    return segments


def _read(dma: DmaPort, iova: int, size: int) -> bytes:
    """``vfio_dma_rw``: the driver's own access, refused with an errno and not an IOMMU fault."""
    dma.pin(iova, size, write=False)
    try:
        return dma.read(iova, size)
    finally:
        dma.unpin(iova, size)


# -- walking (the channel subsystem) ------------------------------------------------------------
@frozen
class Ending:
    """How a device ended one command.

    Attributes:
        used: Bytes taken from, or offered to, the channel.
        dstat: Device status; channel end and device end unless something is wrong.
        immediate: The command moved no data by nature: its count is not looked at.
    """

    used: int = 0
    dstat: int = _DONE
    immediate: bool = False


class ControlUnit(Protocol):
    """A device that executes commands."""

    def execute(self, command: int, data: ChannelData) -> Ending:
        """Carry out one command; `data` is the guest memory that its CCWs name."""


@frozen
class Completion:
    """The status of a program that has ended, as the SCSW holds it."""

    cpa: int
    residual: int
    dstat: int
    cstat: int


class _ProgramCheckError(Exception):
    """The channel met something that no program may contain."""


@define
class ChannelData:
    """The data area of one command: the CCWs chained with it by data chaining."""

    _dma: DmaPort
    _parts: list[tuple[Ccw, Sequence[Segment]]] = field(factory=list)

    @property
    def size(self) -> int:
        """How many bytes the program asks for or provides."""
        return sum(ccw.count for ccw, _segments in self._parts)

    def get(self, size: int) -> bytes:
        """The first `size` bytes that the guest sends, or as many as there are."""
        chunks = [self._dma.read(iova, length) for iova, length, _skip in self._stretches(size)]
        return b"".join(chunks)

    def put(self, data: bytes) -> int:
        """Store `data` for the guest, as far as there is room; the bytes stored."""
        done = 0
        for iova, length, skip in self._stretches(len(data)):
            if not skip:
                self._dma.write(iova, data[done : done + length])
            done += length
        return done

    def _stretches(self, size: int) -> Iterator[tuple[int, int, bool]]:
        for ccw, segments in self._parts:
            if ccw.skips:
                segments = [Segment(0, ccw.count)]  # noqa: PLW2901
            for segment in segments:
                length = min(size, segment.size)
                if length:
                    yield segment.iova, length, ccw.skips
                size -= length


def run(program: Program, orb: ORB, dma: DmaPort, unit: ControlUnit) -> Completion:
    """Execute `program` to its end, in the order and with the checks of the channel subsystem.

    A program that suspends ends with a program check: nothing here resumes it.
    """
    return _Walker(program, orb, dma, unit).run()


@define
class _Walker:
    _program: Program
    _orb: ORB
    _dma: DmaPort
    _unit: ControlUnit
    _cstat: int = 0
    _last: int = 0

    def run(self) -> Completion:
        address = self._program.start
        try:
            while True:
                result = self._step(address)
                if isinstance(result, Completion):
                    return result
                address = result
        except (_ProgramCheckError, DmaFault):
            return self._end(0, 0, SCSW_CSTAT_PROG_CHECK)

    def _step(self, address: int) -> Completion | int:
        """Run one command: the address of the next, or the end."""
        address = self._follow(address, may_branch=address != self._program.start)
        command = self._program.ccws[address].command
        chain = self._collect(address)
        parts = [(ccw, self._program.data.get(at, ())) for at, ccw in chain]
        ending = self._unit.execute(command, ChannelData(self._dma, parts))
        self._last, ccw, residual = _stopping_point(chain, ending)
        wrong_length = not ending.immediate and (
            residual != 0 or ending.used > sum(part.count for _at, part in chain)
        )
        if ending.dstat != _DONE:
            return self._end(residual, ending.dstat, 0)
        if wrong_length and not ccw.flags & CCW_FLAG_SLI:
            return self._end(residual, ending.dstat, SCSW_CSTAT_INCORR_LEN)
        last = chain[-1]
        if not last[1].flags & CCW_FLAG_CC:
            return self._end(residual, ending.dstat, 0)
        return last[0] + _CCW_SIZE

    def _follow(self, address: int, *, may_branch: bool) -> int:
        """The CCW at `address`, or the one that the TIC there goes to."""
        ccw = self._ccw(address)
        if not ccw.is_tic:
            return address
        # A program cannot begin with a TIC, and one TIC cannot lead to another.
        if not may_branch or self._ccw(ccw.address).is_tic:
            raise _ProgramCheckError
        return ccw.address

    def _ccw(self, address: int) -> Ccw:
        self._last = address
        ccw = self._program.ccws.get(address)
        if ccw is None:
            raise _ProgramCheckError
        return ccw

    def _collect(self, address: int) -> list[tuple[int, Ccw]]:
        """The CCW at `address` and those that data chaining adds."""
        chain = []
        while True:
            ccw = self._ccw(address)
            self._check(ccw)
            chain.append((address, ccw))
            if not ccw.flags & CCW_FLAG_DC:
                return chain
            address = self._follow(address + _CCW_SIZE, may_branch=True)

    def _check(self, ccw: Ccw) -> None:
        format0 = not self._orb.ctrl0 & ORB_CTRL0_MASK_FMT
        no_count = not ccw.count and (format0 or ccw.flags & CCW_FLAG_DC)
        if ccw.flags & CCW_FLAG_SUSPEND or no_count:
            raise _ProgramCheckError
        if ccw.flags & CCW_FLAG_PCI:
            # The intermediate interruption is merged into the one at the end.
            self._cstat |= SCSW_CSTAT_PCI

    def _end(self, residual: int, dstat: int, cstat: int) -> Completion:
        return Completion(self._last + _CCW_SIZE, residual, dstat, self._cstat | cstat)


def _stopping_point(chain: Sequence[tuple[int, Ccw]], ending: Ending) -> tuple[int, Ccw, int]:
    """The CCW in which the transfer ended, and how many bytes of it were left."""
    used = ending.used
    for address, ccw in chain:
        if used < ccw.count:
            return address, ccw, ccw.count - used
        used -= ccw.count
    address, ccw = chain[-1]
    return address, ccw, 0


def orb_from(raw: bytes) -> ORB:
    """The ORB in an orb_area."""
    return ORB.from_buffer_copy(raw[: ctypes.sizeof(ORB)])
