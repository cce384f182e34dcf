from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable

import pytest

from vfiocore.access import IrqInfo, RegionInfo
from vfiocore.errors import DeviceAccessError, UnsupportedError
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import vfio
from vfiocore_pci.device import PciDevice

from .fake import NAME, READ_WRITE, ConfigBytes, FakeFunction

Wrap = Callable[[FakeFunction], PciDevice]


# -- what it is ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fact", "value", "reason"),
    [
        ("flags", vfio.VFIO_DEVICE_FLAGS_PLATFORM, "not a PCI device"),
        ("num_regions", 7, "7 regions"),
        ("num_irqs", 2, "2 interrupt indexes"),
    ],
)
def test_what_is_no_pci_function_is_refused(
    function: FakeFunction, wrap: Wrap, fact: str, value: int, reason: str
) -> None:
    setattr(function, fact, value)
    with pytest.raises(UnsupportedError, match=reason) as caught:
        wrap(function)
    assert caught.value.errno == errno.EINVAL


def test_wrapping_changes_nothing(function: FakeFunction, wrap: Wrap) -> None:
    wrap(function)
    assert function.calls == []


def test_an_mdev_with_as_few_indexes_as_allowed_is_accepted(
    function: FakeFunction, wrap: Wrap
) -> None:
    function.num_regions, function.num_irqs = 8, 3
    device = wrap(function)
    assert (device.vga, device.error, device.request) == (None, None, None)


# -- regions ---------------------------------------------------------------------------------------
def test_there_are_six_bars_and_those_without_memory_are_none(
    function: FakeFunction, wrap: Wrap
) -> None:
    function.regions[2] = RegionInfo(2, READ_WRITE, 0x1000, 2 << 40)
    bars = wrap(function).bars
    assert [bar is not None for bar in bars] == [False, False, True, False, False, False]
    assert bars[2] is not None
    assert bars[2].name == f"{NAME} BAR 2"
    assert bars[2].byteorder == "little"


def test_rom_and_vga_are_none_where_the_kernel_shows_none(
    function: FakeFunction, wrap: Wrap
) -> None:
    device = wrap(function)
    assert device.rom is None
    assert device.vga is None


def test_rom_and_vga_are_regions_where_the_kernel_shows_them(
    function: FakeFunction, wrap: Wrap
) -> None:
    rom, vga = vfio.VFIO_PCI_ROM_REGION_INDEX, vfio.VFIO_PCI_VGA_REGION_INDEX
    function.regions[rom] = RegionInfo(rom, vfio.VFIO_REGION_INFO_FLAG_READ, 0x800, rom << 40)
    function.regions[vga] = RegionInfo(vga, READ_WRITE, 0xC0000, vga << 40)
    device = wrap(function)
    assert device.rom is not None
    assert device.vga is not None
    assert (device.rom.name, device.vga.name) == (f"{NAME} ROM", f"{NAME} VGA")


def test_an_error_other_than_absence_is_not_taken_for_absence(
    function: FakeFunction, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = wrap(function)

    def broken(index: int) -> RegionInfo:
        raise DeviceAccessError(errno.EIO, "VFIO_DEVICE_GET_REGION_INFO", NAME)

    monkeypatch.setattr(FakeFunction, "region_info", lambda self, index: broken(index))
    with pytest.raises(DeviceAccessError, match="EIO"):
        _ = device.vga


def test_device_specific_regions_have_their_number_as_name(
    function: FakeFunction, wrap: Wrap
) -> None:
    assert wrap(function).region_name(9) == "region 9"


# -- COMMAND ---------------------------------------------------------------------------------------
def test_bus_master_and_memory_decode_are_bits_of_command(
    function: FakeFunction, wrap: Wrap
) -> None:
    device = wrap(function)
    assert not device.bus_master
    assert not device.memory_decode
    device.bus_master = True
    device.memory_decode = True
    assert device.config_space.command == pci.PCI_COMMAND_MASTER | pci.PCI_COMMAND_MEMORY
    device.bus_master = False
    assert device.config_space.command == pci.PCI_COMMAND_MEMORY


def test_other_bits_of_command_are_kept(function: FakeFunction, wrap: Wrap) -> None:
    function.config.put(pci.PCI_COMMAND, pci.PCI_COMMAND_SERR, 2)
    device = wrap(function)
    device.bus_master = True
    assert device.config_space.command == pci.PCI_COMMAND_SERR | pci.PCI_COMMAND_MASTER


def test_enable_turns_both_on_and_restores_what_was(function: FakeFunction, wrap: Wrap) -> None:
    function.config.put(pci.PCI_COMMAND, pci.PCI_COMMAND_MEMORY, 2)
    device = wrap(function)
    with device.enable() as same:
        assert same is device
        assert device.config_space.command == pci.PCI_COMMAND_MEMORY | pci.PCI_COMMAND_MASTER
    assert device.config_space.command == pci.PCI_COMMAND_MEMORY


def test_enable_restores_after_an_error(function: FakeFunction, wrap: Wrap) -> None:
    device = wrap(function)

    with contextlib.suppress(RuntimeError), device.enable():
        raise RuntimeError
    assert device.config_space.command == 0


def test_enable_leaves_a_device_that_was_closed_inside_alone(
    function: FakeFunction, wrap: Wrap
) -> None:
    device = wrap(function)
    with device.enable():
        device.release()
        function.closed = True


# -- reset -----------------------------------------------------------------------------------------
def test_reset_keeps_command_as_it_is(function: FakeFunction, wrap: Wrap) -> None:
    device = wrap(function)
    device.bus_master = True
    function.calls.clear()
    device.reset()
    assert device.bus_master
    assert function.calls == ["reset"]


def test_reset_brings_command_back_where_the_driver_loses_it(
    function: FakeFunction, wrap: Wrap
) -> None:
    device = wrap(function)
    device.bus_master = True

    def lose_command() -> None:
        function.config.put(pci.PCI_COMMAND, 0, 2)

    function.on_reset = lose_command
    device.reset()
    assert device.bus_master


def test_reset_of_a_function_that_cannot_be_says_where_to_look(
    function: FakeFunction, wrap: Wrap
) -> None:
    def refuse() -> None:
        raise DeviceAccessError(errno.EINVAL, "VFIO_DEVICE_RESET", NAME)

    function.on_reset = refuse
    with pytest.raises(DeviceAccessError, match=r"cannot be reset by itself.*\n.*reset_method"):
        wrap(function).reset()


def test_a_competing_reset_is_reported_as_it_is(function: FakeFunction, wrap: Wrap) -> None:
    def busy() -> None:
        raise DeviceAccessError(errno.EAGAIN, "VFIO_DEVICE_RESET", NAME)

    function.on_reset = busy
    with pytest.raises(DeviceAccessError) as caught:
        wrap(function).reset()
    assert caught.value.errno == errno.EAGAIN


# -- release ---------------------------------------------------------------------------------------
def test_release_stops_dma_before_it_turns_interrupts_off(
    function: FakeFunction, wrap: Wrap
) -> None:
    function.irqs[vfio.VFIO_PCI_MSI_IRQ_INDEX] = IrqInfo(1, vfio.VFIO_IRQ_INFO_EVENTFD, 1)
    device = wrap(function)
    device.bus_master = True
    device.interrupts()
    function.calls.clear()
    device.release()
    assert function.calls == ["config 0x4 = 0x0", "irq 1 off"]


def test_release_again_does_nothing(function: FakeFunction, wrap: Wrap) -> None:
    device = wrap(function)
    device.release()
    function.calls.clear()
    device.release()
    function.closed = True
    device.release()
    assert function.calls == []


def test_configuration_space_is_extended_with_pci_express(
    function: FakeFunction, wrap: Wrap
) -> None:
    function.config = ConfigBytes(4096)
    assert wrap(function).config_space.size == 4096
