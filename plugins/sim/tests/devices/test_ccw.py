"""The CCW disk: vfio-ccw's regions and states, channel programs, FBA commands."""

from __future__ import annotations

import ctypes
import errno
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi.s390_cio import (
    CCW_CMD_BASIC_SENSE,
    CCW_CMD_NOOP,
    CCW_CMD_RDC,
    CCW_CMD_READ_IPL,
    CCW_CMD_SENSE_ID,
    CCW_CMD_TIC,
    CCW_FLAG_CC,
    CCW_FLAG_DC,
    CCW_FLAG_IDA,
    CCW_FLAG_PCI,
    CCW_FLAG_SKIP,
    CCW_FLAG_SLI,
    CCW_FLAG_SUSPEND,
    CRW_ERC_INIT,
    CRW_ERC_PERRN,
    CRW_FLAGS_SHIFT_RSC,
    CRW_RSC_CHP,
    IRB,
    ORB,
    ORB_CTRL0_MASK_C64,
    ORB_CTRL0_MASK_FMT,
    SCHIB,
    SCSW,
    SCSW_CSTAT_INCORR_LEN,
    SCSW_CSTAT_PCI,
    SCSW_CSTAT_PROG_CHECK,
    SCSW_DSTAT_CHANNEL_END,
    SCSW_DSTAT_DEVICE_END,
    SCSW_DSTAT_UNIT_CHECK,
    SCSW_FCTL_CLEAR_FUNC,
    SCSW_FCTL_HALT_FUNC,
    SCSW_FCTL_START_FUNC,
    SCSW_STCTL_ALERT,
    SCSW_STCTL_INTERMEDIATE,
    SCSW_STCTL_PRIMARY,
    SCSW_STCTL_SECONDARY,
    SCSW_STCTL_STATUS_PEND,
)
from vfiocore.uapi.vfio import (
    VFIO_CCW_CRW_IRQ_INDEX,
    VFIO_CCW_IO_IRQ_INDEX,
    VFIO_CCW_REQ_IRQ_INDEX,
    VFIO_DEVICE_FLAGS_CCW,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_REGION_INFO_CAP_TYPE,
    VFIO_REGION_INFO_FLAG_CAPS,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
)
from vfiocore.uapi.vfio_ccw import (
    VFIO_CCW_ASYNC_CMD_CSCH,
    VFIO_CCW_ASYNC_CMD_HSCH,
    ccw_io_region,
)
from vfiocore_sim.devices import CcwDiskDevice
from vfiocore_sim.devices.ccw import (
    CMD_DEFINE_EXTENT,
    CMD_LOCATE,
    CMD_READ,
    CMD_WRITE,
    OPERATION_READ,
    OPERATION_WRITE,
    PERMISSION_READ_ONLY,
    SENSE_COMMAND_REJECT,
    SENSE_FILE_PROTECTED,
)
from vfiocore_sim.vfio.bench import Bench, fired
from vfiocore_sim.vfio.ccw import ASYNC_REGION, CRW_REGION, SCHIB_REGION, State

Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
Disk: TypeAlias = Bench[CcwDiskDevice]
UUID = "7e270a25-e163-4922-af60-757fc8ed48c6"
IO = 0
PROGRAM = 0x1000
DATA = 0x4000
CC, DC, SLI, IDA, SKIP = CCW_FLAG_CC, CCW_FLAG_DC, CCW_FLAG_SLI, CCW_FLAG_IDA, CCW_FLAG_SKIP
GOOD = SCSW_DSTAT_CHANNEL_END | SCSW_DSTAT_DEVICE_END
BAD = GOOD | SCSW_DSTAT_UNIT_CHECK
FINAL = SCSW_STCTL_PRIMARY | SCSW_STCTL_SECONDARY | SCSW_STCTL_STATUS_PEND
#: (command, flags, count, address)
Ccw: TypeAlias = tuple[int, int, int, int]


@pytest.fixture
def disk() -> Iterator[Disk]:
    content = b"".join(bytes([block & 0xFF]) * 512 for block in range(64))
    with Bench(CcwDiskDevice(blocks=64, content=content), name=UUID) as bench:
        yield bench


@pytest.fixture
def slow_disk() -> Iterator[Disk]:
    """A disk whose channel programs never end by themselves within a test."""
    with Bench(CcwDiskDevice(latency=60.0), name=UUID) as bench:
        yield bench


def place(bench: Disk, *ccws: Ccw, at: int = PROGRAM, format1: bool = True) -> None:
    raw = b""
    for command, flags, count, address in ccws:
        if format1:
            raw += struct.pack(">BBHI", command, flags, count, address)
        else:
            raw += struct.pack(">BBHBxH", command, address >> 16, address & 0xFFFF, flags, count)
    bench.memory.memory[at : at + len(raw)] = raw


def start(bench: Disk, *, ctrl0: int = ORB_CTRL0_MASK_FMT, lpm: int = 0xFF) -> int:
    region = ccw_io_region()
    orb = ORB(intparm=0x1234, ctrl0=ctrl0, lpm=lpm, cpa=PROGRAM)
    ctypes.memmove(region.orb_area, bytes(orb), 12)
    ctypes.memmove(region.scsw_area, bytes(SCSW(ctrl=SCSW_FCTL_START_FUNC)), 12)
    return bench.pwrite(IO, 0, bytes(region))


def status(bench: Disk) -> SCSW:
    region = ccw_io_region.from_buffer_copy(bench.pread(IO, 0, 124))
    scsw: SCSW = IRB.from_buffer_copy(bytes(region.irb_area)).scsw
    return scsw


def run(bench: Disk, *ccws: Ccw) -> SCSW:
    place(bench, *ccws)
    assert start(bench) == 124
    return status(bench)


def put(bench: Disk, data: bytes, at: int = DATA) -> None:
    bench.memory.memory[at : at + len(data)] = data


def got(bench: Disk, size: int, at: int = DATA) -> bytes:
    return bytes(bench.memory.memory[at : at + size])


def fba(
    bench: Disk, operation: int, block: int, count: int, *, mask: int = 0, last: int = 63
) -> tuple[Ccw, Ccw]:
    """DEFINE EXTENT and LOCATE, chained; their data lies at 0x2000 and 0x2010."""
    put(bench, struct.pack(">BxHIII", mask, 512, 0, 0, last), 0x2000)
    put(bench, struct.pack(">BBHI", operation, 0, count, block), 0x2010)
    return (CMD_DEFINE_EXTENT, CC, 16, 0x2000), (CMD_LOCATE, CC, 8, 0x2010)


# -- description ------------------------------------------------------------------------------
def test_it_describes_itself(disk: Disk) -> None:
    info = disk.info()
    assert info.flags == VFIO_DEVICE_FLAGS_CCW | VFIO_DEVICE_FLAGS_RESET
    assert (info.num_regions, info.num_irqs) == (4, 3)


@pytest.mark.parametrize(
    ("index", "size", "writable"),
    [(IO, 124, True), (ASYNC_REGION, 8, True), (SCHIB_REGION, 52, False), (CRW_REGION, 8, False)],
)
def test_regions(disk: Disk, index: int, size: int, *, writable: bool) -> None:
    info, raw = disk.region(index, argsz=48)
    flags = VFIO_REGION_INFO_FLAG_READ | (VFIO_REGION_INFO_FLAG_WRITE if writable else 0)
    assert (info.size, info.offset) == (size, index << 10)
    if index == IO:
        assert info.flags == flags
        return
    assert info.flags == flags | VFIO_REGION_INFO_FLAG_CAPS
    assert struct.unpack("=HHIII", raw[32:48]) == (VFIO_REGION_INFO_CAP_TYPE, 1, 0, 2, index)


@pytest.mark.parametrize(("index", "offset", "size"), [(IO, 0, 125), (ASYNC_REGION, 4, 8)])
def test_an_access_beyond_a_region_is_refused(
    disk: Disk, refused: Refused, index: int, offset: int, size: int
) -> None:
    with refused(errno.EINVAL):
        disk.pread(index, offset, size)
    with refused(errno.EINVAL):
        disk.pwrite(index, offset, bytes(size))


@pytest.mark.parametrize("index", [SCHIB_REGION, CRW_REGION])
def test_reports_cannot_be_written(disk: Disk, refused: Refused, index: int) -> None:
    with refused(errno.EINVAL):
        disk.pwrite(index, 0, bytes(4))


# -- the I/O region ---------------------------------------------------------------------------
def test_sense_id_tells_the_types_and_signals_the_end(disk: Disk) -> None:
    (event,) = disk.listen(VFIO_CCW_IO_IRQ_INDEX)
    scsw = run(disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
    assert fired(event) == 1
    assert got(disk, 7) == bytes.fromhex("ff6310809336 10")
    assert scsw.ctrl == SCSW_FCTL_START_FUNC | FINAL
    assert (scsw.dstat, scsw.cstat, scsw.count) == (GOOD, 0, 0)
    assert scsw.cpa == PROGRAM + 8


def test_nothing_stays_pinned_after_a_program(disk: Disk) -> None:
    run(disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
    assert disk.memory.pinned == []


def test_format_0_ccws_are_understood(disk: Disk) -> None:
    place(disk, (CCW_CMD_SENSE_ID, 0, 7, 0x054321), format1=False)
    start(disk, ctrl0=0)
    assert got(disk, 1, 0x054321) == b"\xff"
    assert status(disk).dstat == GOOD


def test_writing_in_pieces_acts_on_every_write(disk: Disk) -> None:
    place(disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
    orb = bytes(ORB(ctrl0=ORB_CTRL0_MASK_FMT, lpm=0xFF, cpa=PROGRAM))
    assert disk.pwrite(IO, 0, orb) == 12
    assert got(disk, 1) == b"\0"
    assert disk.pwrite(IO, 12, bytes(SCSW(ctrl=SCSW_FCTL_START_FUNC))) == 12
    assert got(disk, 1) == b"\xff"


def test_without_a_function_the_users_own_ret_code_is_returned(
    disk: Disk, refused: Refused
) -> None:
    assert disk.pwrite(IO, 0, bytes(124)) == 124
    with refused(errno.EXDEV):
        disk.pwrite(IO, 120, struct.pack("=i", -errno.EXDEV))


@pytest.mark.parametrize("function", [SCSW_FCTL_HALT_FUNC, SCSW_FCTL_CLEAR_FUNC])
def test_halt_and_clear_are_not_for_the_io_region(
    disk: Disk, refused: Refused, function: int
) -> None:
    with refused(errno.EOPNOTSUPP):
        disk.pwrite(IO, 12, bytes(SCSW(ctrl=function)))
    assert struct.unpack("=i", disk.pread(IO, 120, 4)) == (-errno.EOPNOTSUPP,)


def test_transport_mode_is_not_supported(disk: Disk, refused: Refused) -> None:
    with refused(errno.EOPNOTSUPP):
        start(disk, ctrl0=ORB_CTRL0_MASK_FMT | 0x0004)


def test_a_program_that_is_not_all_mapped_is_refused(refused: Refused) -> None:
    # vfio-ccw reads 2 KiB whatever the program's length is.
    with Bench(CcwDiskDevice(), name=UUID, memory_size=PROGRAM + 2047) as disk:
        with refused(errno.EINVAL):
            start(disk)
        assert disk.device.state is State.IDLE


def test_data_that_is_not_mapped_is_refused_and_unpinned(disk: Disk, refused: Refused) -> None:
    place(disk, (CCW_CMD_SENSE_ID, CC, 7, DATA), (CCW_CMD_SENSE_ID, 0, 7, 0x7000_0000))
    with refused(errno.EINVAL):
        start(disk)
    assert disk.memory.pinned == []


def test_a_chain_has_at_most_256_ccws(disk: Disk, refused: Refused) -> None:
    noop = (CCW_CMD_NOOP, CC, 1, 0)
    place(disk, *[noop] * 255, (CCW_CMD_NOOP, 0, 1, 0))
    assert start(disk) == 124
    place(disk, *[noop] * 256)
    with refused(errno.EINVAL):
        start(disk)


def test_a_program_has_at_most_16_chains(disk: Disk, refused: Refused) -> None:
    def chains(number: int) -> None:
        for link in range(number):
            at = PROGRAM + link * 0x100
            last = (
                (CCW_CMD_NOOP, 0, 1, 0) if link + 1 == number else (CCW_CMD_TIC, 0, 0, at + 0x100)
            )
            place(disk, (CCW_CMD_NOOP, CC, 1, 0), last, at=at)

    chains(16)
    assert start(disk) == 124
    chains(17)
    with refused(errno.EINVAL):
        start(disk)


def test_a_second_start_meets_a_busy_subchannel(slow_disk: Disk, refused: Refused) -> None:
    place(slow_disk, (CCW_CMD_NOOP, 0, 1, 0))
    start(slow_disk)
    with refused(errno.EBUSY):
        start(slow_disk)


def test_a_latency_ends_the_program_later() -> None:
    with Bench(CcwDiskDevice(latency=0.01), name=UUID) as disk:
        (event,) = disk.listen(VFIO_CCW_IO_IRQ_INDEX)
        place(disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
        start(disk)
        assert disk.device.state is State.CP_PENDING
        poller = select.poll()
        poller.register(event, select.POLLIN)
        assert poller.poll(2000)
        assert got(disk, 1) == b"\xff"


# -- chaining ---------------------------------------------------------------------------------
def test_commands_are_chained(disk: Disk) -> None:
    scsw = run(disk, (CCW_CMD_NOOP, CC | SLI, 1, 0), (CCW_CMD_SENSE_ID, 0, 7, DATA))
    assert got(disk, 1) == b"\xff"
    assert scsw.cpa == PROGRAM + 16


def test_a_tic_leads_elsewhere(disk: Disk) -> None:
    place(disk, (CCW_CMD_SENSE_ID, 0, 7, DATA), at=0x3000)
    scsw = run(disk, (CCW_CMD_NOOP, CC, 1, 0), (CCW_CMD_TIC, 0, 0, 0x3000))
    assert got(disk, 1) == b"\xff"
    assert scsw.cpa == 0x3008


def test_data_chaining_spreads_one_transfer(disk: Disk) -> None:
    scsw = run(disk, (CCW_CMD_SENSE_ID, DC, 3, DATA), (0, 0, 4, DATA + 0x100))
    assert got(disk, 4) == bytes.fromhex("ff631000")
    assert got(disk, 4, DATA + 0x100) == bytes.fromhex("80933610")
    assert (scsw.dstat, scsw.cstat, scsw.count) == (GOOD, 0, 0)


def test_a_transfer_may_end_inside_the_data_chain(disk: Disk) -> None:
    scsw = run(disk, (CCW_CMD_SENSE_ID, DC, 4, DATA), (0, SLI, 100, DATA + 0x100))
    assert (scsw.cstat, scsw.count) == (0, 97)


@pytest.mark.parametrize(("count", "residual"), [(20, 13), (3, 0)])
def test_a_wrong_length_ends_the_program_unless_suppressed(
    disk: Disk, count: int, residual: int
) -> None:
    scsw = run(disk, (CCW_CMD_SENSE_ID, CC, count, DATA), (CCW_CMD_SENSE_ID, 0, 7, DATA + 0x100))
    assert (scsw.cstat, scsw.count, scsw.cpa) == (SCSW_CSTAT_INCORR_LEN, residual, PROGRAM + 8)
    assert scsw.ctrl & SCSW_STCTL_ALERT
    assert got(disk, 1, DATA + 0x100) == b"\0"
    scsw = run(
        disk, (CCW_CMD_SENSE_ID, CC | SLI, count, DATA), (CCW_CMD_SENSE_ID, 0, 7, DATA + 0x100)
    )
    assert (scsw.cstat, scsw.count, scsw.cpa) == (0, 0, PROGRAM + 16)


def test_a_skipping_read_stores_nothing(disk: Disk) -> None:
    scsw = run(disk, (CCW_CMD_SENSE_ID, SKIP, 7, 0x7000_0000))
    assert (scsw.dstat, scsw.cstat) == (GOOD, 0)


def test_a_pci_flag_shows_in_the_final_status(disk: Disk) -> None:
    scsw = run(disk, (CCW_CMD_NOOP, CC | CCW_FLAG_PCI, 1, 0), (CCW_CMD_NOOP, 0, 1, 0))
    assert scsw.cstat == SCSW_CSTAT_PCI
    assert scsw.ctrl & SCSW_STCTL_INTERMEDIATE
    assert not scsw.ctrl & SCSW_STCTL_ALERT


@pytest.mark.parametrize(
    "ccws",
    [
        [(CCW_CMD_TIC, 0, 0, PROGRAM + 8), (CCW_CMD_NOOP, 0, 1, 0)],
        [(CCW_CMD_NOOP, CC, 1, 0), (CCW_CMD_TIC, 0, 0, PROGRAM + 8)],
        [(CCW_CMD_NOOP, CCW_FLAG_SUSPEND, 1, 0)],
        [(CCW_CMD_SENSE_ID, DC, 0, DATA), (0, 0, 7, DATA)],
    ],
    ids=["begins with a TIC", "TIC to a TIC", "suspends", "no count with data chaining"],
)
def test_a_program_check(disk: Disk, ccws: list[Ccw]) -> None:
    scsw = run(disk, *ccws)
    assert scsw.cstat == SCSW_CSTAT_PROG_CHECK
    assert scsw.ctrl & SCSW_STCTL_ALERT


@pytest.mark.parametrize("wide", [False, True])
def test_indirect_data_addresses(disk: Disk, *, wide: bool) -> None:
    """512 bytes that begin 12 bytes before the end of a block, then go on elsewhere."""
    block, word = (4096, ">Q") if wide else (2048, ">I")
    first, second = 0x8000 + block - 12, 0xA000
    put(disk, struct.pack(word, first) + struct.pack(word, second), 0x3000)
    place(disk, (CCW_CMD_READ_IPL, IDA, 512, 0x3000))
    disk.device.content[:512] = bytes(range(256)) * 2
    start(disk, ctrl0=ORB_CTRL0_MASK_FMT | (ORB_CTRL0_MASK_C64 if wide else 0))
    assert got(disk, 12, first) == bytes(range(12))
    assert got(disk, 500, second) == (bytes(range(256)) * 2)[12:]
    assert status(disk).cstat == 0


@given(
    cuts=st.lists(st.integers(1, 511), max_size=6, unique=True).map(sorted),
    content=st.binary(min_size=512, max_size=512),
)
def test_a_block_is_the_same_however_its_data_is_chained(cuts: list[int], content: bytes) -> None:
    with Bench(CcwDiskDevice(content=content), name=UUID) as disk:
        edges = [0, *cuts, 512]
        ccws = []
        for number, (begin, end) in enumerate(pairwise(edges)):
            flags = 0 if end == 512 else DC
            command = 0 if number else CCW_CMD_READ_IPL
            ccws.append((command, flags, end - begin, DATA + begin))
        scsw = run(disk, *ccws)
        assert (scsw.dstat, scsw.cstat, scsw.count) == (GOOD, 0, 0)
        assert got(disk, 512) == content


# -- FBA --------------------------------------------------------------------------------------
def test_reading_blocks(disk: Disk) -> None:
    scsw = run(disk, *fba(disk, OPERATION_READ, 5, 2), (CMD_READ, 0, 1024, DATA))
    assert (scsw.dstat, scsw.cstat, scsw.count) == (GOOD, 0, 0)
    assert got(disk, 1024) == b"\5" * 512 + b"\6" * 512


def test_writing_blocks(disk: Disk) -> None:
    put(disk, b"new!" * 128)
    scsw = run(disk, *fba(disk, OPERATION_WRITE, 9, 1), (CMD_WRITE, 0, 512, DATA))
    assert (scsw.dstat, scsw.cstat) == (GOOD, 0)
    assert disk.device.content[9 * 512 : 10 * 512] == b"new!" * 128
    assert disk.device.content[10 * 512] == 10


def test_a_short_write_fills_its_block_up_and_reports_the_length(disk: Disk) -> None:
    put(disk, b"x" * 100)
    scsw = run(disk, *fba(disk, OPERATION_WRITE, 9, 2), (CMD_WRITE, 0, 100, DATA))
    assert scsw.cstat == SCSW_CSTAT_INCORR_LEN
    assert disk.device.content[9 * 512 : 10 * 512] == b"x" * 100 + bytes(412)
    assert disk.device.content[10 * 512] == 10


def test_characteristics_tell_the_size(disk: Disk) -> None:
    scsw = run(disk, (CCW_CMD_RDC, 0, 32, DATA))
    assert scsw.dstat == GOOD
    assert struct.unpack_from(">H", got(disk, 32), 4) == (512,)
    assert struct.unpack_from(">I", got(disk, 32), 14) == (64,)


def sense(bench: Disk) -> bytes:
    run(bench, (CCW_CMD_BASIC_SENSE, 0, 32, DATA))
    return got(bench, 2)


@pytest.mark.parametrize("command", [0x99, CMD_READ, CMD_WRITE])
def test_an_unknown_or_untimely_command_is_rejected(disk: Disk, command: int) -> None:
    scsw = run(disk, (command, CC, 8, DATA), (CCW_CMD_SENSE_ID, 0, 7, DATA))
    assert (scsw.dstat, scsw.cstat) == (BAD, 0)
    assert scsw.ctrl & SCSW_STCTL_ALERT
    assert scsw.cpa == PROGRAM + 8
    assert sense(disk) == bytes([SENSE_COMMAND_REJECT, 0])
    assert sense(disk) == bytes(2)


@pytest.mark.parametrize(
    ("operation", "block", "count", "mask", "reason"),
    [
        (OPERATION_READ, 63, 2, 0, bytes([0, SENSE_FILE_PROTECTED])),
        (OPERATION_READ, 0, 0, 0, bytes([0, SENSE_FILE_PROTECTED])),
        (OPERATION_WRITE, 0, 1, PERMISSION_READ_ONLY, bytes([0, SENSE_FILE_PROTECTED])),
        (0x3, 0, 1, 0, bytes([SENSE_COMMAND_REJECT, 0])),
    ],
    ids=["past the extent", "no block", "read-only extent", "unknown operation"],
)
def test_locate_is_refused(
    disk: Disk, operation: int, block: int, count: int, mask: int, reason: bytes
) -> None:
    scsw = run(disk, *fba(disk, operation, block, count, mask=mask), (CMD_READ, 0, 512, DATA))
    assert scsw.dstat == BAD
    assert scsw.cpa == PROGRAM + 16
    assert sense(disk) == reason


def test_an_extent_past_the_disk_is_refused(disk: Disk) -> None:
    scsw = run(disk, *fba(disk, OPERATION_READ, 0, 1, last=64), (CMD_READ, 0, 512, DATA))
    assert scsw.dstat == BAD
    assert scsw.cpa == PROGRAM + 8


# -- halt, clear, reset -----------------------------------------------------------------------
def command(bench: Disk, code: int) -> int:
    return bench.pwrite(ASYNC_REGION, 0, struct.pack("=II", code, 0))


def test_clear_ends_a_running_program(slow_disk: Disk) -> None:
    (event,) = slow_disk.listen(VFIO_CCW_IO_IRQ_INDEX)
    place(slow_disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
    start(slow_disk)
    assert command(slow_disk, VFIO_CCW_ASYNC_CMD_CSCH) == 8
    assert fired(event) == 1
    assert status(slow_disk).ctrl == SCSW_FCTL_CLEAR_FUNC | SCSW_STCTL_STATUS_PEND
    assert slow_disk.memory.pinned == []
    assert start(slow_disk) == 124


def test_halt_ends_a_running_program(slow_disk: Disk) -> None:
    place(slow_disk, (CCW_CMD_NOOP, 0, 1, 0))
    start(slow_disk)
    command(slow_disk, VFIO_CCW_ASYNC_CMD_HSCH)
    scsw = status(slow_disk)
    assert scsw.ctrl == SCSW_FCTL_HALT_FUNC | SCSW_FCTL_START_FUNC | FINAL
    assert slow_disk.device.state is State.IDLE


def test_halting_an_idle_subchannel_reports_the_halt_alone(disk: Disk) -> None:
    command(disk, VFIO_CCW_ASYNC_CMD_HSCH)
    assert status(disk).ctrl == SCSW_FCTL_HALT_FUNC | SCSW_STCTL_STATUS_PEND


def test_an_unknown_async_command_is_refused(disk: Disk, refused: Refused) -> None:
    with refused(errno.EINVAL):
        command(disk, 3)
    assert struct.unpack("=Ii", disk.pread(ASYNC_REGION, 0, 8)) == (3, -errno.EINVAL)


def test_a_reset_drops_the_program(slow_disk: Disk) -> None:
    (event,) = slow_disk.listen(VFIO_CCW_IO_IRQ_INDEX)
    place(slow_disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
    start(slow_disk)
    assert slow_disk.memory.pinned
    slow_disk.reset()
    assert slow_disk.memory.pinned == []
    assert slow_disk.device.state is State.IDLE
    assert fired(event) == 0


def test_unmapping_the_data_of_a_running_program_resets_the_device(slow_disk: Disk) -> None:
    place(slow_disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
    start(slow_disk)
    slow_disk.device.dma_unmapped(DATA + 7, 4096)
    assert slow_disk.memory.pinned
    slow_disk.device.dma_unmapped(DATA, 4096)
    assert slow_disk.memory.pinned == []


def test_closing_drops_the_program() -> None:
    with Bench(CcwDiskDevice(latency=60.0), name=UUID) as disk:
        place(disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
        start(disk)
    assert disk.memory.pinned == []
    assert disk.device.state is State.STANDBY


def test_a_device_that_is_gone_answers_nothing(disk: Disk, refused: Refused) -> None:
    disk.device.detach()
    with refused(errno.EIO):
        start(disk)
    with refused(errno.EIO):
        command(disk, VFIO_CCW_ASYNC_CMD_CSCH)
    with refused(errno.ENODEV):
        disk.pread(SCHIB_REGION, 0, 52)
    with refused(errno.EINVAL):
        disk.reset()
    disk.device.close_device()
    with refused(errno.EINVAL):
        disk.device.open_device()


# -- reports ----------------------------------------------------------------------------------
def test_the_schib_shows_the_device_and_its_paths() -> None:
    device = CcwDiskDevice(device_number=0xABCD, chpids=(0x40, 0x41))
    with Bench(device, name=UUID) as disk:
        device.path_offline(0x40)
        schib = SCHIB.from_buffer_copy(disk.pread(SCHIB_REGION, 0, 52))
    assert schib.pmcw.devno == 0xABCD
    assert (schib.pmcw.pim, schib.pmcw.pam) == (0xC0, 0x40)
    assert bytes(schib.pmcw.chpid) == b"\x40\x41" + bytes(6)


def test_each_read_takes_one_crw_and_says_when_there_are_more(disk: Disk) -> None:
    (event,) = disk.listen(VFIO_CCW_CRW_IRQ_INDEX)
    disk.device.path_offline(0x40)
    disk.device.path_online(0x40)
    assert fired(event) == 2
    source = CRW_RSC_CHP << CRW_FLAGS_SHIFT_RSC
    first = struct.unpack(">HH4x", disk.pread(CRW_REGION, 0, 8))
    assert first == (source | CRW_ERC_PERRN, 0x40)
    assert fired(event) == 1
    assert struct.unpack(">HH", disk.pread(CRW_REGION, 0, 4)) == (source | CRW_ERC_INIT, 0x40)
    assert fired(event) == 0
    assert disk.pread(CRW_REGION, 0, 8) == bytes(8)


def test_a_start_without_a_path(refused: Refused) -> None:
    with Bench(CcwDiskDevice(chpids=(0x40, 0x41)), name=UUID) as disk:
        place(disk, (CCW_CMD_SENSE_ID, 0, 7, DATA))
        disk.device.path_offline(0x40)
        with refused(errno.EACCES):
            start(disk, lpm=0x80)
        assert start(disk, lpm=0x40) == 124
        disk.device.path_offline(0x41)
        with refused(errno.ENODEV):
            start(disk)
        assert disk.memory.pinned == []


def test_a_request_is_signalled(disk: Disk) -> None:
    (event,) = disk.listen(VFIO_CCW_REQ_IRQ_INDEX)
    disk.device.request(1)
    assert fired(event) == 1


def test_set_irqs_only_triggers(disk: Disk, refused: Refused) -> None:
    with refused(errno.EINVAL):
        disk.irq_action(VFIO_CCW_IO_IRQ_INDEX, VFIO_IRQ_SET_ACTION_MASK)
    with refused(errno.EINVAL):
        disk.attach(VFIO_CCW_IO_IRQ_INDEX, [-2])


def test_data_none_signals_even_with_a_count_of_zero(disk: Disk) -> None:
    (event,) = disk.listen(VFIO_CCW_IO_IRQ_INDEX)
    disk.set_irqs(VFIO_CCW_IO_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER)
    disk.irq_action(VFIO_CCW_IO_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, on=True)
    disk.irq_action(VFIO_CCW_IO_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, on=False)
    assert fired(event) == 2
