"""Each step may fail: then nothing stays open, mapped or pinned, and the first error is raised."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from vfiocore.errors import KernelError
from vfiocore.kvm import KvmLink
from vfiocore.memory.mapping import DmaMapping
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import IommuModel

from .wiring import CARD, OTHER, Wiring, nothing_left, topology

FIRST = [
    ("open /dev/vfio/1", 0),
    ("VFIO_GROUP_GET_STATUS", 0),
    ("open /dev/vfio/vfio", 0),
    ("VFIO_GET_API_VERSION", 0),
    ("VFIO_CHECK_EXTENSION", 0),
    ("VFIO_GROUP_SET_CONTAINER", 0),
    ("VFIO_SET_IOMMU", 0),
    ("VFIO_CHECK_EXTENSION", 1),
    ("VFIO_IOMMU_GET_INFO", 0),
    ("VFIO_IOMMU_GET_INFO", 1),
    ("KVM_SET_DEVICE_ATTR", 0),
    ("VFIO_GROUP_GET_DEVICE_FD", 0),
]
SECOND = [
    ("open /dev/vfio/4", 0),
    ("VFIO_GROUP_GET_STATUS", 0),
    ("VFIO_GROUP_SET_CONTAINER", 0),
    ("VFIO_IOMMU_GET_INFO", 0),
    ("VFIO_IOMMU_GET_INFO", 1),
    ("KVM_SET_DEVICE_ATTR", 0),
    ("VFIO_GROUP_GET_DEVICE_FD", 0),
]
CLOSING = [
    "KVM_SET_DEVICE_ATTR",
    "VFIO_GROUP_UNSET_CONTAINER",
    "close container",
    "close group 1",
]


@pytest.mark.parametrize(("operation", "after"), FIRST)
def test_a_step_of_the_first_device_that_fails_leaves_nothing(
    wiring: Wiring, host: SimHost, operation: str, after: int
) -> None:
    wiring.kvm = KvmLink.create(host)
    host.fail(operation, errno.EIO, after=after)
    with pytest.raises(KernelError) as caught:
        wiring.open(CARD)
    assert caught.value.errno == errno.EIO
    assert caught.value.operation in operation
    wiring.kvm.close()
    nothing_left(host)


@pytest.mark.parametrize(("operation", "after"), SECOND)
def test_a_step_of_a_second_group_that_fails_leaves_the_first_as_it_was(
    wiring: Wiring,
    host: SimHost,
    page_at: Callable[[int], DmaMapping],
    operation: str,
    after: int,
) -> None:
    wiring.kvm = KvmLink.create(host)
    first = wiring.open(CARD)
    first.container.dma_map([page_at(0)])
    files, ranges = host.open_files(), first.container.iova_ranges
    host.fail(operation, errno.EIO, after=after)
    with pytest.raises(KernelError):
        wiring.open(OTHER)
    assert host.open_files() == files
    assert first.container.iova_ranges == ranges
    assert first.container.attachments == [first.attachment]
    host.device(CARD).dma.write(0, b"still there")
    wiring.close_all()
    wiring.kvm.close()
    nothing_left(host)


def test_a_first_device_that_fails_late_is_taken_back_in_exact_reverse(
    wiring: Wiring, host: SimHost
) -> None:
    host.fail("VFIO_IOMMU_GET_INFO", errno.EIO)
    with pytest.raises(KernelError):
        wiring.open(CARD)
    names = host.call_names()
    assert names[names.index("ioctl VFIO_IOMMU_GET_INFO") + 1 :] == [
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close container",
        "close group 1",
    ]


def test_a_join_that_fails_late_reads_the_facts_again_once_the_group_is_out() -> None:
    host = SimHost(topology().iommu(4, IommuModel(aperture=(0, (1 << 32) - 1))))
    wiring = Wiring(host, KvmLink.create(host))
    container = wiring.open(CARD).container
    before = container.iova_ranges
    host.fail("KVM_SET_DEVICE_ATTR", errno.EIO)
    host.forget_calls()
    with pytest.raises(KernelError):
        wiring.open(OTHER)
    names = host.call_names()
    assert names[names.index("ioctl KVM_SET_DEVICE_ATTR") + 1 :] == [
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "ioctl VFIO_IOMMU_GET_INFO",
        "ioctl VFIO_IOMMU_GET_INFO",
        "close group 4",
    ]
    assert container.iova_ranges == before


def test_an_undo_that_fails_too_is_a_note_on_the_first_error(wiring: Wiring, host: SimHost) -> None:
    host.fail("VFIO_IOMMU_GET_INFO", errno.EIO)
    host.fail("close container", errno.EINTR)
    with pytest.raises(KernelError, match="VFIO_IOMMU_GET_INFO") as caught:
        wiring.open(CARD)
    assert any("close" in note for note in caught.value.__notes__)
    nothing_left(host)


@pytest.mark.parametrize("operation", CLOSING)
def test_a_step_of_closing_that_fails_does_not_stop_the_others(
    wiring: Wiring, host: SimHost, operation: str
) -> None:
    wiring.kvm = KvmLink.create(host)
    opened = wiring.open(CARD)
    host.fail(operation, errno.EIO)
    with pytest.raises(KernelError) as caught:
        wiring.close(opened)
    assert caught.value.errno == errno.EIO
    assert opened.container.closed
    assert opened.container.attachments == []
    wiring.kvm.close()
    nothing_left(host)


def test_a_group_whose_facts_cannot_be_read_again_leaves_all_the_same(
    wiring: Wiring, host: SimHost
) -> None:
    first, second = wiring.open(CARD), wiring.open(OTHER)
    host.fail("VFIO_IOMMU_GET_INFO", errno.EIO)
    with pytest.raises(KernelError):
        wiring.close(second)
    assert host.open_files() == ["group 1", "container", f"device {CARD}"]
    assert not first.container.closed
