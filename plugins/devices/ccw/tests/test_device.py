"""The frontend against a stand-in for the device file; `test_sim.py` has the whole path."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import Factory, define

from vfiocore.access import ACCESS_KINDS, DeviceAccess, DeviceInfo, IrqInfo, RegionInfo
from vfiocore.capabilities import Capability
from vfiocore.config import Device, OnOffAuto
from vfiocore.container import Container, DeviceTarget
from vfiocore.errors import (
    BusyError,
    DeviceAccessError,
    InterruptTimeout,
    KernelError,
    MalformedReplyError,
    UnsupportedError,
    kernel_error,
)
from vfiocore.host import LinuxHost
from vfiocore.log import VfioWarning
from vfiocore.registration import DeviceSetup
from vfiocore.sysfs import HostDevice
from vfiocore.uapi import s390_cio as cio
from vfiocore.uapi import vfio, vfio_ccw
from vfiocore_ccw import device as device_module
from vfiocore_ccw.device import CcwDevice
from vfiocore_ccw.request import build_orb
from vfiocore_ccw.subchannel import SubchannelId

UUID = "7e270a25-e163-4922-af60-757fc8ed48c6"
IO, ASYNC, SCHIB, CRW = range(4)
SIZES = {IO: 124, ASYNC: 8, SCHIB: 52, CRW: 8}
SUBTYPES = {
    ASYNC: vfio.VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD,
    SCHIB: vfio.VFIO_REGION_SUBTYPE_CCW_SCHIB,
    CRW: vfio.VFIO_REGION_SUBTYPE_CCW_CRW,
}
SHIFT = 10
PENDING, PRIMARY = cio.SCSW_STCTL_STATUS_PEND, cio.SCSW_STCTL_PRIMARY
SECONDARY, ALERT = cio.SCSW_STCTL_SECONDARY, cio.SCSW_STCTL_ALERT
CE, DE = cio.SCSW_DSTAT_CHANNEL_END, cio.SCSW_DSTAT_DEVICE_END
ATTENTION = cio.SCSW_DSTAT_ATTENTION


def irb(ctrl: int = PENDING | PRIMARY | SECONDARY, dstat: int = CE | DE, count: int = 0) -> bytes:
    return bytes(cio.IRB(scsw=cio.SCSW(ctrl=ctrl, dstat=dstat, count=count)))


ATTENTION_IRB = irb(PENDING | ALERT, ATTENTION)


@define(eq=False, kw_only=True)
class FakeSubchannel(DeviceAccess):
    """A device file that records writes, refuses when told to, and ends programs as told."""

    flags: int = vfio.VFIO_DEVICE_FLAGS_CCW | vfio.VFIO_DEVICE_FLAGS_RESET
    num_regions: int = 4
    num_irqs: int = 3
    sizes: dict[int, int] = Factory(lambda: dict(SIZES))
    contents: dict[int, bytearray] = Factory(lambda: {i: bytearray(n) for i, n in SIZES.items()})
    writes: list[tuple[int, bytes]] = Factory(list)
    refusals: deque[int] = Factory(deque)
    eventfds: dict[int, int] = Factory(dict)
    irq_refusals: deque[int] = Factory(deque)
    crws: deque[bytes] = Factory(deque)
    resets: int = 0
    #: What a started program brings, one after the other, each once the one before was read.
    script: deque[bytes] = Factory(deque)
    running: bool = False

    def info(self) -> DeviceInfo:
        return DeviceInfo(self.flags, self.num_regions, self.num_irqs)

    def region_info(self, index: int) -> RegionInfo:
        flags = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
        caps = (_type_capability(SUBTYPES[index]),) if index in SUBTYPES else ()
        return RegionInfo(index, flags, self.sizes[index], index << SHIFT, caps)

    def irq_info(self, index: int) -> IrqInfo:
        return IrqInfo(index, vfio.VFIO_IRQ_INFO_EVENTFD, 1)

    def set_irqs(
        self, index: int, action: int, *, start: int = 0, count: int = 1, data: bytes = b""
    ) -> int:
        if self.irq_refusals:
            raise self.error(self.irq_refusals.popleft(), "VFIO_DEVICE_SET_IRQS")
        if not action & vfio.VFIO_IRQ_SET_DATA_EVENTFD:
            raise AssertionError("vfio-ccw takes eventfds away by -1 only")
        self.eventfds[index] = int.from_bytes(data, sys.byteorder, signed=True)
        return 0

    def feature(self, feature: int, operation: int, payload: bytes = b"") -> bytes:
        raise self.error(errno.ENOTTY, "VFIO_DEVICE_FEATURE")

    def reset(self) -> None:
        self.resets += 1

    def pread(self, size: int, offset: int) -> bytes:
        index = offset >> SHIFT
        if self.refusals:
            raise self.error(self.refusals.popleft(), "pread")
        if index == CRW:
            return (self.crws.popleft() if self.crws else b"").ljust(size, b"\0")
        data = bytes(self.contents[index][:size])
        if index == IO and self.running and self.script:
            self.interrupt(self.script.popleft())
        return data

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self.writes.append((offset >> SHIFT, bytes(data)))
        if self.refusals:
            raise self.error(self.refusals.popleft(), "pwrite")
        self.running = True
        if self.script:
            self.interrupt(self.script.popleft())

    def interrupt(self, status: bytes) -> None:
        at = vfio_ccw.ccw_io_region.irb_area.offset
        self.contents[IO][at : at + len(status)] = status
        self.host.write(self.eventfds[vfio.VFIO_CCW_IO_IRQ_INDEX], _one())

    def error(self, number: int, operation: str) -> KernelError:
        return kernel_error(OSError(number, ""), operation, self.name, kinds=ACCESS_KINDS)


def _one() -> bytes:
    return (1).to_bytes(8, sys.byteorder)


def _type_capability(subtype: int) -> Capability:
    header = vfio.vfio_info_cap_header(id=vfio.VFIO_REGION_INFO_CAP_TYPE, version=1)
    body = vfio.vfio_region_info_cap_type(header, vfio.VFIO_REGION_TYPE_CCW, subtype)
    return Capability(vfio.VFIO_REGION_INFO_CAP_TYPE, 1, bytes(body))


Opener = Callable[..., CcwDevice]


@pytest.fixture
def file() -> FakeSubchannel:
    return FakeSubchannel(host=LinuxHost(), fd=-1, name=UUID)


@pytest.fixture
def opened(file: FakeSubchannel) -> Iterator[Opener]:
    made: list[CcwDevice] = []

    def open_(path: str | None = f"/sys/devices/css0/0.0.0313/{UUID}", **options: Any) -> CcwDevice:
        known = None if path is None else HostDevice(UUID, "mdev", path, "vfio_ccw_mdev", 9, None)
        properties = {"enable-migration": OnOffAuto.AUTO, "force-orb-pfch": False, **options}
        setup = DeviceSetup(
            config=Device("vfio-ccw", "disk", properties),
            target=DeviceTarget(UUID, known),
            access=file,
            container=Container(host=file.host, backend="legacy", label="container"),
            ram_discard_allowed=True,
        )
        made.append(CcwDevice(setup))
        return made[-1]

    yield open_
    file.irq_refusals.clear()
    for device in made:
        device.release()


@pytest.fixture
def disk(opened: Opener) -> CcwDevice:
    return opened()


# -- what it is --------------------------------------------------------------------------------
def test_the_subchannel_is_the_directory_above_the_mdev(disk: CcwDevice) -> None:
    assert disk.subchannel_id == SubchannelId(0, 0, 0x313)


def test_an_mdev_elsewhere_is_refused(opened: Opener) -> None:
    with pytest.raises(DeviceAccessError, match="'matrix' is not the name of a subchannel"):
        opened(path=f"/sys/devices/vfio_ap/matrix/{UUID}")


def test_an_fd_alone_is_refused(opened: Opener) -> None:
    with pytest.raises(DeviceAccessError, match="give sysfsdev= beside fd="):
        opened(path=None)


def test_a_device_of_another_kind_is_refused(opened: Opener, file: FakeSubchannel) -> None:
    file.flags = vfio.VFIO_DEVICE_FLAGS_PCI
    with pytest.raises(UnsupportedError, match="not a subchannel"):
        opened()


@pytest.mark.parametrize("index", [IO, ASYNC, SCHIB, CRW])
def test_a_region_of_another_size_is_refused(
    opened: Opener, file: FakeSubchannel, index: int
) -> None:
    file.sizes[index] += 4
    with pytest.raises(MalformedReplyError, match=r"bytes, not the \d+ of struct ccw_"):
        opened()


def test_an_old_kernel_has_the_io_region_and_its_irq_only(
    opened: Opener, file: FakeSubchannel
) -> None:
    file.num_regions, file.num_irqs = 1, 1
    disk = opened()
    assert disk.io.count == 1
    assert disk.crw is None
    assert disk.request is None


@pytest.mark.parametrize("operation", ["halt", "clear", "schib", "crws"])
def test_what_an_old_kernel_lacks_is_unsupported(
    opened: Opener, file: FakeSubchannel, operation: str
) -> None:
    file.num_regions = 1
    with pytest.raises(UnsupportedError, match="no region for it"):
        getattr(opened(), operation)()


# -- start -------------------------------------------------------------------------------------
def test_a_start_writes_the_whole_io_region_at_once(disk: CcwDevice, file: FakeSubchannel) -> None:
    disk.start(0x1000, intparm=7)
    orb = build_orb(0x1000, intparm=7)
    scsw = bytes.fromhex("0000 4000 00000000 00000000")
    assert file.writes == [(IO, orb + scsw + bytes(96) + bytes(4))]


def test_a_start_enables_the_interrupt_that_ends_it(disk: CcwDevice, file: FakeSubchannel) -> None:
    disk.start(0x1000)
    assert file.eventfds[vfio.VFIO_CCW_IO_IRQ_INDEX] == disk.io.vectors[0].fd


def test_a_start_is_tried_again_while_the_kernel_is_busy(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    file.refusals.extend([errno.EAGAIN] * 3)
    disk.start(0x1000)
    assert len(file.writes) == 4


def test_a_kernel_that_stays_busy_is_given_up(
    disk: CcwDevice, file: FakeSubchannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "RETRY_SECONDS", 0.01)
    file.refusals.extend([errno.EAGAIN] * 1000)
    with pytest.raises(BusyError, match="EAGAIN"):
        disk.start(0x1000)
    file.refusals.clear()
    assert len(file.writes) > 1


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EBUSY, BusyError),
        (errno.ENODEV, DeviceAccessError),
        (errno.EACCES, DeviceAccessError),
        (errno.EIO, DeviceAccessError),
        (errno.EINVAL, DeviceAccessError),
        (errno.ENOENT, DeviceAccessError),
        (errno.EPERM, DeviceAccessError),
        (errno.EFAULT, DeviceAccessError),
        (errno.EOPNOTSUPP, UnsupportedError),
    ],
    ids=errno.errorcode.get,
)
def test_a_refused_start_says_why(
    disk: CcwDevice, file: FakeSubchannel, number: int, kind: type[KernelError]
) -> None:
    file.refusals.append(number)
    with pytest.raises(kind) as caught:
        disk.start(0x1000)
    assert type(caught.value) is kind
    assert caught.value.errno == number
    assert caught.value.operation == "start"
    assert caught.value.detail
    assert len(file.writes) == 1


def test_a_start_does_not_overwrite_a_completion_that_nobody_read(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    disk.io.enable()
    file.interrupt(ATTENTION_IRB)
    with pytest.raises(BusyError, match="wait"):
        disk.start(0x1000)
    assert file.writes == []
    assert disk.wait(0).device_status == ATTENTION


def test_a_guests_own_request_block_is_passed_on_as_it_is(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    orb = bytes.fromhex("cafef00d 50c8 80 80 00002000")
    disk.start_orb(orb)
    assert file.writes[0][1][:12] == orb


def test_prefetching_is_forced_on_request_and_said_once(
    opened: Opener, file: FakeSubchannel
) -> None:
    disk = opened(**{"force-orb-pfch": True})
    with pytest.warns(VfioWarning, match="force-orb-pfch=on"):
        disk.start(0x1000, prefetch=False)
    disk.start(0x1000, prefetch=False)  # a second warning would be an error here
    assert {data[:12] for _, data in file.writes} == {build_orb(0x1000, prefetch=True)}


def test_prefetching_is_left_as_the_program_has_it(disk: CcwDevice, file: FakeSubchannel) -> None:
    disk.start(0x1000, prefetch=False)
    assert file.writes[0][1][:12] == build_orb(0x1000, prefetch=False)


# -- completion --------------------------------------------------------------------------------
def test_wait_reads_the_status_that_an_interrupt_announced(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    disk.start(0x1000)
    file.interrupt(irb(count=5))
    ending = disk.wait(1)
    assert ending.ok
    assert ending.residual == 5
    assert ending.lost == 0


def test_wait_gives_up_in_time(disk: CcwDevice) -> None:
    with pytest.raises(InterruptTimeout):
        disk.wait(0.001)


def test_status_that_was_overwritten_is_counted(disk: CcwDevice, file: FakeSubchannel) -> None:
    disk.start(0x1000)
    file.interrupt(ATTENTION_IRB)
    file.interrupt(irb())
    assert disk.wait(1).lost == 1


def test_a_completion_can_be_awaited(disk: CcwDevice, file: FakeSubchannel) -> None:
    async def read() -> int:
        disk.start(0x1000)
        asyncio.get_running_loop().call_later(0.01, file.interrupt, irb(count=9))
        return (await disk.wait_async()).residual

    assert asyncio.run(read()) == 9


STEPS = (
    irb(PENDING | PRIMARY | cio.SCSW_ACTL_DEVICE_ACTIVE, CE, count=4),
    ATTENTION_IRB,
    irb(PENDING | SECONDARY, DE),
)


def test_a_run_lasts_until_the_device_has_ended(disk: CcwDevice, file: FakeSubchannel) -> None:
    file.script.extend(STEPS)
    ending = disk.run(0x1000, timeout=1)
    assert ending.device_status == CE | DE
    assert ending.residual == 4


def test_what_the_device_tells_during_a_run_is_kept(disk: CcwDevice, file: FakeSubchannel) -> None:
    file.script.extend(STEPS)
    disk.run(0x1000, timeout=1)
    assert [stray.device_status for stray in disk.strays] == [ATTENTION]


def test_what_the_device_told_before_a_run_is_kept(disk: CcwDevice, file: FakeSubchannel) -> None:
    disk.io.enable()
    file.interrupt(ATTENTION_IRB)
    file.script.append(irb(count=2))
    assert disk.run(0x1000, timeout=1).residual == 2
    assert [stray.device_status for stray in disk.strays] == [ATTENTION]


def test_a_run_in_asyncio_ends_the_same(disk: CcwDevice, file: FakeSubchannel) -> None:
    file.script.extend(STEPS)
    ending = asyncio.run(disk.run_async(0x1000))
    assert ending.device_status == CE | DE
    assert len(disk.strays) == 1


def test_a_program_that_went_wrong_is_an_answer_not_an_error(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    file.script.append(irb(dstat=CE | DE | cio.SCSW_DSTAT_UNIT_CHECK))
    assert disk.run(0x1000, timeout=1).problems == ("unit check",)


def test_a_run_that_does_not_end_in_time_can_be_told(disk: CcwDevice) -> None:
    with pytest.raises(InterruptTimeout):
        disk.run(0x1000, timeout=0.001)


# -- halt, clear, reset ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("operation", "command"),
    [("halt", vfio_ccw.VFIO_CCW_ASYNC_CMD_HSCH), ("clear", vfio_ccw.VFIO_CCW_ASYNC_CMD_CSCH)],
)
def test_halt_and_clear_are_commands(
    disk: CcwDevice, file: FakeSubchannel, operation: str, command: int
) -> None:
    getattr(disk, operation)()
    assert file.writes == [(ASYNC, command.to_bytes(4, sys.byteorder) + bytes(4))]


def test_a_halt_enables_the_interrupt_that_ends_it(disk: CcwDevice, file: FakeSubchannel) -> None:
    disk.halt()
    assert file.eventfds[vfio.VFIO_CCW_IO_IRQ_INDEX] == disk.io.vectors[0].fd


def test_a_halt_is_tried_again_while_the_kernel_is_busy(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    file.refusals.append(errno.EAGAIN)
    disk.halt()
    assert len(file.writes) == 2


def test_a_halt_of_a_device_that_is_gone_says_so(disk: CcwDevice, file: FakeSubchannel) -> None:
    file.refusals.append(errno.ENODEV)
    with pytest.raises(DeviceAccessError, match="no path to the device"):
        disk.halt()


def test_a_reset_forgets_a_completion(disk: CcwDevice, file: FakeSubchannel) -> None:
    disk.start(0x1000)
    file.interrupt(irb())
    disk.reset()
    assert file.resets == 1
    with pytest.raises(InterruptTimeout):
        disk.wait(0)


# -- the subchannel ----------------------------------------------------------------------------
def test_the_information_block_is_read(disk: CcwDevice, file: FakeSubchannel) -> None:
    pmcw = cio.PMCW(flags=cio.PMCW_FLAGS_MASK_DNV | cio.PMCW_FLAGS_MASK_ENA, devno=0x1234)
    file.contents[SCHIB][:] = bytes(cio.SCHIB(pmcw=pmcw))
    assert disk.schib().device_number == 0x1234


def test_the_information_block_of_a_subchannel_that_is_gone_is_an_access_error(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    file.refusals.append(errno.ENODEV)
    with pytest.raises(DeviceAccessError) as caught:
        disk.schib()
    assert caught.value.operation == "schib"


def test_reports_are_taken_until_none_is_left(disk: CcwDevice, file: FakeSubchannel) -> None:
    file.crws.extend(bytes(cio.CRW(0x0406, chpid)) for chpid in (0x40, 0x41))
    assert [report.source_id for report in disk.crws()] == [0x40, 0x41]
    assert disk.crws() == []


def test_reports_without_end_are_malformed(
    disk: CcwDevice, file: FakeSubchannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "REPORT_LIMIT", 3)
    file.crws.extend([bytes(cio.CRW(0x0406, 0x40))] * 4)
    with pytest.raises(MalformedReplyError, match="more than 3 reports"):
        disk.crws()


# -- interrupts --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["io", "crw", "request"])
def test_an_interrupt_is_taken_away_by_minus_one(
    disk: CcwDevice, file: FakeSubchannel, name: str
) -> None:
    irq = getattr(disk, name)
    irq.enable()
    irq.disable()
    assert file.eventfds == {irq.index: -1}
    assert irq.vectors == ()


def test_an_interrupt_that_cannot_be_registered_is_an_error(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    file.irq_refusals.append(errno.EINVAL)
    with pytest.raises(DeviceAccessError):
        disk.start(0x1000)
    assert disk.io.vectors == ()
    assert file.writes == []


def test_an_eventfd_is_closed_also_if_the_kernel_keeps_it(
    disk: CcwDevice, file: FakeSubchannel
) -> None:
    (vector,) = disk.io.enable()
    file.irq_refusals.append(errno.EINVAL)
    with pytest.raises(DeviceAccessError):
        disk.io.disable()
    assert vector.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.host.read(vector.fd, 8)


def test_release_takes_every_interrupt_away(disk: CcwDevice, file: FakeSubchannel) -> None:
    assert disk.crw is not None
    disk.io.enable()
    disk.crw.enable()
    disk.release()
    assert set(file.eventfds.values()) == {-1}


def test_messages_name_the_parts(disk: CcwDevice) -> None:
    assert disk.region(IO).name == f"{UUID} I/O region"
    assert disk.region(SCHIB).name == f"{UUID} region 2"
    assert disk.io.name == f"{UUID} I/O"
