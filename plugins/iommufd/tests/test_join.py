from __future__ import annotations

import errno
import mmap
from typing import Any

import pytest

from vfiocore.container import Capability
from vfiocore.errors import BusyError, DmaMemlockError, KernelError

PAGE = mmap.PAGESIZE
CARD = "0000:02:00.0"
OTHER = "0000:05:00.0"
TWINS = ("0000:06:00.0", "0000:06:00.1")
NO_DIRTY = "0000:07:00.0"
RESERVING = "0000:08:00.0"
MDEV = "7e270a25-e163-4922-af60-757fc8ed48c6"
ATTACH = "VFIO_DEVICE_ATTACH_IOMMUFD_PT"
RESERVED_IOVA = 0x100000


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr("vfiocore_iommufd.container.time.sleep", pauses.append)
    return pauses


# -- sharing ---------------------------------------------------------------------------------------
def test_devices_of_one_iommu_share_ioas_and_page_table(rig: Any) -> None:
    first, second = rig.open(CARD), rig.open(OTHER)
    assert first.container is second.container
    assert first.attachment.device.hwpt is second.attachment.device.hwpt
    assert first.container.attachments == [first.attachment, second.attachment]


def test_devices_of_one_group_share_ioas_and_page_table(rig: Any) -> None:
    first, second = (rig.open(name) for name in TWINS)
    assert first.attachment.device.hwpt is second.attachment.device.hwpt


def test_memory_is_pinned_once_for_all_devices_of_an_ioas(rig: Any, host: Any) -> None:
    mapping = rig.mapping(0x10000, pages=4)
    rig.open(CARD).container.dma_map([mapping])
    rig.open(OTHER)
    assert host.pinned_bytes == mapping.size


def test_every_device_of_an_ioas_reaches_its_memory(rig: Any, host: Any) -> None:
    mapping = rig.mapping(0x10000)
    rig.open(CARD).container.dma_map([mapping])
    rig.open(OTHER)
    host.device(CARD).dma.write(0x10000, b"from one")
    assert host.device(OTHER).dma.read(0x10000, 8) == b"from one"


def test_a_device_behind_another_iommu_gets_its_own_page_table_on_the_same_ioas(
    rig: Any, host: Any
) -> None:
    first, second = rig.open(CARD), rig.open(NO_DIRTY)
    assert first.container is second.container
    assert first.attachment.device.hwpt is not second.attachment.device.hwpt
    rig.close(second)
    assert len(first.container.hwpts) == 1


def test_a_device_whose_reserved_addresses_are_mapped_gets_an_ioas_of_its_own(rig: Any) -> None:
    first = rig.open(CARD)
    first.container.dma_map([rig.mapping(RESERVED_IOVA)])
    second = rig.open(RESERVING)
    assert second.container is not first.container
    assert len(first.container.hwpts) == 1
    assert first.container.attachments == [first.attachment]


def test_a_device_joins_the_first_container_that_takes_it(rig: Any) -> None:
    rig.open(CARD).container.dma_map([rig.mapping(RESERVED_IOVA)])
    second = rig.open(RESERVING)
    third = rig.open("0000:05:00.0")
    assert third.container is rig.opened[0].container
    assert second.container.iommufd.containers == [third.container, second.container]


def test_a_failure_that_is_no_incompatibility_is_not_hidden_by_a_new_ioas(
    rig: Any, host: Any
) -> None:
    first = rig.open(CARD)
    host.fail(ATTACH, errno.ENOMEM)
    with pytest.raises(DmaMemlockError):
        rig.open(OTHER)
    assert first.container.attachments == [first.attachment]
    assert first.container.hwpts[0].users == 1


def test_memory_beyond_the_lock_limit_is_told_when_a_device_joins(make_rig: Any) -> None:
    rig = make_rig(memlock_limit=2 * PAGE)
    first = rig.open(MDEV, bus="mdev")
    first.container.dma_map([rig.mapping(0x10000, pages=16)])
    with pytest.raises(DmaMemlockError, match=f"RLIMIT_MEMLOCK is {2 * PAGE} bytes"):
        rig.open(CARD)
    assert first.container.hwpts == []


# -- page tables -----------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOTTY])
def test_without_page_tables_on_request_the_kernel_chooses_one(
    rig: Any, host: Any, number: int
) -> None:
    host.fail("IOMMU_HWPT_ALLOC", number)
    opened = rig.open(CARD)
    assert opened.attachment.device.hwpt is None
    opened.container.dma_map([rig.mapping(0x10000)])
    host.device(CARD).dma.write(0x10000, b"moves")
    rig.close()
    assert host.open_files() == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOTTY])
def test_a_kernel_that_cannot_tell_of_the_iommu_is_no_failure(
    rig: Any, host: Any, number: int
) -> None:
    host.fail("IOMMU_GET_HW_INFO", number)
    opened = rig.open(CARD)
    assert opened.attachment.device.hw.type is None
    assert opened.attachment.device.hwpt is not None


def test_a_page_table_that_cannot_be_attached_is_destroyed(rig: Any, host: Any) -> None:
    host.fail(ATTACH, errno.EINVAL)
    with pytest.raises(KernelError, match="all devices of an IOMMU group share one page table"):
        rig.open(CARD)
    assert host.call_names().count("ioctl IOMMU_DESTROY") == 2
    assert host.open_files() == []


# -- dirty tracking --------------------------------------------------------------------------------
def test_dirty_tracking_is_there_if_the_iommu_has_it(rig: Any) -> None:
    assert Capability.DIRTY_TRACKING in rig.open(CARD).container.capabilities


def test_one_page_table_without_dirty_tracking_takes_it_from_the_container(rig: Any) -> None:
    container = rig.open(CARD).container
    other = rig.open(NO_DIRTY)
    assert other.container is container
    assert Capability.DIRTY_TRACKING not in container.capabilities
    rig.close(other)
    assert Capability.DIRTY_TRACKING in container.capabilities


def test_an_emulated_device_takes_dirty_tracking_from_the_container(rig: Any) -> None:
    container = rig.open(CARD).container
    assert rig.open(MDEV, bus="mdev").container is container
    assert Capability.DIRTY_TRACKING not in container.capabilities


def test_a_bar_cannot_be_mapped_by_address(rig: Any) -> None:
    assert Capability.BAR_BY_ADDRESS not in rig.open(CARD).container.capabilities


# -- emulated devices ------------------------------------------------------------------------------
def test_an_mdev_attaches_to_the_ioas_without_being_asked_for_an_iommu(rig: Any, host: Any) -> None:
    rig.open(MDEV, bus="mdev")
    names = host.call_names()
    assert "ioctl IOMMU_GET_HW_INFO" not in names
    assert "ioctl IOMMU_HWPT_ALLOC" not in names
    assert f"ioctl {ATTACH}" in names


def test_an_mdev_joins_the_ioas_of_real_devices(rig: Any) -> None:
    assert rig.open(CARD).container is rig.open(MDEV, bus="mdev").container


def test_a_passed_fd_of_an_mdev_is_found_out_without_sysfs(rig: Any, host: Any) -> None:
    cdev = next(
        name
        for name in host.listdir(f"/sys/bus/mdev/devices/{MDEV}/vfio-dev")
        if name.startswith("vfio")
    )
    fd = host.open(f"/dev/vfio/devices/{cdev}")
    opened = rig.open(MDEV, fd=fd, sysfs=False)
    assert opened.attachment.device.hw is None
    assert opened.attachment.device.hwpt is None
    rig.close()
    host.close(fd)
    assert host.open_files() == []


def test_an_emulated_device_that_cannot_be_told_from_a_real_one_attaches_to_the_ioas(
    rig: Any, host: Any
) -> None:
    host.fail("IOMMU_GET_HW_INFO", errno.EOPNOTSUPP)
    cdev = host.listdir(f"/sys/bus/mdev/devices/{MDEV}/vfio-dev")[0]
    fd = host.open(f"/dev/vfio/devices/{cdev}")
    assert rig.open(MDEV, fd=fd, sysfs=False).attachment.device.hwpt is None
    rig.close()
    host.close(fd)


# -- resets ----------------------------------------------------------------------------------------
def test_attaching_waits_for_a_reset_in_the_group(
    rig: Any, host: Any, no_pause: list[float]
) -> None:
    host.fail(ATTACH, errno.EBUSY, times=3)
    rig.open(CARD)
    assert len(no_pause) == 3


def test_attaching_does_not_wait_for_ever(rig: Any, host: Any, no_pause: list[float]) -> None:
    host.fail(ATTACH, errno.EBUSY, times=1000)
    with pytest.raises(BusyError):
        rig.open(CARD)
    assert sum(no_pause) == pytest.approx(2.0)
    assert host.open_files() == []
