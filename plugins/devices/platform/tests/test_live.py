"""The device type on a simulated machine, through both backends."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping

import pytest

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
import vfiocore_platform.plugin
from vfiocore.errors import (
    ConfigError,
    DeviceAccessError,
    InterruptTimeout,
    KernelError,
    UnsupportedError,
)
from vfiocore.framework import Framework
from vfiocore.session import Session
from vfiocore.uapi import vfio
from vfiocore_platform.device import PlatformDevice
from vfiocore_sim.device import SysfsEntry
from vfiocore_sim.devices import timer
from vfiocore_sim.devices.timer import TimerDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology
from vfiocore_sim.vfio.platform import MmioRegion, PlatformIrq
from vfiocore_sim.vfio.platform import PlatformDevice as PlatformProgram

TIMER = "10000000.timer"
SRAM = "20000000.sram"
ACPI = "ACME0001:00"
UART = "30000000.serial"


class Sram(PlatformProgram):
    """Memory that a device can be asked to copy from, without a reset function."""

    compatible = ("acme,sram-v2", "acme,sram")
    regions = (
        MmioRegion(size=os.sysconf("SC_PAGESIZE"), ram=True),
        MmioRegion(size=16, read_only=True),
    )
    irqs = (PlatformIrq(level=False),)
    has_reset = False


class AcpiDevice(PlatformProgram):
    """Described by ACPI: there is no device tree node."""

    def sysfs_files(self) -> Mapping[str, SysfsEntry]:
        return {}


class Uart(PlatformProgram):
    """Behind vfio-amba."""

    device_flags = vfio.VFIO_DEVICE_FLAGS_AMBA


@pytest.fixture
def host() -> SimHost:
    return SimHost(
        Topology()
        .platform(TIMER, TimerDevice, group=6)
        .platform(SRAM, Sram, group=7)
        .platform(ACPI, AcpiDevice, group=8)
        .platform(UART, Uart, group=9)
    )


@pytest.fixture
def framework(host: SimHost) -> Framework:
    plugins = [vfiocore_legacy.plugin, vfiocore_iommufd.plugin, vfiocore_platform.plugin]
    return Framework(plugins, autoload=False, host=host)


Open = Callable[[str], PlatformDevice]


@pytest.fixture(params=["legacy", "iommufd"])
def open_device(
    request: pytest.FixtureRequest, framework: Framework, host: SimHost
) -> Iterator[Open]:
    sessions: list[Session] = []

    def opened(name: str) -> PlatformDevice:
        words = f"-device vfio-platform,id=dev0,host={name}"
        if request.param == "iommufd":
            words = f"-object iommufd,id=iommufd0 {words},iommufd=iommufd0"
        sessions.append(framework.open(words))
        device = sessions[-1]["dev0"]
        assert isinstance(device, PlatformDevice)
        return device

    yield opened
    for session in sessions:
        session.close()
    assert host.open_files() == []
    assert host.live_mappings() == []


def expire(device: PlatformDevice) -> None:
    """A start with a load of 0 expires before the write returns."""
    device.regions[0].write32(timer.REG_CONTROL, timer.CONTROL_START)


def acknowledge(device: PlatformDevice) -> None:
    device.regions[0].write32(timer.REG_ACK, timer.STATUS_EXPIRED)


# -- what it is ------------------------------------------------------------------------------------
def test_compatible_strings_come_in_the_order_of_the_device_tree(open_device: Open) -> None:
    assert open_device(SRAM).compatible == ("acme,sram-v2", "acme,sram")


def test_a_device_of_acpi_has_no_compatible_strings(open_device: Open) -> None:
    assert open_device(ACPI).compatible == ()


def test_a_compatible_file_that_cannot_be_read_is_an_error(
    framework: Framework, host: SimHost
) -> None:
    path = f"/sys/devices/platform/{TIMER}/of_node/compatible"
    host.fail(f"read {path}", errno.EIO)
    with pytest.raises(KernelError, match="EIO"):
        framework.open(f"-device vfio-platform,host={TIMER}")
    assert host.open_files() == []


def test_an_amba_device_is_refused_by_its_name(framework: Framework, host: SimHost) -> None:
    with pytest.raises(UnsupportedError, match="AMBA device"):
        framework.open(f"-device vfio-platform,host={UART}")
    assert host.open_files() == []


# -- regions ---------------------------------------------------------------------------------------
def test_registers_are_read_and_written(open_device: Open) -> None:
    device = open_device(TIMER)
    (registers,) = device.regions
    assert registers.read32(timer.REG_ID) == timer.IDENTIFICATION
    registers.write32(timer.REG_LOAD, 0x12345678)
    assert registers.read32(timer.REG_LOAD) == 0x12345678


def test_memory_of_a_device_can_be_mapped(open_device: Open) -> None:
    memory = open_device(SRAM).regions[0]
    memory.map()
    memory.write32(8, 0x11223344)
    assert memory.view()[8:12].cast("I")[0] == 0x11223344
    memory.unmap()
    assert memory.read32(8) == 0x11223344


def test_a_read_only_region_refuses_to_be_written(open_device: Open) -> None:
    region = open_device(SRAM).regions[1]
    assert not region.writable
    with pytest.raises(DeviceAccessError, match="EINVAL"):
        region.write32(0, 1)


# -- interrupts ------------------------------------------------------------------------------------
def test_lines_tell_whether_they_are_level_or_edge_triggered(open_device: Open) -> None:
    level, edge = open_device(TIMER).irqs
    assert (level.automasked, level.maskable, level.count) == (True, True, 1)
    assert (edge.automasked, edge.maskable, edge.count) == (False, False, 1)


def test_an_edge_comes_once_for_each_expiry(open_device: Open) -> None:
    device = open_device(TIMER)
    (vector,) = device.irqs[timer.IRQ_TICK].enable()
    expire(device)
    expire(device)
    assert vector.wait(timeout=1) == 2


def test_a_level_is_masked_from_its_delivery_until_it_is_unmasked(open_device: Open) -> None:
    device = open_device(TIMER)
    level = device.irqs[timer.IRQ_EXPIRED]
    (vector,) = level.enable()
    expire(device)
    assert vector.wait(timeout=1) == 1
    acknowledge(device)
    expire(device)
    assert vector.take() == 0
    level.unmask()
    assert vector.take() == 1


def test_handling_unmasks_a_level_when_it_has_been_served(open_device: Open) -> None:
    device = open_device(TIMER)
    level = device.irqs[timer.IRQ_EXPIRED]
    level.enable()
    for _ in range(3):
        expire(device)
        with level.handling(timeout=1) as count:
            acknowledge(device)
        assert count == 1
    assert level.vectors[0].take() == 0


def test_handling_a_level_that_was_not_served_signals_it_again(open_device: Open) -> None:
    device = open_device(TIMER)
    level = device.irqs[timer.IRQ_EXPIRED]
    level.enable()
    expire(device)
    with level.handling(timeout=1):
        pass
    assert level.vectors[0].take() == 1


def test_handling_unmasks_also_after_an_error(open_device: Open) -> None:
    device = open_device(TIMER)
    level = device.irqs[timer.IRQ_EXPIRED]
    level.enable()
    expire(device)

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError), level.handling(timeout=1):
        fail()
    assert level.vectors[0].take() == 1


def test_handling_an_edge_leaves_masks_alone(open_device: Open) -> None:
    device = open_device(TIMER)
    edge = device.irqs[timer.IRQ_TICK]
    edge.enable()
    expire(device)
    with edge.handling(timeout=1) as count:
        assert count == 1


def test_a_line_that_is_disabled_while_it_is_handled_can_be_enabled_again(
    open_device: Open,
) -> None:
    device = open_device(TIMER)
    level = device.irqs[timer.IRQ_EXPIRED]
    level.enable()
    expire(device)
    with level.handling(timeout=1):
        acknowledge(device)
        level.disable()
    (vector,) = level.enable()
    expire(device)
    assert vector.wait(timeout=1) == 1


def test_a_session_may_be_closed_while_a_line_is_handled(framework: Framework) -> None:
    with framework.open(f"-device vfio-platform,id=t,host={TIMER}") as session:
        level = session["t"].irqs[timer.IRQ_EXPIRED]
        level.enable()
        expire(session["t"])
        with level.handling(timeout=1):
            session.close()


def test_handling_gives_up_after_its_timeout(open_device: Open) -> None:
    edge = open_device(TIMER).irqs[timer.IRQ_TICK]
    edge.enable()
    with pytest.raises(InterruptTimeout), edge.handling(timeout=0.01):
        pass


def test_handling_a_line_that_is_off_is_a_mistake(open_device: Open) -> None:
    edge = open_device(TIMER).irqs[timer.IRQ_TICK]
    with pytest.raises(DeviceAccessError, match="not enabled"), edge.handling():
        pass


def test_an_edge_cannot_be_masked(open_device: Open) -> None:
    edge = open_device(TIMER).irqs[timer.IRQ_TICK]
    edge.enable()
    with pytest.raises(DeviceAccessError, match="EINVAL"):
        edge.mask()


# -- reset and release -----------------------------------------------------------------------------
def test_reset_clears_registers_and_keeps_interrupts(open_device: Open) -> None:
    device = open_device(TIMER)
    (registers,) = device.regions
    (vector,) = device.irqs[timer.IRQ_TICK].enable()
    registers.write32(timer.REG_LOAD, 1)
    assert device.resettable
    device.reset()
    assert registers.read32(timer.REG_LOAD) == 0
    expire(device)
    assert vector.wait(timeout=1) == 1


def test_reset_without_a_reset_function_says_why(open_device: Open) -> None:
    device = open_device(SRAM)
    assert not device.resettable
    reason = r"no reset function for acme,sram-v2.*\n.*reset_required"
    with pytest.raises(DeviceAccessError, match=reason) as caught:
        device.reset()
    assert caught.value.errno == errno.EINVAL


def test_a_reset_that_fails_by_itself_is_reported_as_it_is(
    open_device: Open, host: SimHost
) -> None:
    device = open_device(TIMER)
    host.fail("VFIO_DEVICE_RESET", errno.EINVAL)
    with pytest.raises(DeviceAccessError) as caught:
        device.reset()
    assert caught.value.hint is None


def test_closing_turns_lines_off_in_reverse_and_unmaps_before_the_fd_goes(
    open_device: Open, host: SimHost
) -> None:
    device = open_device(SRAM)
    device.regions[0].map()
    device.irqs[0].enable()
    host.forget_calls()
    device.release()
    assert host.call_names() == ["ioctl VFIO_DEVICE_SET_IRQS", f"munmap device {SRAM}"]


# -- configuration ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("vfio-platform", "no host device is selected"),
        (f"vfio-platform,host=platform/{TIMER}", "a path goes into sysfsdev"),
        ("vfio-platform,fd=9,iommufd=io0", "fd needs sysfsdev beside it: its compatible strings"),
        (f"vfio-platform,fd=9,sysfsdev=/sys/bus/platform/devices/{TIMER}", "only with an iommufd"),
    ],
)
def test_a_wrong_configuration_opens_nothing(
    framework: Framework, host: SimHost, words: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        framework.open(f"-object iommufd,id=io0 -device {words}")
    assert not [name for name in host.call_names() if name.startswith("open")]


def test_a_passed_fd_is_used_and_sysfs_tells_the_rest(framework: Framework, host: SimHost) -> None:
    path = f"/sys/bus/platform/devices/{TIMER}"
    fd = host.open("/dev/vfio/devices/" + host.listdir(f"{path}/vfio-dev")[0])
    words = f"-object iommufd,id=io0 -device vfio-platform,id=t,iommufd=io0,fd={fd},sysfsdev={path}"
    with framework.open(words) as session:
        assert session["t"].compatible == ("vfiocore,sim-timer",)
    host.close(fd)
