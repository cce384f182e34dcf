from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore.errors import KernelError

CARD = "0000:02:00.0"
OTHER = "0000:05:00.0"

STEPS = [
    "open /dev/iommu",
    "open /dev/vfio/devices/vfio0",
    "VFIO_DEVICE_BIND_IOMMUFD",
    "IOMMU_GET_HW_INFO",
    "IOMMU_IOAS_ALLOC",
    "IOMMU_HWPT_ALLOC",
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
    "IOMMU_IOAS_IOVA_RANGES",
    "IOMMU_IOAS_MAP",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_first_device_that_fails_at_any_step_leaves_nothing(
    rig: Any, host: Any, step: str
) -> None:
    rig.memory.append(rig.mapping(0x10000))
    host.fail(step, errno.EIO)
    with pytest.raises(KernelError) as info:
        rig.open(CARD)
    assert info.value.errno == errno.EIO
    assert not hasattr(info.value, "__notes__")
    assert host.open_files() == []
    assert host.pinned_bytes == 0
    assert rig.iommufd().containers == []


@pytest.mark.parametrize("step", STEPS)
def test_after_a_failed_step_the_same_device_can_be_opened(rig: Any, host: Any, step: str) -> None:
    rig.memory.append(rig.mapping(0x10000))
    host.fail(step, errno.EIO)
    with pytest.raises(KernelError):
        rig.open(CARD)
    rig.open(CARD)
    host.device(CARD).dma.write(0x10000, b"works")


@pytest.mark.parametrize(
    "step",
    [
        "open /dev/vfio/devices/vfio1",
        "VFIO_DEVICE_BIND_IOMMUFD",
        "IOMMU_GET_HW_INFO",
        "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        "IOMMU_IOAS_IOVA_RANGES",
    ],
)
def test_a_second_device_that_fails_at_any_step_leaves_the_first_as_it_was(
    rig: Any, host: Any, step: str
) -> None:
    first = rig.open(CARD)
    mapping = rig.mapping(0x10000)
    first.container.dma_map([mapping])
    ranges, files = first.container.iova_ranges, host.open_files()
    host.fail(step, errno.EIO)
    with pytest.raises(KernelError):
        rig.open(OTHER)
    assert host.open_files() == files
    assert first.container.attachments == [first.attachment]
    assert first.container.attached == [first.attachment.device]
    assert first.container.hwpts[0].users == 1
    assert first.container.iova_ranges == ranges
    host.device(CARD).dma.write(0x10000, b"works")


@pytest.mark.parametrize(
    "step",
    [
        "VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "IOMMU_DESTROY",
        f"close device {CARD}",
        "close iommufd",
    ],
)
def test_closing_tries_every_step_and_raises_the_first_error(
    rig: Any, host: Any, step: str
) -> None:
    rig.open(CARD)
    host.fail(step, errno.EIO)
    with pytest.raises(KernelError) as info:
        rig.close()
    assert info.value.errno == errno.EIO
    assert host.open_files() == []
    assert rig.iommufd().containers == []


def test_a_page_table_whose_undoing_fails_too_is_told_beside_the_first_error(
    rig: Any, host: Any
) -> None:
    host.fail("VFIO_DEVICE_ATTACH_IOMMUFD_PT", errno.EIO)
    host.fail("IOMMU_DESTROY", errno.EBUSY)
    with pytest.raises(KernelError) as info:
        rig.open(CARD)
    assert info.value.operation == "VFIO_DEVICE_ATTACH_IOMMUFD_PT"
    assert any("IOMMU_DESTROY" in note for note in info.value.__notes__)
    assert host.open_files() == []
