from __future__ import annotations

from typing import Any

CARD = "0000:02:00.0"
OTHER = "0000:05:00.0"

OPEN_FIRST = [
    "open /dev/iommu",
    "open /dev/vfio/devices/vfio0",
    "ioctl VFIO_DEVICE_BIND_IOMMUFD",
    "ioctl IOMMU_GET_HW_INFO",
    "ioctl IOMMU_IOAS_ALLOC",
    "ioctl IOMMU_HWPT_ALLOC",
    "ioctl VFIO_DEVICE_ATTACH_IOMMUFD_PT",
    "ioctl IOMMU_IOAS_MAP_FILE",  # too short on purpose: does the kernel know it?
    "ioctl IOMMU_IOAS_IOVA_RANGES",
]
CLOSE_LAST = [
    "ioctl VFIO_DEVICE_DETACH_IOMMUFD_PT",
    "ioctl IOMMU_DESTROY",  # HWPT
    f"close device {CARD}",
    "ioctl IOMMU_DESTROY",  # IOAS
    "close iommufd",
]


def calls(host: Any) -> list[str]:
    names: list[str] = host.call_names()
    host.forget_calls()
    return names


def test_a_device_is_bound_then_attached_and_the_ranges_are_read_last(rig: Any, host: Any) -> None:
    rig.open(CARD)
    assert calls(host) == OPEN_FIRST


def test_closing_is_the_reverse_of_opening(rig: Any, host: Any) -> None:
    rig.open(CARD)
    calls(host)
    rig.close()
    assert calls(host) == CLOSE_LAST
    assert host.open_files() == []


def test_memory_is_unmapped_after_the_device_is_closed_and_before_its_ioas_goes(
    rig: Any, host: Any
) -> None:
    rig.open(CARD).container.dma_map([rig.mapping(0x10000)])
    calls(host)
    rig.close()
    assert calls(host) == [
        "ioctl VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "ioctl IOMMU_DESTROY",
        f"close device {CARD}",
        "ioctl IOMMU_IOAS_UNMAP",
        "ioctl IOMMU_DESTROY",
        "close iommufd",
    ]


def test_a_second_device_joins_ioas_and_page_table(rig: Any, host: Any) -> None:
    rig.open(CARD)
    calls(host)
    rig.open(OTHER)
    assert calls(host) == [
        "open /dev/vfio/devices/vfio1",
        "ioctl VFIO_DEVICE_BIND_IOMMUFD",
        "ioctl IOMMU_GET_HW_INFO",
        "ioctl VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        "ioctl IOMMU_IOAS_IOVA_RANGES",
    ]


def test_a_device_that_leaves_others_behind_takes_only_itself_down(rig: Any, host: Any) -> None:
    rig.open(CARD)
    rig.open(OTHER)
    calls(host)
    rig.close()
    assert calls(host) == [
        "ioctl VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "ioctl IOMMU_IOAS_IOVA_RANGES",
        f"close device {OTHER}",
    ]
    rig.close()
    assert calls(host) == CLOSE_LAST


def test_devices_may_leave_in_any_order(rig: Any, host: Any) -> None:
    first, second = rig.open(CARD), rig.open(OTHER)
    rig.close(first)
    rig.close(second)
    assert host.open_files() == []


def test_kvm_learns_of_the_device_before_it_is_bound_and_forgets_it_before_it_is_closed(
    rig: Any, host: Any
) -> None:
    from vfiocore.kvm import KvmLink

    kvm = KvmLink.create(host)
    calls(host)
    rig.open(CARD, kvm=kvm)
    assert calls(host)[1:4] == [
        "open /dev/vfio/devices/vfio0",
        "ioctl KVM_SET_DEVICE_ATTR",
        "ioctl VFIO_DEVICE_BIND_IOMMUFD",
    ]
    rig.close()
    assert calls(host)[:4] == [
        "ioctl VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "ioctl IOMMU_DESTROY",
        "ioctl KVM_SET_DEVICE_ATTR",
        f"close device {CARD}",
    ]
    kvm.close()


def test_a_device_that_was_never_opened_is_taken_down_with_its_context(rig: Any, host: Any) -> None:
    attachment = rig.hooks.setup_context(rig.request(CARD))
    calls(host)
    rig.hooks.teardown_context(attachment)
    assert calls(host) == CLOSE_LAST
    assert host.open_files() == []


def test_an_open_device_is_the_bound_cdev_and_no_other_file(rig: Any, host: Any) -> None:
    opened = rig.open(CARD)
    assert opened.access.name == CARD
    assert sorted(host.open_files()) == [f"device {CARD}", "iommufd"]


def test_a_closed_device_cannot_be_used(rig: Any) -> None:
    import pytest

    from vfiocore.errors import ClosedError

    access = rig.open(CARD).access
    rig.close()
    with pytest.raises(ClosedError):
        access.info()


def test_a_container_without_devices_is_closed(rig: Any) -> None:
    container = rig.open(CARD).container
    rig.close()
    assert container.closed
    assert container.attachments == []
