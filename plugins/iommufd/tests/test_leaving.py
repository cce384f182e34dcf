"""What does not go when it should goes with what holds it."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore.errors import BusyError, DmaError, KernelError

CARD = "0000:02:00.0"
OTHER = "0000:05:00.0"


def test_a_page_table_that_is_busy_goes_with_the_ioas(rig: Any, host: Any) -> None:
    opened = rig.open(CARD)
    host.fail("IOMMU_DESTROY", errno.EBUSY)
    with pytest.raises(BusyError) as caught:
        rig.close(opened)
    assert not hasattr(caught.value, "__notes__")
    names = host.call_names()
    assert names.count("ioctl IOMMU_DESTROY") == 3  # refused, once more, and the IOAS
    assert host.open_files() == []


def test_a_page_table_that_stayed_behind_serves_the_next_device(rig: Any, host: Any) -> None:
    first = rig.open(CARD)
    second = rig.open("0000:07:00.0")  # another IOMMU, so another page table
    (_, theirs) = first.container.hwpts
    host.fail("IOMMU_DESTROY", errno.EBUSY)
    with pytest.raises(BusyError):
        rig.close(second)
    assert theirs in first.container.hwpts
    again = rig.open("0000:07:00.0")
    assert again.attachment.device.hwpt is theirs
    rig.close(again)
    assert theirs not in first.container.hwpts


def test_a_device_that_does_not_detach_leaves_with_its_file(rig: Any, host: Any) -> None:
    opened, other = rig.open(CARD), rig.open(OTHER)
    host.fail("VFIO_DEVICE_DETACH_IOMMUFD_PT", errno.EINVAL)
    with pytest.raises(KernelError) as caught:
        rig.close(opened)
    assert caught.value.operation == "VFIO_DEVICE_DETACH_IOMMUFD_PT"
    assert f"device {CARD}" not in host.open_files()
    rig.close(other)
    assert host.open_files() == []


def test_a_cdev_that_cannot_be_closed_well_is_told(rig: Any, host: Any) -> None:
    host.fail("VFIO_DEVICE_BIND_IOMMUFD", errno.EIO)
    host.fail(f"close device {CARD}", errno.EIO)
    with pytest.raises(KernelError) as caught:
        rig.open(CARD)
    assert caught.value.operation == "VFIO_DEVICE_BIND_IOMMUFD"
    assert any(f"{CARD}: close failed" in note for note in caught.value.__notes__)
    assert host.open_files() == []


def test_memory_that_cannot_be_mapped_again_is_told_beside_the_first_error(
    rig: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = rig.open(CARD).container
    container.dma_map([rig.mapping(iova) for iova in (0x10000, 0x20000)])

    def gone(fd: int, request: int, arg: Any) -> int:
        """The kernel unmaps everything, and says that it did not."""
        monkeypatch.undo()
        host.ioctl(fd, request, arg)
        host.fail("IOMMU_IOAS_MAP", errno.ENOMEM)
        raise OSError(errno.EDEADLK, "")

    monkeypatch.setattr(container.mapper, "_ioctl", gone)
    with pytest.raises(DmaError) as caught:
        container.unmap_all()
    assert caught.value.errno == errno.EDEADLK
    (note,) = caught.value.__notes__
    assert note.startswith("while undoing the batch: ")
    assert "ENOMEM" in note
    container.mappings.remove(container.mappings.overlapping(0x10000, 1))
