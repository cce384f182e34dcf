from __future__ import annotations

import errno
import mmap
from typing import Any

import pytest

from vfiocore.errors import DmaAlignmentError, DmaRangeError, MalformedReplyError
from vfiocore.memory.ranges import IovaRange
from vfiocore_iommufd import ranges
from vfiocore_sim.device import SimDevice
from vfiocore_sim.topology import IommuModel, ReservedRegion, Topology

PAGE = mmap.PAGESIZE
CARD = "0000:02:00.0"
RESERVING = "0000:08:00.0"
MDEV = "7e270a25-e163-4922-af60-757fc8ed48c6"
LAST = (1 << 48) - 1
USUAL = (IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, LAST))


def test_ranges_are_those_of_the_attached_devices(rig: Any) -> None:
    assert rig.open(CARD).container.iova_ranges == USUAL


def test_ranges_shrink_when_a_device_joins_and_grow_when_it_leaves(rig: Any) -> None:
    container = rig.open(CARD).container
    rig.open(RESERVING)
    assert container.iova_ranges == (
        IovaRange(0, 0xFFFFF),
        IovaRange(0x200000, 0xFEDFFFFF),
        IovaRange(0xFEF00000, LAST),
    )
    rig.close()
    assert container.iova_ranges == USUAL


def test_emulated_devices_alone_have_no_limit(rig: Any) -> None:
    assert rig.open(MDEV, bus="mdev").container.iova_ranges == ()


def test_more_ranges_than_expected_are_read_with_a_second_call(make_rig: Any) -> None:
    holes = tuple(ReservedRegion(n << 24, (n << 24) + 0xFFFF) for n in range(1, 21))
    topology = Topology().pci(CARD, SimDevice, group=1).iommu(1, IommuModel(reserved=holes))
    rig = make_rig(topology)
    container = rig.open(CARD).container
    assert len(container.iova_ranges) == len(holes) + 1
    calls = [c for c in rig.host.calls if c.operation == "IOMMU_IOAS_IOVA_RANGES"]
    assert [call.errno for call in calls] == [errno.EMSGSIZE, None]


def test_a_kernel_that_wants_more_and_more_room_is_not_followed(rig: Any, host: Any) -> None:
    host.fail("IOMMU_IOAS_IOVA_RANGES", errno.EMSGSIZE, times=ranges.ROOM_LIMIT)
    with pytest.raises(MalformedReplyError, match="wants room for"):
        rig.open(CARD)
    assert host.open_files() == []


def test_the_granularity_is_at_least_a_page_of_the_host(make_rig: Any) -> None:
    rig = make_rig(page_size=4 * PAGE)
    container = rig.open(MDEV, bus="mdev").container
    assert container.page_size == rig.host.page_size == 4 * PAGE


def test_the_granularity_is_that_of_an_iommu_with_larger_pages(make_rig: Any) -> None:
    topology = Topology().pci(CARD, SimDevice, group=1).iommu(1, IommuModel(page_sizes=16 * PAGE))
    container = make_rig(topology).open(CARD).container
    assert container.page_size == 16 * PAGE


def test_addresses_are_checked_before_the_kernel_is_asked(rig: Any, host: Any) -> None:
    container = rig.open(CARD).container
    host.forget_calls()
    with pytest.raises(DmaRangeError):
        container.dma_map([rig.mapping(0xFEE00000)])
    with pytest.raises(DmaAlignmentError):
        container.dma_map([rig.mapping(0x10800)])
    assert host.calls == []


def test_pages_smaller_than_the_host_s_are_not_offered(make_rig: Any) -> None:
    topology = Topology().pci(CARD, SimDevice, group=1).iommu(1, IommuModel(page_sizes=PAGE))
    rig = make_rig(topology, page_size=4 * PAGE)
    assert rig.open(CARD).container.page_size == 4 * PAGE
