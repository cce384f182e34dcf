"""Reset, low power, ioeventfds, hot reset: the ioctls that only vfio-pci has."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest

from vfiocore.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_MEMORY
from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
    VFIO_DEVICE_FEATURE_SET,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    VFIO_DEVICE_IOEVENTFD,
    VFIO_DEVICE_PCI_HOT_RESET,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
    vfio_device_ioeventfd,
)
from vfiocore_sim.device import HotResetPeer, SysfsFile
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.bench import Bench, LoneKernel, fired
from vfiocore_sim.vfio.pci import Bar, MsixTable, PciDevice

Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
Edu: TypeAlias = Bench[EduDevice]
CONFIG = VFIO_PCI_CONFIG_REGION_INDEX
SET = VFIO_DEVICE_FEATURE_SET
LIVENESS = 0x04


# -- reset ------------------------------------------------------------------------------------
def test_a_reset_clears_registers_and_keeps_configuration(live_edu: Edu) -> None:
    live_edu.write(0, LIVENESS, 1, 4)
    command = live_edu.read(CONFIG, PCI_COMMAND, 2)
    live_edu.reset()
    assert live_edu.read(0, LIVENESS, 4) == 0
    assert live_edu.read(CONFIG, PCI_COMMAND, 2) == command


def test_a_device_without_a_reset_method_says_so(refused: Refused) -> None:
    class Stubborn(EduDevice):
        reset_methods = ()

    with Bench(Stubborn()) as bench:
        assert not bench.info().flags & VFIO_DEVICE_FLAGS_RESET
        with refused(errno.EINVAL):
            bench.reset()


def test_reset_methods_that_vanish_after_the_open_are_not_a_typewriter(
    edu: Edu, refused: Refused
) -> None:
    methods = edu.device.sysfs_files()["reset_method"]
    assert isinstance(methods, SysfsFile)
    assert methods.write
    methods.write(b"\n")
    with refused(errno.ENOTTY):
        edu.reset()
    methods.write(b"default")
    edu.reset()
    with refused(errno.EINVAL):
        methods.write(b"pm")


# -- low power --------------------------------------------------------------------------------
def test_sleeping_twice_is_refused_and_waking_twice_is_not(edu: Edu, refused: Refused) -> None:
    edu.feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)
    with refused(errno.EINVAL):
        edu.feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)
    edu.feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)
    edu.feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)


def sleep_with_wakeup(bench: Edu, eventfd: int) -> None:
    flags = SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
    bench.feature(flags, struct.pack("=iI", eventfd, 0))


def test_any_access_wakes_a_device_that_has_a_wakeup_eventfd(edu: Edu) -> None:
    wakeup = edu.eventfd()
    sleep_with_wakeup(edu, wakeup)
    assert fired(wakeup) == 0
    edu.read(CONFIG, 0, 4)
    assert fired(wakeup) == 1
    sleep_with_wakeup(edu, wakeup)


def test_a_wakeup_eventfd_must_be_one(edu: Edu, refused: Refused) -> None:
    with refused(errno.EINVAL):
        sleep_with_wakeup(edu, -1)
    with refused(errno.EBADF):
        sleep_with_wakeup(edu, 9999)
    with refused(errno.EINVAL):
        edu.feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP)


def test_a_sleep_that_is_refused_keeps_no_hold_on_the_wakeup_eventfd(
    edu: Edu, refused: Refused, references: Callable[[int], int]
) -> None:
    edu.feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)
    wakeup = edu.eventfd()
    with refused(errno.EINVAL):
        sleep_with_wakeup(edu, wakeup)
    assert references(wakeup) == 1


# -- ioeventfd --------------------------------------------------------------------------------
class Doorbell(PciDevice):
    vendor_id, device_id, class_code = 0x1AF4, 0x1003, 0xFF0000
    bars = (Bar(index=0, size=4096),)
    msix = MsixTable(vectors=2, bar=0, table=0x800, pba=0x900)

    def __init__(self) -> None:
        super().__init__()
        self.stores: list[tuple[int, int, int]] = []

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        self.stores.append((offset, value, size))


def ioeventfd(
    bench: Bench[Doorbell], fd: int, *, offset: int = 16, width: int = 4, data: int = 7
) -> int:
    argument = vfio_device_ioeventfd(argsz=32, flags=width, offset=offset, data=data, fd=fd)
    return bench.ioctl(VFIO_DEVICE_IOEVENTFD, argument)


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 2
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


def test_each_signal_stores_the_value() -> None:
    with Bench(Doorbell()) as bench:
        bench.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
        event = bench.eventfd()
        ioeventfd(bench, event)
        os.eventfd_write(event, 1)
        assert wait_for(lambda: bench.device.stores == [(16, 7, 4)])


def test_a_signal_while_memory_decode_is_off_stores_nothing() -> None:
    with Bench(Doorbell()) as bench:
        bench.write(CONFIG, PCI_COMMAND, 0, 2)
        dropped, kept = bench.eventfd(initial=1), bench.eventfd()
        ioeventfd(bench, dropped, data=1)
        ioeventfd(bench, kept, data=2)
        bench.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
        os.eventfd_write(kept, 1)
        assert wait_for(lambda: bench.device.stores == [(16, 2, 4)])


@pytest.mark.parametrize(
    "options",
    [
        {"width": 8},
        {"width": 3},
        {"width": 0},
        {"offset": 4094},
        {"offset": 0x7FE},
        {"offset": 7 << 40},
        {"offset": 1 << 40},
    ],
    ids=["8 bytes", "two widths", "no width", "end", "MSI-X table", "config", "no BAR"],
)
def test_an_ioeventfd_is_refused(refused: Refused, options: dict[str, int]) -> None:
    with Bench(Doorbell()) as bench, refused(errno.EINVAL):
        ioeventfd(bench, bench.eventfd(), **options)


def test_a_negative_fd_removes_what_is_there(refused: Refused) -> None:
    with Bench(Doorbell()) as bench:
        with refused(errno.ENODEV):
            ioeventfd(bench, -1)
        ioeventfd(bench, bench.eventfd())
        with refused(errno.EEXIST):
            ioeventfd(bench, bench.eventfd())
        ioeventfd(bench, -1)
        with refused(errno.EINVAL):
            ioeventfd(bench, -2)


# -- hot reset --------------------------------------------------------------------------------
class Bus(LoneKernel):
    """A bus with two functions, opened through one group or by cdev."""

    def __init__(self, peers: Sequence[PciDevice], *, by_cdev: bool = False) -> None:
        super().__init__()
        self.peers = peers
        self.by_cdev = by_cdev
        self.checked: list[tuple[int, ...]] = []

    def cdev(self) -> bool:
        return self.by_cdev

    def hot_reset_peers(self) -> list[HotResetPeer]:
        return [
            HotResetPeer(f"0000:05:00.{number}", 5, number + 1, device)
            for number, device in enumerate(self.peers)
        ]

    def check_hot_reset(self, group_fds: Sequence[int]) -> None:
        self.checked.append(tuple(group_fds))
        if 99 in group_fds:
            fail(errno.EINVAL)


def two_edus(*, by_cdev: bool = False) -> tuple[Edu, Edu, Bus]:
    first, second = Bench(EduDevice()), Bench(EduDevice())
    bus = Bus([first.device, second.device], by_cdev=by_cdev)
    for bench in (first, second):
        bench.device.kernel = bus
    return first, second, bus


def info_of(bench: Edu, size: int) -> bytearray:
    buffer = bytearray(struct.pack("=3I", size, 0, 0).ljust(size, b"\0"))
    bench.ioctl(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, buffer)
    return buffer


def test_a_root_bus_cannot_be_hot_reset(edu: Edu, refused: Refused) -> None:
    with refused(errno.ENODEV):
        info_of(edu, 12)
    with refused(errno.ENODEV):
        edu.ioctl(VFIO_DEVICE_PCI_HOT_RESET, bytearray(struct.pack("=3Ii", 16, 0, 1, 3)))


def test_too_little_room_for_hot_reset_info_tells_the_count(refused: Refused) -> None:
    first, _second, _bus = two_edus()
    buffer = bytearray(struct.pack("=3I", 12, 7, 0))
    with first, refused(errno.ENOSPC):
        first.ioctl(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, buffer)
    assert struct.unpack("=3I", buffer) == (12, 0, 2)


def test_hot_reset_info_names_groups() -> None:
    first, _second, _bus = two_edus()
    with first:
        buffer = info_of(first, 28)
    assert struct.unpack("=3I", buffer[:12]) == (28, 0, 2)
    assert struct.unpack("=IHBB", buffer[20:]) == (5, 0, 5, 1)


def test_hot_reset_info_names_device_ids_to_a_cdev() -> None:
    first, _second, _bus = two_edus(by_cdev=True)
    with first:
        buffer = info_of(first, 28)
    assert buffer[4] & VFIO_PCI_HOT_RESET_FLAG_DEV_ID
    assert struct.unpack("=IHBB", buffer[20:])[0] == 2


def test_a_hot_reset_resets_every_function() -> None:
    first, second, bus = two_edus()
    with first, second:
        for bench in (first, second):
            bench.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
            bench.write(0, LIVENESS, 1, 4)
        first.ioctl(VFIO_DEVICE_PCI_HOT_RESET, bytearray(struct.pack("=3Ii", 16, 0, 1, 42)))
        assert [bench.read(0, LIVENESS, 4) for bench in (first, second)] == [0, 0]
    assert bus.checked == [(42,)]


@pytest.mark.parametrize(
    ("request_bytes", "by_cdev", "code"),
    [
        (struct.pack("=3Ii", 16, 1, 1, 3), False, errno.EINVAL),
        (struct.pack("=3I", 12, 0, 0), False, errno.EINVAL),
        (struct.pack("=3Ii", 16, 0, 1, 3), True, errno.EINVAL),
        (struct.pack("=3I3i", 24, 0, 3, 3, 4, 5), False, errno.EINVAL),
        (struct.pack("=3I", 16, 0, 1), False, errno.EFAULT),
        (struct.pack("=3Ii", 16, 0, 1, 99), False, errno.EINVAL),
    ],
    ids=["flags", "no group", "group with cdev", "too many", "unreadable", "not owned"],
)
def test_a_refused_hot_reset_touches_nothing(
    refused: Refused, *, request_bytes: bytes, by_cdev: bool, code: int
) -> None:
    first, _second, _bus = two_edus(by_cdev=by_cdev)
    with first:
        first.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
        first.write(0, LIVENESS, 1, 4)
        with refused(code):
            first.ioctl(VFIO_DEVICE_PCI_HOT_RESET, bytearray(request_bytes))
        assert first.read(0, LIVENESS, 4) == 0xFFFFFFFE
