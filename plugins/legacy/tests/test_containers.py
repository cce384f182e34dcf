"""Containers: which IOMMU, which groups together, and what is known of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from vfiocore.container import Capability
from vfiocore.errors import (
    AccessDeniedError,
    BusyError,
    DmaAddressError,
    DmaLimitError,
    DmaMemlockError,
    DmaRangeError,
    HostUnsupportedError,
    KernelError,
)
from vfiocore.memory.mapping import DmaMapping
from vfiocore.memory.ranges import IovaRange
from vfiocore.uapi import vfio
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import IommuModel, MdevType, ReservedRegion, Topology

from .wiring import CARD, OTHER, PAGE, AnsweringHost, Card, Mediated, Wiring, nothing_left, topology

UUID = "2f1b7a9c-0b1e-4c57-9a3f-0d5c6d1e2f30"
HOLE = ReservedRegion(0x10_0000, 0x1F_FFFF, "reserved")
NARROW = IommuModel(aperture=(0, (1 << 32) - 1), reserved=(HOLE,))


def narrow_topology() -> Topology:
    """The other card stands behind an IOMMU of 32 bits with a hole at 1 MiB."""
    return topology().iommu(4, NARROW)


# -- the container and its IOMMU -------------------------------------------------------------------
def test_version_2_of_type1_is_preferred(wiring: Wiring) -> None:
    assert wiring.open(CARD).container.iommu == vfio.VFIO_TYPE1v2_IOMMU


def test_version_1_of_type1_is_taken_where_there_is_no_other() -> None:
    host = AnsweringHost(vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_TYPE1v2_IOMMU, 0)
    wiring = Wiring(host)
    assert wiring.open(CARD).container.iommu == vfio.VFIO_TYPE1_IOMMU
    wiring.close_all()
    nothing_left(host)


def test_a_kernel_without_type1_is_told_apart_by_its_missing_module() -> None:
    host = AnsweringHost(vfio.VFIO_CHECK_EXTENSION, None, 0)
    with pytest.raises(HostUnsupportedError, match="no type1") as caught:
        Wiring(host).open(CARD)
    assert "vfio_iommu_type1" in (caught.value.hint or "")
    nothing_left(host)


def test_another_api_version_is_refused() -> None:
    host = AnsweringHost(vfio.VFIO_GET_API_VERSION, None, 1)
    with pytest.raises(HostUnsupportedError, match="the kernel has version 1"):
        Wiring(host).open(CARD)
    nothing_left(host)


def test_a_kernel_without_containers_points_to_iommufd() -> None:
    host = SimHost(topology(), without={"container"})
    with pytest.raises(HostUnsupportedError) as caught:
        Wiring(host).open(CARD)
    assert "iommufd=" in (caught.value.hint or "")
    nothing_left(host)


def test_interrupts_that_are_not_isolated_are_explained() -> None:
    host = SimHost(topology().iommu(1, IommuModel(msi_isolated=False)))
    with pytest.raises(AccessDeniedError) as caught:
        Wiring(host).open(CARD)
    assert "allow_unsafe_interrupts" in (caught.value.hint or "")
    nothing_left(host)


class OneInterface(SimHost):
    """A kernel without type1: /dev/vfio/vfio is another name of /dev/iommu."""

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        return super().open("/dev/iommu" if path == "/dev/vfio/vfio" else path, flags)


def test_interrupts_that_are_not_isolated_are_explained_where_iommufd_plays_the_container() -> None:
    host = OneInterface(topology().iommu(1, IommuModel(msi_isolated=False)))
    with pytest.raises(AccessDeniedError) as caught:
        Wiring(host).open(CARD)
    assert "iommufd.allow_unsafe_interrupts=1" in (caught.value.hint or "")
    nothing_left(host)


# -- facts -----------------------------------------------------------------------------------------
def test_page_sizes_ranges_and_entries_come_from_the_capability_chain(
    wiring: Wiring, host: SimHost
) -> None:
    container = wiring.open(CARD).container
    assert container.page_size == host.page_size
    assert container.iova_ranges == (
        IovaRange(0, 0xFEDF_FFFF),
        IovaRange(0xFEF0_0000, (1 << 48) - 1),
    )
    assert container.max_mappings == 65535
    assert container.label == "container of group 1"


def test_bars_can_be_mapped_and_dirty_pages_reported(wiring: Wiring) -> None:
    both = Capability.BAR_BY_ADDRESS | Capability.DIRTY_TRACKING
    assert wiring.open(CARD).container.capabilities == both


def test_version_1_reports_no_dirty_pages_and_pins_for_no_driver() -> None:
    host = AnsweringHost(vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_TYPE1v2_IOMMU, 0)
    container = Wiring(host).open(CARD).container
    assert container.capabilities == Capability.BAR_BY_ADDRESS | Capability.NO_DRIVER_PINS


def test_a_container_of_mediated_devices_knows_no_ranges() -> None:
    kind = MdevType("card-1", "vfio-pci", "vfio_mdev", Mediated)
    machine = Topology().pci(CARD, Card, group=1).mdev_parent(CARD, kind)
    wiring = Wiring(SimHost(machine.mdev(UUID, parent=CARD)))
    container = wiring.open(UUID, bus="mdev").container
    assert container.iova_ranges == ()


def test_the_entry_limit_counts_what_is_mapped_already(
    page_at: Callable[[int], DmaMapping],
) -> None:
    wiring = Wiring(SimHost(topology(), dma_entry_limit=3))
    container = wiring.open(CARD).container
    container.dma_map([page_at(0), page_at(PAGE)])
    wiring.open(OTHER)
    assert container.max_mappings == 3
    with pytest.raises(DmaLimitError):
        container.dma_map([page_at(2 * PAGE), page_at(3 * PAGE)])


# -- several groups --------------------------------------------------------------------------------
def test_groups_share_a_container_and_its_mappings(
    wiring: Wiring, host: SimHost, page_at: Callable[[int], DmaMapping]
) -> None:
    first = wiring.open(CARD)
    first.container.dma_map([page_at(0)])
    second = wiring.open(OTHER)
    assert second.container is first.container
    assert first.container.label == "container of groups 1, 4"
    host.device(OTHER).dma.write(16, b"both")
    assert host.device(CARD).dma.read(16, 4) == b"both"
    assert host.pinned_bytes == PAGE


def test_ranges_shrink_when_a_group_joins_and_grow_back_when_it_leaves() -> None:
    wiring = Wiring(SimHost(narrow_topology()))
    container = wiring.open(CARD).container
    before = container.iova_ranges
    second = wiring.open(OTHER)
    assert container.iova_ranges == (
        IovaRange(0, 0xF_FFFF),
        IovaRange(0x20_0000, 0xFEDF_FFFF),
        IovaRange(0xFEF0_0000, 0xFFFF_FFFF),
    )
    wiring.close(second)
    assert container.iova_ranges == before
    assert container.label == "container of group 1"


def test_a_mapping_outside_the_ranges_of_a_group_that_joined_is_refused_before_the_ioctl(
    vaddr: int,
) -> None:
    host = SimHost(narrow_topology())
    wiring = Wiring(host)
    container = wiring.open(CARD).container
    wiring.open(OTHER)
    host.forget_calls()
    with pytest.raises(DmaRangeError):
        container.dma_map([DmaMapping(HOLE.first, PAGE, vaddr)])
    assert host.call_names() == []


def test_a_group_that_cannot_translate_what_is_mapped_gets_a_container_of_its_own(
    vaddr: int,
) -> None:
    host = SimHost(narrow_topology())
    wiring = Wiring(host)
    first = wiring.open(CARD)
    first.container.dma_map([DmaMapping(HOLE.first, PAGE, vaddr)])
    second = wiring.open(OTHER)
    assert second.container is not first.container
    assert first.container.iova_ranges[0] == IovaRange(0, 0xFEDF_FFFF)
    wiring.close_all()
    nothing_left(host)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM])
def test_only_incompatibility_leads_to_another_container(
    wiring: Wiring, host: SimHost, number: int
) -> None:
    first = wiring.open(CARD)
    host.fail("VFIO_GROUP_SET_CONTAINER", number)
    assert wiring.open(OTHER).container is not first.container


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOMEM, DmaMemlockError),
        (errno.EFAULT, DmaAddressError),
        (errno.EBUSY, BusyError),
        (errno.EIO, KernelError),
    ],
)
def test_any_other_refusal_to_join_is_an_error_and_not_a_second_container(
    wiring: Wiring, host: SimHost, number: int, kind: type[KernelError]
) -> None:
    first = wiring.open(CARD)
    host.fail("VFIO_GROUP_SET_CONTAINER", number)
    with pytest.raises(kind, match="while joining the container of group 1"):
        wiring.open(OTHER)
    assert host.open_files() == ["group 1", "container", f"device {CARD}"]
    assert list(first.container.groups) == [1]


def test_a_join_that_fails_late_leaves_the_ranges_as_they_were() -> None:
    host = SimHost(narrow_topology())
    wiring = Wiring(host)
    container = wiring.open(CARD).container
    before = container.iova_ranges
    host.fail("VFIO_GROUP_GET_DEVICE_FD", errno.EIO)
    with pytest.raises(KernelError):
        wiring.open(OTHER)
    assert container.iova_ranges == before
    assert list(container.groups) == [1]
