"""The order of every open and close, from the simulated host's record (reference: QEMU's own)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vfiocore.kvm import KvmLink
from vfiocore.memory.mapping import DmaMapping
from vfiocore_sim.host import SimHost

from .wiring import CARD, OTHER, PAGE, TWIN, TWIN_SIBLING, Wiring, nothing_left

OPEN_CONTAINER = [
    "open /dev/vfio/vfio",
    "ioctl VFIO_GET_API_VERSION",
    "ioctl VFIO_CHECK_EXTENSION",  # type1v2
    "ioctl VFIO_GROUP_SET_CONTAINER",
    "ioctl VFIO_SET_IOMMU",
    "ioctl VFIO_CHECK_EXTENSION",  # unmap-all
]
READ_FACTS = ["ioctl VFIO_IOMMU_GET_INFO", "ioctl VFIO_IOMMU_GET_INFO"]  # size, then capabilities


def open_group(number: int) -> list[str]:
    return [f"open /dev/vfio/{number}", "ioctl VFIO_GROUP_GET_STATUS"]


@pytest.fixture
def calls(host: SimHost) -> Callable[[], list[str]]:
    """What was called since the last look."""

    def taken() -> list[str]:
        names = host.call_names()
        host.forget_calls()
        return names

    return taken


def test_one_device_opens_group_container_iommu_then_device(
    wiring: Wiring, calls: Callable[[], list[str]]
) -> None:
    wiring.open(CARD)
    assert calls() == [
        *open_group(1),
        *OPEN_CONTAINER,
        *READ_FACTS,
        "ioctl VFIO_GROUP_GET_DEVICE_FD",
    ]


def test_one_device_closes_in_exact_reverse(
    wiring: Wiring, calls: Callable[[], list[str]], page_at: Callable[[int], DmaMapping]
) -> None:
    opened = wiring.open(CARD)
    opened.container.dma_map([page_at(0)])
    calls()
    wiring.close(opened)
    assert calls() == [
        f"close device {CARD}",
        "ioctl VFIO_IOMMU_UNMAP_DMA",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close container",
        "close group 1",
    ]


def test_the_second_device_of_a_group_costs_one_ioctl(
    wiring: Wiring, calls: Callable[[], list[str]]
) -> None:
    wiring.open(TWIN)
    calls()
    wiring.open(TWIN_SIBLING)
    assert calls() == ["ioctl VFIO_GROUP_GET_DEVICE_FD"]


def test_a_group_stays_until_its_last_device_is_closed(
    wiring: Wiring, calls: Callable[[], list[str]]
) -> None:
    first, second = wiring.open(TWIN), wiring.open(TWIN_SIBLING)
    calls()
    wiring.close(second)
    assert calls() == [f"close device {TWIN_SIBLING}"]
    wiring.close(first)
    assert calls() == [
        f"close device {TWIN}",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close container",
        "close group 5",
    ]


def test_a_second_group_joins_the_container_without_setting_the_iommu_again(
    wiring: Wiring, calls: Callable[[], list[str]]
) -> None:
    wiring.open(CARD)
    calls()
    wiring.open(OTHER)
    assert calls() == [
        *open_group(4),
        "ioctl VFIO_GROUP_SET_CONTAINER",
        *READ_FACTS,
        "ioctl VFIO_GROUP_GET_DEVICE_FD",
    ]


def test_a_group_that_leaves_keeps_the_container_and_its_facts_are_read_again(
    wiring: Wiring, calls: Callable[[], list[str]]
) -> None:
    wiring.open(CARD)
    second = wiring.open(OTHER)
    calls()
    wiring.close(second)
    assert calls() == [
        f"close device {OTHER}",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        *READ_FACTS,
        "close group 4",
    ]


def test_kvm_knows_the_group_before_a_device_is_opened(
    host: SimHost, wiring: Wiring, calls: Callable[[], list[str]]
) -> None:
    wiring.kvm = KvmLink.create(host)
    calls()
    wiring.open(TWIN)
    wiring.open(TWIN_SIBLING)
    assert calls() == [
        *open_group(5),
        *OPEN_CONTAINER,
        *READ_FACTS,
        "ioctl KVM_SET_DEVICE_ATTR",
        "ioctl VFIO_GROUP_GET_DEVICE_FD",
        "ioctl VFIO_GROUP_GET_DEVICE_FD",
    ]


def test_kvm_forgets_the_group_before_it_leaves_the_container(
    host: SimHost, wiring: Wiring, calls: Callable[[], list[str]]
) -> None:
    wiring.kvm = KvmLink.create(host)
    opened = wiring.open(CARD)
    calls()
    wiring.close(opened)
    assert calls() == [
        f"close device {CARD}",
        "ioctl KVM_SET_DEVICE_ATTR",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close container",
        "close group 1",
    ]
    wiring.kvm.close()
    nothing_left(host)


def test_several_devices_close_in_reverse_and_leave_nothing(
    host: SimHost,
    wiring: Wiring,
    calls: Callable[[], list[str]],
    vaddr: int,
) -> None:
    for name in (CARD, TWIN, TWIN_SIBLING, OTHER):
        wiring.open(name)
    wiring.containers[0].dma_map([DmaMapping(0, 4 * PAGE, vaddr)])
    calls()
    wiring.close_all()
    closes = [name for name in calls() if name.startswith("close") or "UNSET" in name]
    assert closes == [
        f"close device {OTHER}",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close group 4",
        f"close device {TWIN_SIBLING}",
        f"close device {TWIN}",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close group 5",
        f"close device {CARD}",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close container",
        "close group 1",
    ]
    nothing_left(host)
