"""Every backend passes on real kernels the suite that authors of others are given."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

from tests.vm.guest.devices import Device
from tests.vm.guest.way import Way
from vfiocore.log import VfioWarning
from vfiocore.testing import BackendSuite, BackendUnderTest

from .faults import Fault, expect
from .linux import Disks, NetworkCards, NoIommu, facts

ON_S390 = os.uname().machine == "s390x"
"""There a function that an IOMMU has stopped is in error, and does nothing any more."""

OF_CCW = {
    # Memory is looked at and pinned when a program uses it, always for reading and writing
    # (vfio_ccw_cp.c:page_array_pin).
    "checks_memory": False,
    "reads_what_is_read_only": False,
}

OF_ZPCI = {
    "test_the_ends_of_every_range_can_be_mapped": Fault(
        "the kernel's iommufd takes more addresses for usable than the function has",
        frozenset({"compat", "iommufd"}),
    ),
    "test_a_device_that_comes_late_finds_what_is_mapped": Fault(
        "QEMU's IOMMU of s390 knows of a function what was mapped after the function came"
    ),
}

# vfio_iommu_type1.c:vfio_iommu_type1_pin_pages; vfio_main.c:vfio_pin_pages aligns for iommufd.
NEIGHBOUR = "type1 looks for data that does not begin with a page in the mapping after its own, too"
OF_PINNING = {
    "test_a_batch_maps_each_item_where_it_belongs": Fault(NEIGHBOUR, frozenset({"type1v2"})),
    "test_everything_can_be_unmapped_at_once": Fault(NEIGHBOUR, frozenset({"type1v2"})),
    "test_threads_map_and_unmap_side_by_side": Fault(
        f"{NEIGHBOUR}; with others unmapping meanwhile it was seen to hang in the kernel",
        frozenset({"type1v2"}),
        run=False,
    ),
}


class TestPci(BackendSuite):
    @pytest.fixture
    def backend(
        self, virtio_disks: tuple[Device, Device], way: Way, request: pytest.FixtureRequest
    ) -> BackendUnderTest:
        expect(OF_ZPCI if ON_S390 else {}, request, way)
        return Disks(**facts(way, virtio_disks, survives_faults=not ON_S390))


class TestCcw(BackendSuite):
    @pytest.fixture
    def backend(
        self, ccw_nics: tuple[Device, Device], way: Way, request: pytest.FixtureRequest
    ) -> BackendUnderTest:
        expect(OF_PINNING, request, way)
        return NetworkCards(**facts(way, ccw_nics, **OF_CCW))


class WithoutIommu(BackendSuite):
    @pytest.fixture(autouse=True)
    def told_already(self) -> Iterator[None]:
        """That there is no protection is told at each opening."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VfioWarning)
            yield


class TestPciWithoutIommu(WithoutIommu):
    @pytest.fixture
    def backend(self, edu_noiommu: Device, noiommu: Way) -> BackendUnderTest:
        return NoIommu(**facts(noiommu, [edu_noiommu]))


class TestPlatformWithoutIommu(WithoutIommu):
    @pytest.fixture
    def backend(self, platform_noiommu: Device, noiommu: Way) -> BackendUnderTest:
        return NoIommu(**facts(noiommu, [platform_noiommu]))
