"""The whole path on the simulated host: option string, backend, guest memory, channel program."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from typing import cast

import pytest

import vfiocore_ccw.plugin
import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
from vfiocore.errors import BusyError, DeviceAccessError, InterruptTimeout, UnsupportedError
from vfiocore.framework import Framework
from vfiocore.log import VfioWarning
from vfiocore.memory.buffer import DmaBuffer
from vfiocore.memory.mapping import Access
from vfiocore.session import Session
from vfiocore.uapi import s390_cio as cio
from vfiocore_ccw.channel import ChannelProgram, pack_idaws
from vfiocore_ccw.device import CcwDevice
from vfiocore_ccw.subchannel import SubchannelId
from vfiocore_sim.devices import CcwDiskDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import CCW_DISK_UUID, Topology

PLUGINS = (vfiocore_legacy.plugin, vfiocore_iommufd.plugin, vfiocore_ccw.plugin)
MDEV = f"/sys/bus/mdev/devices/{CCW_DISK_UUID}"
BACKENDS = {
    "legacy": f"-device vfio-ccw,id=disk,sysfsdev={MDEV}",
    "iommufd": f"-object iommufd,id=iommufd0 -device vfio-ccw,id=disk,sysfsdev={MDEV},iommufd=iommufd0",
}
IDENTITY = bytes.fromhex("ff 6310 80 9336 10")
BLOCK = 512
WRITE, READ, LOCATE, DEFINE_EXTENT = 0x41, 0x42, 0x43, 0x63

DATA = 4096
"""Where data is in `memory`: programs come first, and the kernel reads 2 KiB of each."""


@pytest.fixture(params=BACKENDS)
def options(request: pytest.FixtureRequest) -> str:
    return BACKENDS[cast("str", request.param)]


@pytest.fixture
def host() -> SimHost:
    return SimHost(machine(latency=0))


def machine(latency: float) -> Topology:
    subchannel = Topology().subchannel("0.0.0313", device=lambda: CcwDiskDevice(latency=latency))
    return subchannel.mdev(CCW_DISK_UUID, parent="0.0.0313")


@pytest.fixture
def session(host: SimHost, options: str) -> Iterator[Session]:
    with Framework(PLUGINS, autoload=False, host=host).open(options) as session:
        yield session


@pytest.fixture
def disk(session: Session) -> CcwDevice:
    return cast("CcwDevice", session["disk"])


@pytest.fixture
def memory(session: Session) -> DmaBuffer:
    return session.dma_alloc(64 * 1024, below=1 << 31)


@pytest.fixture
def hardware(host: SimHost) -> CcwDiskDevice:
    return cast("CcwDiskDevice", host.device(CCW_DISK_UUID))


@pytest.fixture
def sense_id(memory: DmaBuffer) -> int:
    """The iova of a program that reads the identity to `DATA`."""
    program = ChannelProgram().command(cio.CCW_CMD_SENSE_ID, memory.iova + DATA, len(IDENTITY))
    memory.write(0, program.to_bytes())
    return memory.iova


# -- programs ----------------------------------------------------------------------------------
def test_a_disk_tells_what_it_is_through_guest_memory(
    disk: CcwDevice, memory: DmaBuffer, sense_id: int
) -> None:
    ending = disk.run(sense_id, timeout=5)
    assert ending.ok
    assert ending.cpa == sense_id + 8
    assert memory.read(DATA, len(IDENTITY)) == IDENTITY


def transfer(memory: DmaBuffer, command: int, block: int, blocks: int) -> bytes:
    """DEFINE EXTENT, LOCATE, READ or WRITE, with the data at `DATA`."""
    memory.write(2048, bytes.fromhex("c0 00 0200 00000000 00000000 000000ff"))
    operation = 6 if command == READ else 5
    locate = bytes([operation, 0]) + blocks.to_bytes(2, "big") + block.to_bytes(4, "big")
    memory.write(2064, locate)
    return (
        ChannelProgram()
        .command(DEFINE_EXTENT, memory.iova + 2048, 16)
        .command(LOCATE, memory.iova + 2064, 8)
        .command(command, memory.iova + DATA, blocks * BLOCK)
        .to_bytes()
    )


def test_blocks_that_were_written_are_read_back(
    disk: CcwDevice, memory: DmaBuffer, hardware: CcwDiskDevice
) -> None:
    content = bytes(range(256)) * 4
    memory.write(DATA, content)
    memory.write(0, transfer(memory, WRITE, block=7, blocks=2))
    assert disk.run(memory.iova, timeout=5).ok
    assert hardware.content[7 * BLOCK : 9 * BLOCK] == content

    memory.write(DATA, bytes(len(content)))
    memory.write(0, transfer(memory, READ, block=7, blocks=2))
    assert disk.run(memory.iova, timeout=5).ok
    assert memory.read(DATA, len(content)) == content


def test_a_unit_check_is_explained_by_sense_data(disk: CcwDevice, memory: DmaBuffer) -> None:
    memory.write(0, ChannelProgram().command(0x17, memory.iova + DATA, 8).to_bytes())
    assert disk.run(memory.iova, timeout=5).problems == ("unit check",)
    sense = ChannelProgram().command(cio.CCW_CMD_BASIC_SENSE, memory.iova + DATA, 32)
    memory.write(0, sense.to_bytes())
    assert disk.run(memory.iova, timeout=5).ok
    assert memory.read(DATA, 1) == b"\x80"  # command reject


def refused_start(host: SimHost) -> DeviceAccessError:
    """What EACCES is for a program with data, by a path that a disk of two paths has lost."""
    cast("CcwDiskDevice", host.device(CCW_DISK_UUID)).path_offline(0x41)
    with Framework(PLUGINS, autoload=False, host=host).open(BACKENDS["legacy"]) as session:
        memory = session.dma_alloc(2 * DATA, below=1 << 31)
        program = ChannelProgram().command(cio.CCW_CMD_SENSE_ID, memory.iova + DATA, len(IDENTITY))
        memory.write(0, program.to_bytes())
        with pytest.raises(DeviceAccessError) as caught:
            session["disk"].start(memory.iova, lpm=0x40)
    assert caught.value.errno == errno.EACCES
    return caught.value


def two_paths() -> Topology:
    subchannel = Topology().subchannel(
        "0.0.0313", device=lambda: CcwDiskDevice(latency=0, chpids=(0x40, 0x41))
    )
    return subchannel.mdev(CCW_DISK_UUID, parent="0.0.0313")


def test_a_start_by_a_lost_path_says_so() -> None:
    error = refused_start(SimHost(two_paths()))
    assert "the path to the device is gone" in error.detail
    assert error.hint is None


def test_data_that_type1_version_1_does_not_pin_is_not_a_lost_path() -> None:
    error = refused_start(SimHost(two_paths(), without={"VFIO_TYPE1v2_IOMMU"}))
    assert "type1 version 1" in error.detail
    assert error.hint is not None
    assert "iommufd=" in error.hint


def test_a_short_answer_is_an_incorrect_length(disk: CcwDevice, memory: DmaBuffer) -> None:
    program = ChannelProgram().command(cio.CCW_CMD_SENSE_ID, memory.iova + DATA, 20)
    memory.write(0, program.to_bytes())
    ending = disk.run(memory.iova, timeout=5)
    assert ending.problems == ("incorrect length",)
    assert ending.residual == 20 - len(IDENTITY)


def test_length_indication_can_be_suppressed(disk: CcwDevice, memory: DmaBuffer) -> None:
    program = ChannelProgram().command(cio.CCW_CMD_SENSE_ID, memory.iova + DATA, 20, sli=True)
    memory.write(0, program.to_bytes())
    assert disk.run(memory.iova, timeout=5).ok


def test_data_may_be_scattered_by_data_chaining(disk: CcwDevice, memory: DmaBuffer) -> None:
    program = ChannelProgram().command(cio.CCW_CMD_SENSE_ID, memory.iova + DATA, 3)
    memory.write(0, program.data(memory.iova + 2 * DATA, len(IDENTITY) - 3).to_bytes())
    assert disk.run(memory.iova, timeout=5).ok
    assert memory.read(DATA, 3) + memory.read(2 * DATA, len(IDENTITY) - 3) == IDENTITY


def test_data_may_be_scattered_by_indirect_addresses(disk: CcwDevice, memory: DmaBuffer) -> None:
    at = memory.iova + 2 * DATA - 3
    memory.write(2048, pack_idaws([at, memory.iova + 4 * DATA]))
    program = ChannelProgram().command(
        cio.CCW_CMD_SENSE_ID, memory.iova + 2048, len(IDENTITY), flags=cio.CCW_FLAG_IDA
    )
    memory.write(0, program.to_bytes())
    assert disk.run(memory.iova, timeout=5, idaw64=True).ok
    assert memory.read(2 * DATA - 3, 3) + memory.read(4 * DATA, len(IDENTITY) - 3) == IDENTITY


def test_a_program_may_jump(disk: CcwDevice, memory: DmaBuffer) -> None:
    rest = ChannelProgram().command(cio.CCW_CMD_SENSE_ID, memory.iova + DATA, len(IDENTITY))
    memory.write(2048, rest.to_bytes())
    start = ChannelProgram().command(cio.CCW_CMD_NOOP).jump(memory.iova + 2048)
    memory.write(0, start.to_bytes())
    assert disk.run(memory.iova, timeout=5).ok
    assert memory.read(DATA, len(IDENTITY)) == IDENTITY


def test_a_program_of_format_0_runs_too(disk: CcwDevice, memory: DmaBuffer) -> None:
    address = memory.iova + DATA
    ccw = cio.CCW0(cio.CCW_CMD_SENSE_ID, address >> 16, address & 0xFFFF, 0, 0, len(IDENTITY))
    memory.write(0, bytes(ccw))
    assert disk.run(memory.iova, timeout=5, format1=False).ok
    assert memory.read(DATA, len(IDENTITY)) == IDENTITY


def test_a_completion_can_be_awaited(disk: CcwDevice, memory: DmaBuffer, sense_id: int) -> None:
    assert asyncio.run(disk.run_async(sense_id)).ok
    assert memory.read(DATA, len(IDENTITY)) == IDENTITY


def test_prefetching_is_forced_by_configuration(host: SimHost, options: str) -> None:
    forced = options.replace("id=disk", "id=disk,force-orb-pfch=on")
    with Framework(PLUGINS, autoload=False, host=host).open(forced) as session:
        memory = session.dma_alloc(8192, below=1 << 31)
        memory.write(0, ChannelProgram().command(cio.CCW_CMD_NOOP).to_bytes())
        with pytest.warns(VfioWarning, match="force-orb-pfch"):
            ending = session["disk"].run(memory.iova, timeout=5, prefetch=False)
    scsw = cio.SCSW.from_buffer_copy(ending.scsw)
    assert scsw.flags & cio.SCSW_FLAGS_MASK_PFCH


# -- refusals ----------------------------------------------------------------------------------
def test_a_program_outside_guest_memory_is_refused(disk: CcwDevice) -> None:
    with pytest.raises(DeviceAccessError, match="not mapped"):
        disk.run(0x7000_0000, timeout=5)


def test_a_program_needs_two_kib_of_memory_however_short_it_is(
    disk: CcwDevice, memory: DmaBuffer
) -> None:
    at = memory.length - 1024
    memory.write(at, ChannelProgram().command(cio.CCW_CMD_NOOP).to_bytes())
    with pytest.raises(DeviceAccessError, match="not mapped"):
        disk.run(memory.iova + at, timeout=5)


def test_data_outside_guest_memory_is_refused(disk: CcwDevice, memory: DmaBuffer) -> None:
    memory.write(0, ChannelProgram().command(cio.CCW_CMD_SENSE_ID, 0x7000_0000, 7).to_bytes())
    with pytest.raises(DeviceAccessError, match="not mapped"):
        disk.run(memory.iova, timeout=5)


def test_memory_that_a_device_may_only_read_is_refused_for_data(
    disk: CcwDevice, session: Session, memory: DmaBuffer
) -> None:
    read_only = session.dma_alloc(4096, below=1 << 31, access=Access.READ)
    memory.write(0, ChannelProgram().command(cio.CCW_CMD_SENSE_ID, read_only.iova, 7).to_bytes())
    with pytest.raises(DeviceAccessError, match="reading and writing") as caught:
        disk.run(memory.iova, timeout=5)
    assert caught.value.errno == errno.EPERM


def test_transport_mode_is_not_supported(disk: CcwDevice, memory: DmaBuffer) -> None:
    orb = cio.ORB(0, cio.ORB_CTRL0_MASK_FMT | 0x0004, 0xFF, 0, memory.iova)
    with pytest.raises(UnsupportedError, match="command mode only"):
        disk.start_orb(bytes(orb))


def test_a_device_that_is_gone_cannot_be_started(
    disk: CcwDevice, hardware: CcwDiskDevice, sense_id: int
) -> None:
    hardware.detach()
    with pytest.raises(DeviceAccessError, match="not operational") as caught:
        disk.run(sense_id, timeout=5)
    assert caught.value.errno == errno.EIO


def test_a_busy_kernel_is_asked_again(disk: CcwDevice, host: SimHost, sense_id: int) -> None:
    disk.io.enable()
    host.fail(f"pwrite device {CCW_DISK_UUID}", errno.EAGAIN, times=3)
    assert disk.run(sense_id, timeout=5).ok


def test_an_interrupt_that_cannot_be_registered_stops_the_start(
    disk: CcwDevice, host: SimHost, sense_id: int
) -> None:
    host.fail("VFIO_DEVICE_SET_IRQS", errno.EINVAL)
    with pytest.raises(DeviceAccessError, match="VFIO_DEVICE_SET_IRQS"):
        disk.start(sense_id)
    assert disk.run(sense_id, timeout=5).ok


# -- a program that takes its time -------------------------------------------------------------
@pytest.fixture
def slow() -> SimHost:
    return SimHost(machine(latency=60))


@pytest.fixture
def running(slow: SimHost, options: str) -> Iterator[tuple[CcwDevice, DmaBuffer]]:
    """A disk with a program that will not end by itself."""
    with Framework(PLUGINS, autoload=False, host=slow).open(options) as session:
        memory = session.dma_alloc(8192, below=1 << 31)
        program = ChannelProgram().command(cio.CCW_CMD_SENSE_ID, memory.iova + DATA, 7)
        memory.write(0, program.to_bytes())
        session["disk"].start(memory.iova)
        yield session["disk"], memory


Running = tuple[CcwDevice, DmaBuffer]


def test_one_program_runs_at_a_time(running: Running) -> None:
    disk, memory = running
    with pytest.raises(BusyError) as caught:
        disk.start(memory.iova)
    assert caught.value.errno == errno.EBUSY


@pytest.mark.parametrize(
    ("stop", "function"),
    [
        (CcwDevice.halt, cio.SCSW_FCTL_HALT_FUNC),
        (CcwDevice.clear, cio.SCSW_FCTL_CLEAR_FUNC),
    ],
    ids=["halt", "clear"],
)
def test_a_running_program_can_be_stopped(
    running: Running, stop: Callable[[CcwDevice], None], function: int
) -> None:
    disk, memory = running
    stop(disk)
    ending = disk.wait(5)
    assert ending.control & function
    assert ending.final
    assert memory.read(DATA, 7) == bytes(7)


def test_a_reset_stops_a_running_program(running: Running, slow: SimHost) -> None:
    disk, memory = running
    assert slow.pinned_bytes > 0
    disk.reset()
    with pytest.raises(InterruptTimeout):
        disk.wait(0.01)
    disk.start(memory.iova)


# -- the subchannel ----------------------------------------------------------------------------
def test_the_subchannel_and_its_device_have_numbers(disk: CcwDevice) -> None:
    assert disk.subchannel_id == SubchannelId(0, 0, 0x313)
    assert disk.schib().device_number == 0x1234
    assert disk.schib().enabled


def test_a_lost_path_is_reported(disk: CcwDevice, hardware: CcwDiskDevice) -> None:
    assert disk.crw is not None
    (vector,) = disk.crw.enable()
    hardware.path_offline(0x40)
    hardware.path_online(0x40)
    assert vector.wait(5) >= 1
    gone, back = disk.crws()
    assert (gone.source, gone.source_id, gone.code) == (cio.CRW_RSC_CHP, 0x40, cio.CRW_ERC_PERRN)
    assert (back.source_id, back.code) == (0x40, cio.CRW_ERC_INIT)


def test_the_host_can_ask_for_the_device(disk: CcwDevice, hardware: CcwDiskDevice) -> None:
    assert disk.request is not None
    (vector,) = disk.request.enable()
    hardware.request(0)
    assert vector.wait(5) == 1


def test_memory_may_be_taken_from_under_it(disk: CcwDevice) -> None:
    assert disk.ram_discard_allowed


# -- opening and closing -----------------------------------------------------------------------
def test_a_passed_cdev_is_used_and_stays_open(host: SimHost) -> None:
    (cdev,) = host.listdir(f"{MDEV}/vfio-dev")
    fd = host.open(f"/dev/vfio/devices/{cdev}")
    options = f"-object iommufd,id=iommufd0 -device vfio-ccw,id=disk,fd={fd},sysfsdev={MDEV},iommufd=iommufd0"
    with Framework(PLUGINS, autoload=False, host=host).open(options) as session:
        assert session["disk"].subchannel_id.number == 0x313
    host.close(fd)
    assert host.open_files() == []


def test_interrupts_go_before_the_device_is_closed(host: SimHost, options: str) -> None:
    with Framework(PLUGINS, autoload=False, host=host).open(options) as session:
        disk = session["disk"]
        disk.io.enable()
        disk.request.enable()
        host.forget_calls()
    names = host.call_names()
    irqs = [at for at, name in enumerate(names) if "SET_IRQS" in name]
    closing = next(at for at, name in enumerate(names) if name == f"close device {CCW_DISK_UUID}")
    assert len(irqs) == 2
    assert max(irqs) < closing


def test_nothing_is_left_behind(host: SimHost, options: str) -> None:
    with Framework(PLUGINS, autoload=False, host=host).open(options) as session:
        memory = session.dma_alloc(8192, below=1 << 31)
        memory.write(0, ChannelProgram().command(cio.CCW_CMD_NOOP).to_bytes())
        session["disk"].run(memory.iova, timeout=5)
    assert host.open_files() == []
    assert host.pinned_bytes == 0
