"""The platform timer, and vfio-platform under it."""

from __future__ import annotations

import errno
import mmap
import os
import select
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest

from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FLAGS_PLATFORM,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_IRQ_INFO_AUTOMASKED,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_MASKABLE,
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
)
from vfiocore_sim.devices import TimerDevice
from vfiocore_sim.devices.timer import (
    CONTROL_PERIODIC,
    CONTROL_START,
    IDENTIFICATION,
    IRQ_EXPIRED,
    IRQ_TICK,
    REG_ACK,
    REG_CONTROL,
    REG_COUNT,
    REG_ID,
    REG_LOAD,
    REG_RECORD_HIGH,
    REG_RECORD_LOW,
    REG_STATUS,
    STATUS_EXPIRED,
    STATUS_FAULT,
)
from vfiocore_sim.vfio.bench import Bench, fired
from vfiocore_sim.vfio.platform import MmioRegion, PlatformDevice

Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
Timer: TypeAlias = Bench[TimerDevice]
MASK, UNMASK = VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK
TRIGGER = VFIO_IRQ_SET_ACTION_TRIGGER
EVENTFD, NONE = VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE


@pytest.fixture
def timer() -> Iterator[Timer]:
    with Bench(TimerDevice(), name="10000000.timer") as bench:
        yield bench


def load(bench: Timer, register: int) -> int:
    return int.from_bytes(bench.pread(0, register, 4), sys.byteorder)


def store(bench: Timer, register: int, value: int) -> None:
    bench.pwrite(0, register, value.to_bytes(4, sys.byteorder))


def expire(bench: Timer) -> None:
    store(bench, REG_LOAD, 0)
    store(bench, REG_CONTROL, CONTROL_START)


def wait(eventfd: int, seconds: float = 2.0) -> int:
    poller = select.poll()
    poller.register(eventfd, select.POLLIN)
    poller.poll(seconds * 1000)
    return fired(eventfd)


def test_it_describes_itself(timer: Timer) -> None:
    info = timer.info()
    assert info.flags == VFIO_DEVICE_FLAGS_PLATFORM | VFIO_DEVICE_FLAGS_RESET
    assert (info.num_regions, info.num_irqs) == (1, 2)
    region, _ = timer.region(0)
    assert (region.flags, region.offset) == (
        VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
        0,
    )
    assert load(timer, REG_ID) == IDENTIFICATION


def test_the_level_irq_masks_itself_and_the_edge_irq_does_not(timer: Timer) -> None:
    masking = VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED
    assert timer.irq(IRQ_EXPIRED).flags == VFIO_IRQ_INFO_EVENTFD | masking
    assert timer.irq(IRQ_TICK).flags == VFIO_IRQ_INFO_EVENTFD


def test_a_start_without_load_expires_at_once(timer: Timer) -> None:
    (level,), (tick,) = timer.listen(IRQ_EXPIRED), timer.listen(IRQ_TICK)
    expire(timer)
    assert (fired(level), fired(tick)) == (1, 1)
    assert load(timer, REG_STATUS) == STATUS_EXPIRED
    assert load(timer, REG_CONTROL) == 0


def test_the_level_irq_comes_again_after_unmask_until_it_is_acknowledged(timer: Timer) -> None:
    (level,) = timer.listen(IRQ_EXPIRED)
    expire(timer)
    assert fired(level) == 1
    timer.irq_action(IRQ_EXPIRED, UNMASK)
    assert fired(level) == 1
    store(timer, REG_ACK, STATUS_EXPIRED)
    timer.irq_action(IRQ_EXPIRED, UNMASK)
    assert fired(level) == 0


def test_an_expiry_before_anybody_listens_is_delivered_to_the_first_listener(
    timer: Timer,
) -> None:
    expire(timer)
    (level,) = timer.listen(IRQ_EXPIRED)
    assert fired(level) == 1


def test_a_masked_level_irq_waits(timer: Timer) -> None:
    (level,) = timer.listen(IRQ_EXPIRED)
    timer.irq_action(IRQ_EXPIRED, MASK)
    expire(timer)
    assert fired(level) == 0
    timer.irq_action(IRQ_EXPIRED, UNMASK)
    assert fired(level) == 1


@pytest.mark.parametrize("action", [MASK, UNMASK])
def test_the_edge_irq_cannot_be_masked(timer: Timer, refused: Refused, action: int) -> None:
    with refused(errno.EINVAL):
        timer.irq_action(IRQ_TICK, action)


def test_unmask_by_eventfd(timer: Timer, refused: Refused) -> None:
    (level,) = timer.listen(IRQ_EXPIRED)
    expire(timer)
    fired(level)
    unmask = timer.eventfd()
    timer.set_irqs(IRQ_EXPIRED, EVENTFD | UNMASK, struct.pack("=i", unmask), count=1)
    os.eventfd_write(unmask, 1)
    assert wait(level) == 1
    with refused(errno.EBUSY):
        timer.set_irqs(IRQ_EXPIRED, EVENTFD | UNMASK, struct.pack("=i", unmask), count=1)


def test_mask_by_eventfd(timer: Timer) -> None:
    (level,) = timer.listen(IRQ_EXPIRED)
    mask = timer.eventfd(initial=1)
    timer.set_irqs(IRQ_EXPIRED, EVENTFD | MASK, struct.pack("=i", mask), count=1)
    expire(timer)
    assert fired(level) == 0


def test_count_zero_takes_the_eventfd_away(timer: Timer) -> None:
    (tick,) = timer.listen(IRQ_TICK)
    timer.irqs_off(IRQ_TICK)
    expire(timer)
    assert fired(tick) == 0


def test_loopback_of_the_level_irq_masks_it(timer: Timer) -> None:
    (level,) = timer.listen(IRQ_EXPIRED)
    timer.irq_action(IRQ_EXPIRED, TRIGGER)
    timer.irq_action(IRQ_EXPIRED, TRIGGER)
    assert fired(level) == 1


def test_loopback_of_the_edge_irq_signals_each_time(timer: Timer) -> None:
    (tick,) = timer.listen(IRQ_TICK)
    timer.irq_action(IRQ_TICK, TRIGGER)
    timer.irq_action(IRQ_TICK, TRIGGER)
    assert fired(tick) == 2


def test_a_false_bool_triggers_masks_and_unmasks_nothing(timer: Timer) -> None:
    (level,) = timer.listen(IRQ_EXPIRED)
    timer.irq_action(IRQ_EXPIRED, TRIGGER, on=False)
    assert fired(level) == 0
    timer.irq_action(IRQ_EXPIRED, MASK, on=False)
    expire(timer)
    assert fired(level) == 1
    timer.irq_action(IRQ_EXPIRED, UNMASK, on=False)
    assert fired(level) == 0
    timer.irq_action(IRQ_EXPIRED, UNMASK, on=True)
    assert fired(level) == 1


def test_minus_one_takes_the_unmask_eventfd_away(timer: Timer) -> None:
    (level,) = timer.listen(IRQ_EXPIRED)
    first, second = timer.eventfd(), timer.eventfd()
    for fd in (first, -1, -1, second):
        timer.set_irqs(IRQ_EXPIRED, EVENTFD | UNMASK, struct.pack("=i", fd), count=1)
    expire(timer)
    fired(level)
    os.eventfd_write(second, 1)
    assert wait(level) == 1


@pytest.mark.parametrize(
    ("flags", "start", "code"),
    [
        (NONE | TRIGGER, 1, errno.EINVAL),
        (NONE | MASK | TRIGGER, 0, errno.ENOTTY),
        (NONE, 0, errno.ENOTTY),
    ],
    ids=["second vector", "two actions", "no action"],
)
def test_a_set_irqs_call_is_refused(
    timer: Timer, refused: Refused, flags: int, start: int, code: int
) -> None:
    with refused(code):
        timer.set_irqs(IRQ_EXPIRED, flags, start=start, count=1)


def test_expiry_is_real_time(timer: Timer) -> None:
    (tick,) = timer.listen(IRQ_TICK)
    begin = time.monotonic()
    store(timer, REG_LOAD, 20_000)
    store(timer, REG_CONTROL, CONTROL_START)
    assert 0 < load(timer, REG_COUNT) <= 20_000
    assert wait(tick) == 1
    assert time.monotonic() - begin >= 0.02
    assert load(timer, REG_COUNT) == 0


def test_a_periodic_timer_ticks_until_it_is_stopped(timer: Timer) -> None:
    (tick,) = timer.listen(IRQ_TICK)
    store(timer, REG_LOAD, 1_000)
    store(timer, REG_CONTROL, CONTROL_START | CONTROL_PERIODIC)
    assert wait(tick)
    assert wait(tick)
    store(timer, REG_CONTROL, 0)
    fired(tick)
    assert wait(tick, 0.02) == 0


def test_a_reset_cancels_a_running_count(timer: Timer) -> None:
    (tick,) = timer.listen(IRQ_TICK)
    store(timer, REG_LOAD, 10_000)
    store(timer, REG_CONTROL, CONTROL_START)
    timer.reset()
    assert wait(tick, 0.05) == 0
    assert load(timer, REG_LOAD) == 0


def test_a_reset_that_comes_before_a_late_expiry_wins(timer: Timer) -> None:
    (tick,) = timer.listen(IRQ_TICK)
    store(timer, REG_LOAD, 1_000)
    with timer.kernel.lock:
        store(timer, REG_CONTROL, CONTROL_START)
        time.sleep(0.02)  # the timer's thread is waiting for the lock now
        timer.reset()
    assert wait(tick, 0.02) == 0
    assert load(timer, REG_STATUS) == 0


def test_accesses_outside_the_region_are_refused(timer: Timer, refused: Refused) -> None:
    with refused(errno.EINVAL):
        timer.device.pread(4, 1 << 40)
    with refused(errno.EINVAL):
        timer.pread(0, 0x100, 4)
    assert len(timer.pread(0, 0xFC, 16)) == 4


def test_registers_cannot_be_mapped(timer: Timer, refused: Refused) -> None:
    with refused(errno.EINVAL):
        timer.device.mmap(mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, 0)


def test_there_are_no_features(timer: Timer, refused: Refused) -> None:
    with refused(errno.ENOTTY):
        timer.feature(VFIO_DEVICE_FEATURE_GET | 1)


def test_the_device_tree_node_names_it(timer: Timer) -> None:
    files = timer.device.sysfs_files()
    assert files["of_node/compatible"] == b"vfiocore,sim-timer\0"
    assert files["modalias"] == b"of:NtimerT(null)Cvfiocore,sim-timer\n"


class Buffer(PlatformDevice):
    regions = (MmioRegion(size=mmap.PAGESIZE, ram=True, read_only=True),)
    has_reset = False


def test_a_memory_region_can_be_mapped_as_far_as_its_flags_go(refused: Refused) -> None:
    with Bench(Buffer(), name="20000000.buffer") as bench:
        assert bench.region(0)[0].flags & VFIO_REGION_INFO_FLAG_MMAP
        bench.device.mmap(mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, 0).close()
        with refused(errno.EINVAL):
            bench.device.mmap(mmap.PAGESIZE, mmap.PROT_WRITE, mmap.MAP_SHARED, 0)
        with refused(errno.EINVAL):
            bench.pwrite(0, 0, b"x")


class Scratch(PlatformDevice):
    """A page of memory, and registers that nobody implements."""

    regions = (MmioRegion(size=mmap.PAGESIZE, ram=True), MmioRegion(size=16))


def test_a_memory_region_is_read_and_written_and_a_reset_clears_it() -> None:
    with Bench(Scratch(), name="30000000.scratch") as bench:
        assert bench.pwrite(0, mmap.PAGESIZE - 2, b"abcd") == 2
        assert bench.pread(0, mmap.PAGESIZE - 2, 4) == b"ab"
        bench.reset()
        assert bench.pread(0, mmap.PAGESIZE - 2, 4) == bytes(2)


def test_registers_that_a_device_does_not_implement_read_as_zero() -> None:
    with Bench(Scratch(), name="30000000.scratch") as bench:
        assert bench.pwrite(1, 0, b"\xff" * 16) == 16
        assert bench.pread(1, 0, 16) == bytes(16)


def test_a_device_without_a_reset_function_says_so(refused: Refused) -> None:
    with Bench(Buffer(), name="20000000.buffer") as bench:
        assert bench.info().flags == VFIO_DEVICE_FLAGS_PLATFORM
        with refused(errno.EINVAL):
            bench.reset()


def test_each_expiry_writes_a_record_where_it_was_told_to(timer: Timer) -> None:
    store(timer, REG_RECORD_LOW, 0x2000)
    store(timer, REG_RECORD_HIGH, 0)
    expire(timer)
    expire(timer)
    assert struct.unpack("=QQ", timer.memory.read(0x2000, 16)) == (2, 0)


def test_without_an_address_it_writes_nothing(timer: Timer) -> None:
    expire(timer)
    assert timer.memory.memory == bytearray(len(timer.memory.memory))


def test_a_record_that_cannot_be_written_is_a_fault_in_the_status(timer: Timer) -> None:
    store(timer, REG_RECORD_HIGH, 1)
    assert (load(timer, REG_RECORD_LOW), load(timer, REG_RECORD_HIGH)) == (0, 1)
    expire(timer)
    assert load(timer, REG_STATUS) == STATUS_EXPIRED | STATUS_FAULT
