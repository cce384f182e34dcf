"""Every frontend passes on real kernels the suite that authors of others are given."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from tests.vm.guest.devices import Device
from tests.vm.guest.way import Way
from vfiocore.log import VfioWarning
from vfiocore.testing import DeviceSuite, DeviceUnderTest

from . import frontends
from .faults import Fault, expect

# mtty.c:mtty_trigger_interrupt looks at the mask once, and nothing looks at the port when it goes.
NO_LINE = "mtty's INTx has no level: what comes while it is masked is forgotten"
OF_MTTY = {
    "test_a_masked_interrupt_waits_until_it_is_unmasked": Fault(NO_LINE, run=False),
    "test_a_line_signals_until_the_device_is_told": Fault(NO_LINE, run=False),
}

# mdpy.c:mdev_access copies to the beginning of the memory, whatever the position.
OF_MDPY = {
    "test_a_mapped_region_has_the_same_contents": Fault(
        "mdpy ignores offsets, and the kernel hands it 4 bytes at a time"
    )
}


@pytest.mark.usefixtures("root_ports")
class TestEdu(DeviceSuite):
    @pytest.fixture
    def device(self, edu: Device, way: Way) -> DeviceUnderTest:
        return frontends.edu(way, edu)


class TestIvshmem(DeviceSuite):
    @pytest.fixture
    def device(self, ivshmem: Device, way: Way) -> DeviceUnderTest:
        return frontends.ivshmem(way, ivshmem)


class TestNvme(DeviceSuite):
    @pytest.fixture
    def device(self, nvme: Device, way: Way) -> DeviceUnderTest:
        return frontends.nvme(way, nvme)


class TestZpci(DeviceSuite):
    @pytest.fixture
    def device(self, zpci: Device, way: Way) -> DeviceUnderTest:
        return frontends.zpci(way, zpci)


class TestMtty(DeviceSuite):
    @pytest.fixture
    def device(self, mtty: Device, way: Way, request: pytest.FixtureRequest) -> DeviceUnderTest:
        expect(OF_MTTY, request, way)
        return frontends.mtty(way, mtty)


class TestMdpy(DeviceSuite):
    @pytest.fixture
    def device(self, mdpy: Device, way: Way, request: pytest.FixtureRequest) -> DeviceUnderTest:
        expect(OF_MDPY, request, way)
        return frontends.mdpy(way, mdpy)


class TestPlatform(DeviceSuite):
    @pytest.fixture
    def device(self, platform: Device, way: Way) -> DeviceUnderTest:
        return frontends.platform(way, platform)


class TestPlatformWithoutIommu(DeviceSuite):
    @pytest.fixture(autouse=True)
    def told_already(self) -> Iterator[None]:
        """That there is no protection is told at each opening."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VfioWarning)
            yield

    @pytest.fixture
    def device(self, platform_noiommu: Device, noiommu: Way) -> DeviceUnderTest:
        return frontends.platform(noiommu, platform_noiommu)


class TestCcw(DeviceSuite):
    @pytest.fixture
    def device(self, ccw: Device, way: Way) -> DeviceUnderTest:
        return frontends.ccw(way, ccw)
