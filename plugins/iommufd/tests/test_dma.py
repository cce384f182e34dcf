from __future__ import annotations

import errno
import mmap
from typing import Any

import pytest
from attrs import evolve

from vfiocore.container import Capability
from vfiocore.errors import (
    DmaAddressError,
    DmaAlignmentError,
    DmaError,
    DmaLimitError,
    DmaMemlockError,
    DmaNotMappedError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
)
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.uapi import iommufd as uapi
from vfiocore_sim.device import DmaFault

PAGE = mmap.PAGESIZE
CARD = "0000:02:00.0"
RESERVING = "0000:08:00.0"
RESERVED_IOVA = 0x100000
LARGE = 300
"""More than the structs that are filled at a time."""
MAP, UNMAP = "IOMMU_IOAS_MAP", "IOMMU_IOAS_UNMAP"


@pytest.fixture
def container(rig: Any) -> Any:
    return rig.open(CARD).container


def ioctls(host: Any) -> list[str]:
    return [call.operation for call in host.calls if call.operation.startswith("IOMMU_IOAS")]


# -- mapping ---------------------------------------------------------------------------------------
def test_a_device_reads_and_writes_what_is_mapped(rig: Any, host: Any, container: Any) -> None:
    container.dma_map([rig.mapping(0x10000)])
    host.device(CARD).dma.write(0x10000, b"bytes")
    assert host.device(CARD).dma.read(0x10000, 5) == b"bytes"


def test_a_device_cannot_write_what_is_mapped_for_reading(
    rig: Any, host: Any, container: Any
) -> None:
    container.dma_map([rig.mapping(0x10000, access=Access.READ)])
    assert host.device(CARD).dma.read(0x10000, 4) == bytes(4)
    with pytest.raises(DmaFault):
        host.device(CARD).dma.write(0x10000, b"x")


def test_a_device_cannot_read_what_is_mapped_for_writing(
    rig: Any, host: Any, container: Any
) -> None:
    container.dma_map([rig.mapping(0x10000, access=Access.WRITE)])
    host.device(CARD).dma.write(0x10000, b"x")
    with pytest.raises(DmaFault):
        host.device(CARD).dma.read(0x10000, 1)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EEXIST, DmaOverlapError),
        (errno.EINVAL, DmaRangeError),
        (errno.EOVERFLOW, DmaRangeError),
        (errno.ENOSPC, DmaLimitError),
        (errno.ENOMEM, DmaMemlockError),
        (errno.EFAULT, DmaAddressError),
        (errno.EIO, DmaError),
    ],
)
def test_a_refused_map_is_the_exception_that_its_errno_means(
    rig: Any, host: Any, container: Any, number: int, kind: type[DmaError]
) -> None:
    host.fail(MAP, number)
    with pytest.raises(DmaError, match=f"iova 0x10000 size {PAGE:#x} vaddr 0x") as info:
        container.dma_map([rig.mapping(0x10000)])
    assert type(info.value) is kind
    assert info.value.errno == number
    assert info.value.operation == MAP


def test_no_access_at_all_is_told_as_the_reason(rig: Any, container: Any) -> None:
    with pytest.raises(DmaError, match="neither read nor write") as info:
        container.dma_map([rig.mapping(0x10000, access=Access(0))])
    assert type(info.value) is DmaError
    assert info.value.errno == errno.EINVAL


def test_a_failed_batch_leaves_nothing_and_tells_which_item(
    rig: Any, host: Any, container: Any
) -> None:
    host.fail(MAP, errno.EFAULT, after=2)
    with pytest.raises(DmaAddressError) as info:
        container.dma_map([rig.mapping(0x10000 * n) for n in range(1, 5)])
    assert info.value.index == 2
    assert len(container.mappings) == 0
    assert host.pinned_bytes == 0


def test_every_item_of_a_large_batch_is_mapped_with_its_own_access(
    rig: Any, host: Any, container: Any
) -> None:
    batch = [rig.mapping(PAGE * number) for number in range(LARGE)]
    batch[LARGE - 2] = evolve(batch[LARGE - 2], access=Access.READ)
    container.dma_map(batch)
    assert ioctls(host).count(MAP) == LARGE
    assert host.pinned_bytes == container.mappings.bytes
    for mapping in batch:
        assert host.device(CARD).dma.read(mapping.iova, 1) == bytes(1)
    host.device(CARD).dma.write(PAGE * (LARGE - 1), b"x")
    with pytest.raises(DmaFault):
        host.device(CARD).dma.write(PAGE * (LARGE - 2), b"x")


@pytest.mark.parametrize("bad", [0, 20, LARGE - 1])
def test_a_large_batch_that_fails_leaves_nothing_and_names_the_item(
    rig: Any, host: Any, container: Any, bad: int
) -> None:
    host.fail(MAP, errno.ENOMEM, after=bad)
    with pytest.raises(DmaMemlockError, match=f"iova {bad * PAGE:#x} ") as info:
        container.dma_map([rig.mapping(PAGE * number) for number in range(LARGE)])
    assert info.value.index == bad
    assert len(container.mappings) == 0
    assert host.pinned_bytes == 0


def test_a_large_batch_with_one_memory_file_is_mapped_by_file_where_there_is_one(
    rig: Any, host: Any, container: Any
) -> None:
    batch = [rig.mapping(PAGE * number) for number in range(LARGE)]
    batch[7] = rig.memfd_mapping(PAGE * 7)
    host.forget_calls()
    container.dma_map(batch)
    assert ioctls(host).count("IOMMU_IOAS_MAP_FILE") == 1
    assert ioctls(host).count(MAP) == LARGE - 1
    host.close(batch[7].fd)


def test_memory_that_is_not_there_is_told_with_the_way_to_map_a_bar(container: Any) -> None:
    with pytest.raises(DmaAddressError, match="VFIO_DEVICE_FEATURE_DMA_BUF"):
        container.dma_map([DmaMapping(0x10000, PAGE, PAGE)])


def test_the_lock_limit_is_told_with_what_is_wanted(make_rig: Any) -> None:
    rig = make_rig(memlock_limit=2 * PAGE)
    container = rig.open(CARD).container
    with pytest.raises(
        DmaMemlockError, match=rf"wants {4 * PAGE} bytes pinned.* is {2 * PAGE} bytes"
    ):
        container.dma_map([rig.mapping(0x10000, pages=4)])


# -- by file ---------------------------------------------------------------------------------------
def test_memory_with_a_file_is_mapped_by_file(rig: Any, host: Any, container: Any) -> None:
    assert Capability.MAP_FILE in container.capabilities
    mapping = rig.memfd_mapping(0x10000, pages=2, offset=1)
    host.forget_calls()
    container.dma_map([mapping])
    assert ioctls(host) == ["IOMMU_IOAS_MAP_FILE"]
    host.device(CARD).dma.write(0x10000, b"file")
    assert host.pread(mapping.fd, 4, mapping.fd_offset) == b"file"
    host.close(mapping.fd)


def test_a_kernel_without_map_file_maps_by_address(make_rig: Any) -> None:
    rig = make_rig(without={"IOMMU_IOAS_MAP_FILE"})
    container = rig.open(CARD).container
    assert Capability.MAP_FILE not in container.capabilities
    mapping = rig.memfd_mapping(0x10000)
    container.dma_map([mapping])
    rig.host.device(CARD).dma.write(0x10000, b"file")
    assert rig.host.pread(mapping.fd, 4, 0) == b"file"
    rig.host.close(mapping.fd)


def test_whether_the_kernel_maps_files_is_asked_once(rig: Any, host: Any) -> None:
    rig.open(CARD)
    rig.open("0000:05:00.0")
    assert ioctls(host).count("IOMMU_IOAS_MAP_FILE") == 1


def test_an_offset_within_a_page_is_an_alignment_error(rig: Any, host: Any, container: Any) -> None:
    mapping = rig.memfd_mapping(0x10000)
    with pytest.raises(DmaAlignmentError, match="offset 0x200"):
        container.dma_map([evolve(mapping, fd_offset=0x200)])
    host.close(mapping.fd)


def test_a_file_that_is_no_memory_is_an_address_error(rig: Any, host: Any, container: Any) -> None:
    fd = host.eventfd()
    with pytest.raises(DmaAddressError, match=f"fd {fd} offset 0x0: not a memory file"):
        container.dma_map([evolve(rig.mapping(0x10000), fd=fd)])
    host.close(fd)


def test_a_closed_file_is_an_address_error(rig: Any, host: Any, container: Any) -> None:
    fd = host.eventfd()
    host.close(fd)
    with pytest.raises(DmaAddressError):
        container.dma_map([evolve(rig.mapping(0x10000), fd=fd)])


# -- pinned once -----------------------------------------------------------------------------------
@pytest.fixture
def two(rig: Any, container: Any) -> tuple[Any, Any]:
    """Two IOASes of one iommufd: the second device reserves addresses that are mapped."""
    container.dma_map([rig.mapping(RESERVED_IOVA)])
    other = rig.open(RESERVING).container
    assert other is not container
    return container, other


def test_memory_that_another_ioas_has_is_pinned_once(
    rig: Any, host: Any, two: tuple[Any, Any]
) -> None:
    first, second = two
    mapping = rig.mapping(0x10000, pages=8)
    first.dma_map([mapping])
    before = host.pinned_bytes
    host.forget_calls()
    second.dma_map([mapping])
    assert ioctls(host) == ["IOMMU_IOAS_COPY"]
    assert host.pinned_bytes == before


def test_shared_memory_may_be_at_another_iova_and_a_part_of_a_mapping(
    rig: Any, host: Any, two: tuple[Any, Any]
) -> None:
    first, second = two
    mapping = rig.mapping(0x10000, pages=8)
    first.dma_map([mapping])
    second.dma_map([DmaMapping(0x800000, PAGE, mapping.vaddr + 2 * PAGE)])
    host.device(CARD).dma.write(0x10000 + 2 * PAGE, b"shared")
    assert host.device(RESERVING).dma.read(0x800000, 6) == b"shared"
    assert ioctls(host)[-1] == "IOMMU_IOAS_COPY"


def test_shared_memory_outlives_the_ioas_it_came_from(
    rig: Any, host: Any, two: tuple[Any, Any]
) -> None:
    first, second = two
    mapping = rig.mapping(0x10000)
    first.dma_map([mapping])
    second.dma_map([mapping])
    first.dma_unmap([(0x10000, mapping.size)])
    host.device(RESERVING).dma.write(0x10000, b"still there")


def test_memory_with_fewer_rights_in_the_other_ioas_is_mapped_by_itself(
    rig: Any, host: Any, two: tuple[Any, Any]
) -> None:
    first, second = two
    mapping = rig.mapping(0x10000)
    first.dma_map([evolve(mapping, access=Access.READ)])
    second.dma_map([mapping])
    assert ioctls(host)[-1] == MAP


def test_memory_that_the_other_ioas_has_in_part_is_mapped_by_itself(
    rig: Any, host: Any, two: tuple[Any, Any]
) -> None:
    first, second = two
    mapping = rig.mapping(0x10000, pages=2)
    first.dma_map([evolve(mapping, size=PAGE)])
    second.dma_map([mapping])
    assert ioctls(host)[-1] == MAP


def test_the_same_address_of_another_file_is_not_the_same_memory(
    rig: Any, host: Any, two: tuple[Any, Any]
) -> None:
    first, second = two
    mapping = rig.memfd_mapping(0x10000)
    first.dma_map([evolve(mapping, fd=None)])
    second.dma_map([mapping])
    assert ioctls(host)[-1] == "IOMMU_IOAS_MAP_FILE"
    host.close(mapping.fd)


def test_a_file_that_the_other_ioas_has_is_pinned_once(
    rig: Any, host: Any, two: tuple[Any, Any]
) -> None:
    first, second = two
    mapping = rig.memfd_mapping(0x10000, pages=2)
    first.dma_map([mapping])
    before = host.pinned_bytes
    second.dma_map([mapping])
    assert ioctls(host)[-1] == "IOMMU_IOAS_COPY"
    assert host.pinned_bytes == before
    host.close(mapping.fd)


def test_a_refused_copy_is_told_as_a_refused_map(rig: Any, host: Any, two: tuple[Any, Any]) -> None:
    first, second = two
    mapping = rig.mapping(0x10000)
    first.dma_map([mapping])
    host.fail("IOMMU_IOAS_COPY", errno.ENOMEM)
    with pytest.raises(DmaMemlockError) as info:
        second.dma_map([mapping])
    assert info.value.operation == "IOMMU_IOAS_COPY"


# -- unmapping -------------------------------------------------------------------------------------
def test_an_unmapped_range_is_out_of_the_device_s_reach(
    rig: Any, host: Any, container: Any
) -> None:
    container.dma_map([rig.mapping(0x10000), rig.mapping(0x20000)])
    container.dma_unmap([(0x10000, PAGE)])
    with pytest.raises(DmaFault):
        host.device(CARD).dma.read(0x10000, 1)
    assert host.device(CARD).dma.read(0x20000, 1) == b"\0"
    assert host.pinned_bytes == PAGE


def test_unmapping_part_of_a_mapping_is_refused_and_changes_nothing(
    rig: Any, host: Any, container: Any
) -> None:
    container.dma_map([rig.mapping(0x10000), rig.mapping(0x20000, pages=2)])
    with pytest.raises(DmaSplitError):
        container.dma_unmap([(0x10000, 0x11000)])
    assert host.pinned_bytes == 3 * PAGE


def test_a_range_with_several_mappings_goes_mapping_by_mapping(
    rig: Any, host: Any, container: Any
) -> None:
    container.dma_map([rig.mapping(iova) for iova in (0x10000, 0x20000, 0x30000)])
    host.forget_calls()
    container.dma_unmap([(0x10000, 0x20000)])
    assert ioctls(host) == [UNMAP, UNMAP]


def test_unmapping_no_range_asks_nobody(host: Any, container: Any) -> None:
    host.forget_calls()
    container.dma_unmap([])
    assert ioctls(host) == []


def test_everything_goes_with_one_call(rig: Any, host: Any, container: Any) -> None:
    container.dma_map([rig.mapping(0x10000 * n) for n in range(1, 9)])
    host.forget_calls()
    container.unmap_all()
    assert ioctls(host) == [UNMAP]
    assert host.pinned_bytes == 0


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, DmaNotMappedError),
        (errno.EINVAL, DmaRangeError),
        (errno.EBUSY, DmaError),
        (errno.EDEADLK, DmaError),
    ],
)
def test_a_refused_unmap_is_the_exception_that_its_errno_means(
    rig: Any, host: Any, container: Any, number: int, kind: type[DmaError]
) -> None:
    container.dma_map([rig.mapping(0x10000)])
    host.fail(UNMAP, number)
    with pytest.raises(DmaError) as info:
        container.dma_unmap([(0x10000, PAGE)])
    assert type(info.value) is kind


def test_a_large_batch_is_unmapped_one_by_one_and_nothing_else(
    rig: Any, host: Any, container: Any
) -> None:
    stays, *batch = [rig.mapping(PAGE * number) for number in range(LARGE)]
    container.dma_map([stays, *batch])
    host.forget_calls()
    container.dma_remove(batch)
    assert ioctls(host) == [UNMAP] * (LARGE - 1)
    assert host.pinned_bytes == PAGE


@pytest.mark.parametrize("bad", [0, 20, LARGE - 2])
def test_a_failed_unmap_within_a_large_batch_leaves_everything_mapped(
    rig: Any, host: Any, container: Any, bad: int
) -> None:
    stays, *batch = [rig.mapping(PAGE * number) for number in range(LARGE)]
    container.dma_map([stays, *batch])
    host.fail(UNMAP, errno.EBUSY, after=bad)
    with pytest.raises(DmaError) as info:
        container.dma_remove(batch)
    assert info.value.index == bad
    assert len(container.mappings) == LARGE
    assert host.pinned_bytes == LARGE * PAGE


def test_a_failed_unmap_leaves_everything_mapped(rig: Any, host: Any, container: Any) -> None:
    container.dma_map([rig.mapping(iova) for iova in (0x10000, 0x20000, 0x30000)])
    host.fail(UNMAP, errno.EBUSY, after=1)
    with pytest.raises(DmaError) as info:
        container.dma_unmap([(0x10000, PAGE), (0x20000, PAGE)])
    assert info.value.index == 1
    assert len(container.mappings) == 3
    assert host.pinned_bytes == 3 * PAGE


def test_a_failed_unmap_of_everything_leaves_everything_mapped(
    rig: Any, host: Any, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.dma_map([rig.mapping(iova) for iova in (0x10000, 0x20000)])

    def half_way(fd: int, request: int, arg: Any) -> int:
        """The kernel gives up after the first mapping, as with a driver that keeps its pins."""
        monkeypatch.undo()
        whole = uapi.iommu_ioas_unmap.from_buffer(arg)
        whole.iova, whole.length = 0x10000, PAGE
        host.ioctl(fd, request, arg)
        raise OSError(errno.EDEADLK, "")

    monkeypatch.setattr(container.mapper, "_ioctl", half_way)
    with pytest.raises(DmaError) as info:
        container.unmap_all()
    assert info.value.errno == errno.EDEADLK
    assert not hasattr(info.value, "__notes__")
    assert host.pinned_bytes == 2 * PAGE
    assert len(container.mappings) == 2


def test_an_unmap_of_fewer_bytes_than_asked_is_an_error(
    rig: Any, host: Any, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.dma_map([rig.mapping(0x10000, pages=2)])

    def short(fd: int, request: int, arg: Any) -> int:
        uapi.iommu_ioas_unmap.from_buffer(arg).length = PAGE
        return 0

    monkeypatch.setattr(container.mapper, "_ioctl", short)
    with pytest.raises(DmaError, match=f"{PAGE:#x} of {2 * PAGE:#x} bytes unmapped"):
        container.dma_unmap([(0x10000, 2 * PAGE)])
    monkeypatch.undo()


def test_fewer_bytes_within_a_large_batch_are_an_error_of_that_mapping(
    rig: Any, host: Any, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, *batch = [rig.mapping(PAGE * number) for number in range(LARGE)]
    container.dma_map([stays, *batch])
    real = host.ioctl

    def short(fd: int, request: int, arg: Any) -> int:
        real(fd, request, arg)
        answer = uapi.iommu_ioas_unmap.from_buffer(arg)
        if request == uapi.IOMMU_IOAS_UNMAP and answer.iova == batch[20].iova:
            answer.length = 0
        return 0

    monkeypatch.setattr(host, "ioctl", short)
    with pytest.raises(DmaError, match=f"0x0 of {PAGE:#x} bytes unmapped") as info:
        container.dma_remove(batch)
    assert info.value.index == 20
    assert host.pinned_bytes == LARGE * PAGE
