"""Regions of a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from vfiocore.device import Device
from vfiocore.errors import ClosedError, DeviceAccessError, KernelError, UnsupportedError
from vfiocore.region import Region
from vfiocore.session import Session
from vfiocore.testing.checks import needs, nothing_left, refused
from vfiocore.testing.topics.device_base import DeviceTopic, Line
from vfiocore.testing.under_test import DeviceUnderTest

if TYPE_CHECKING:
    from vfiocore.testing.under_test import Register

NO_REGISTERS = "DeviceUnderTest.registers is empty"


class Regions(DeviceTopic):
    """Registers are read and written as they are declared; nothing else is reached."""

    def test_a_device_tells_what_it_is(self, live: Device, device: DeviceUnderTest) -> None:
        """Its id, the kernel's name, the container that its DMA goes through."""
        assert live.id == device.id
        assert live.name
        assert not live.container.closed
        assert [item.target for item in live.container.attachments] == [live.target]

    def test_an_index_gives_the_same_region_each_time(self, live: Device) -> None:
        """`Device.region` keeps them: a mapping is a state of the region."""
        for region in _regions(live).values():
            assert live.region(region.index) is region

    def test_there_is_no_region_past_the_last(self, live: Device) -> None:
        """DeviceAccessError."""
        with refused(DeviceAccessError, "asking for a region that the device has not"):
            live.region(live.info.num_regions)

    def test_registers_have_the_values_of_power_on(
        self, live: Device, device: DeviceUnderTest
    ) -> None:
        """Those that are declared."""
        known = [register for register in device.registers if register.initial is not None]
        needs(known, NO_REGISTERS)
        for register in known:
            assert _load(live, register) == register.initial, register

    def test_registers_keep_what_is_written(self, live: Device, device: DeviceUnderTest) -> None:
        """And bytes and words are the same, in the region's byte order."""
        kept = [register for register in device.registers if register.keeps is not None]
        needs(kept, NO_REGISTERS)
        for register in kept:
            assert register.keeps is not None
            _store(live, register, register.keeps)
            region = live.region(register.region)
            assert _load(live, register) == register.keeps, register
            found = region.read(register.offset, register.width)
            assert found == register.keeps.to_bytes(register.width, region.byteorder), register

    def test_nothing_is_reached_outside_of_a_region(
        self, live: Device, device: DeviceUnderTest
    ) -> None:
        """DeviceAccessError, and not somebody else's register."""
        needs(device.registers, NO_REGISTERS)
        for region in {live.region(register.region) for register in device.registers}:
            for offset in (region.size, region.size - 1, -1):
                with refused(DeviceAccessError, f"reading 2 bytes of {region.name} at {offset}"):
                    region.read(offset, 2)

    def test_a_register_is_aligned(self, live: Device, device: DeviceUnderTest) -> None:
        """ValueError: a mistake of the driver's."""
        needs(device.registers, NO_REGISTERS)
        with refused(ValueError, "reading 4 bytes at an odd offset"):
            live.region(device.registers[0].region).read32(1)

    def test_regions_can_be_mapped_as_declared(self, live: Device, device: DeviceUnderTest) -> None:
        """Those that are declared to be; any other is an UnsupportedError."""
        regions = _regions(live)
        needs(regions, "the device has no regions")
        for index, region in regions.items():
            if index not in device.mappable:
                with refused(UnsupportedError, f"mapping {region.name}, declared not mappable"):
                    region.map()
                assert not region.is_mapped
                continue
            region.map()
            assert region.is_mapped
            region.map()  # again is fine
            area = region.areas[0]
            region.view(area.offset, area.size).release()
            region.unmap()
            assert not region.is_mapped

    def test_a_mapped_region_has_the_same_contents(
        self, live: Device, device: DeviceUnderTest
    ) -> None:
        """What was written through the file is read through the mapping, and back."""
        needs(device.memory, "DeviceUnderTest.memory is empty")
        for index in device.memory:
            region = live.region(index)
            area = region.areas[0]
            region.write(area.offset, b"by file!")
            region.map()
            with region.view(area.offset, 8) as view:
                assert bytes(view) == b"by file!"
            region.write(area.offset, b"by view!")
            assert live.access.pread(8, region.info.offset + area.offset) == b"by view!"

    def test_a_register_is_the_same_through_a_mapping(
        self, live: Device, device: DeviceUnderTest
    ) -> None:
        """Those that are declared, of regions that can be mapped."""
        shown = [register for register in device.registers if register.region in device.mappable]
        needs(shown, "no register is declared in a region that can be mapped")
        for register in shown:
            if register.keeps is not None:
                _store(live, register, register.keeps)
            by_file, region = _load(live, register), live.region(register.region)
            region.map()
            assert _load(live, register) == by_file, register
            region.unmap()

    def test_a_view_needs_a_mapping(self, live: Device, device: DeviceUnderTest) -> None:
        """UnsupportedError before `Region.map` and after `Region.unmap`."""
        needs(device.mappable, "DeviceUnderTest.mappable is empty")
        for index in device.mappable:
            region = live.region(index)
            with refused(UnsupportedError, "a view of what is not mapped"):
                region.view(region.areas[0].offset, 4)

    def test_release_unmaps_and_can_be_called_again(
        self, live: Device, device: DeviceUnderTest
    ) -> None:
        """`Device.release` is idempotent; what overrides it calls the base class's."""
        for index in device.mappable:
            live.region(index).map()
        live.release()
        live.release()
        assert not any(live.region(index).is_mapped for index in device.mappable)

    def test_a_closed_device_answers_nothing(
        self, live: Device, session: Session, device: DeviceUnderTest
    ) -> None:
        """ClosedError for its registers, and nothing of it is left."""
        regions = _regions(live)
        session.close_device(device.id)
        for region in regions.values():
            with refused(ClosedError, f"reading {region.name} of a closed device"):
                region.read(0, 1)
        session.close()
        nothing_left(device.leftovers, "the device was closed")

    def test_closing_unmaps_what_is_mapped(
        self, live: Device, session: Session, device: DeviceUnderTest
    ) -> None:
        """A mapping would keep the device open in the kernel."""
        needs(device.mappable, "DeviceUnderTest.mappable is empty")
        for index in device.mappable:
            live.region(index).map()
        session.close()
        nothing_left(device.leftovers, "the device was closed with its regions mapped")


def _regions(live: Device) -> dict[int, Region]:
    """The regions that the device has, by index."""
    found = {}
    for index in range(live.info.num_regions):
        try:
            region = live.region(index)
        except KernelError:
            continue  # the VGA region of most devices
        if region.size:
            found[index] = region
    return found


def _load(live: Device, register: Register) -> int:
    region = live.region(register.region)
    loads: Mapping[int, Callable[[int], int]] = {
        1: region.read8,
        2: region.read16,
        4: region.read32,
        8: region.read64,
    }
    return loads[register.width](register.offset)


def _store(live: Device, register: Register, value: int) -> None:
    region = live.region(register.region)
    stores: Mapping[int, Callable[[int, int], None]] = {
        1: region.write8,
        2: region.write16,
        4: region.write32,
        8: region.write64,
    }
    stores[register.width](register.offset, value)


class Reset(DeviceTopic):
    """A reset is done, or refused."""

    def test_a_reset_sets_registers_back(self, live: Device, device: DeviceUnderTest) -> None:
        """Those that are declared have their initial value again."""
        needs(device.resettable, "declared: resettable=False")
        known = [each for each in device.registers if None not in (each.initial, each.keeps)]
        for register in known:
            assert register.keeps is not None
            _store(live, register, register.keeps)
        live.reset()
        for register in known:
            assert _load(live, register) == register.initial, register

    def test_interrupts_stay_wired(
        self, live: Device, device: DeviceUnderTest, lines: list[Line]
    ) -> None:
        """Whoever waits need not know of a reset."""
        needs(device.resettable, "declared: resettable=False")
        for line in lines:
            vector = line.irq.enable()[0]
            live.reset()
            vector.take()
            line.fire()
            assert vector.wait(timeout=5) >= 1
            line.end()

    def test_a_device_without_a_reset_says_so(self, live: Device, device: DeviceUnderTest) -> None:
        """DeviceAccessError or UnsupportedError, rather than nothing."""
        needs(not device.resettable, "declared: resettable=True")
        with refused(KernelError, "resetting a device that cannot be reset") as no:
            live.reset()
        assert isinstance(no.error, DeviceAccessError | UnsupportedError), (
            f"the contract wants a DeviceAccessError or UnsupportedError, this is {no.error!r}"
        )

    def test_a_closed_device_is_not_reset(
        self, live: Device, session: Session, device: DeviceUnderTest
    ) -> None:
        """ClosedError, or the refusal of one that cannot be reset at all."""
        session.close_device(device.id)
        with pytest.raises((ClosedError, DeviceAccessError, UnsupportedError)):
            live.reset()
