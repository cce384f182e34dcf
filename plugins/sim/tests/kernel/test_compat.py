"""Container ioctls on an iommufd."""

from __future__ import annotations

import errno
import mmap
import struct
from typing import Any

import pytest

from vfiocore.uapi import iommufd, vfio
from vfiocore_sim.device import DmaFault

PAGE = mmap.PAGESIZE
TOP = 1 << 64
A = "0000:01:00.0"


@pytest.fixture
def context(kernel: Any) -> int:
    """An iommufd that group 1 uses as its container."""
    context = int(kernel.open("/dev/iommu"))
    kernel.set_container(kernel.open("/dev/vfio/1"), context)
    return context


def vfio_ioas(kernel: Any, context: int, op: int, ioas: int = 0) -> int:
    arg = kernel.command(
        context, iommufd.IOMMU_VFIO_IOAS, iommufd.iommu_vfio_ioas, op=op, ioas_id=ioas
    )
    return int(arg.ioas_id)


def test_without_a_compat_ioas_there_is_nothing_to_map_into(kernel: Any, refused: Any) -> None:
    context = kernel.open("/dev/iommu")
    with refused(errno.ENODEV):
        kernel.map(context, 0, 0, PAGE)
    with refused(errno.ENODEV):
        kernel.info(context)
    with refused(errno.ENODEV):
        vfio_ioas(kernel, context, iommufd.IOMMU_VFIO_IOAS_GET)


def test_the_compat_ioas_is_an_ordinary_one(kernel: Any, context: int, buffer: Any) -> None:
    ioas = vfio_ioas(kernel, context, iommufd.IOMMU_VFIO_IOAS_GET)
    kernel.map(context, 0, buffer(1).address, PAGE)
    assert kernel.ioas_unmap(context, ioas, 0, PAGE) == PAGE
    kernel.destroy(context, ioas)
    assert vfio_ioas(kernel, context, iommufd.IOMMU_VFIO_IOAS_CLEAR) == 0


def test_a_program_may_choose_the_compat_ioas(kernel: Any, refused: Any) -> None:
    context = kernel.open("/dev/iommu")
    ioas = kernel.ioas(context)
    with refused(errno.ENOENT):
        vfio_ioas(kernel, context, iommufd.IOMMU_VFIO_IOAS_SET, 99)
    vfio_ioas(kernel, context, iommufd.IOMMU_VFIO_IOAS_SET, ioas)
    assert vfio_ioas(kernel, context, iommufd.IOMMU_VFIO_IOAS_GET) == ioas
    with refused(errno.EOPNOTSUPP):
        vfio_ioas(kernel, context, 3)


def test_the_reserved_field_of_vfio_ioas_must_be_zero(kernel: Any, refused: Any) -> None:
    arg = bytearray(struct.pack("=IIHH", 12, 0, iommufd.IOMMU_VFIO_IOAS_CLEAR, 1))
    with refused(errno.EOPNOTSUPP):
        kernel.ioctl(kernel.open("/dev/iommu"), iommufd.IOMMU_VFIO_IOAS, arg)


def test_info_always_tells_its_full_size(kernel: Any, context: int) -> None:
    info = kernel.info(context)
    order = [vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE]
    assert info.order == order
    assert info.argsz == 24 + 16 + 32
    assert info.available == 0xFFFFFFFF
    assert info.ranges == [(0, TOP - 1)]
    assert kernel.info(context, 24).cap_offset == 0


def test_the_device_attaches_by_itself_and_brings_its_limits(
    kernel: Any, context: int, buffer: Any
) -> None:
    group = kernel.open("/dev/vfio/2")
    kernel.set_container(group, context)
    kernel.device_fd(group, "0000:02:00.0")
    assert kernel.info(context).ranges == [(0, 0xFEDFFFFF), (0xFEF00000, (1 << 48) - 1)]
    memory = buffer(1)
    kernel.map(context, 0, memory.address, PAGE)
    kernel.device("0000:02:00.0").dma.write(0, b"compat")
    assert memory.map[:6] == b"compat"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 4}, errno.EINVAL),
        ({"size": 0}, errno.EINVAL),
        ({"vaddr": TOP - PAGE, "size": 2 * PAGE}, errno.EOVERFLOW),
        ({"iova": TOP - PAGE, "size": 2 * PAGE}, errno.EOVERFLOW),
    ],
)
def test_a_map_that_cannot_be_is_refused(
    kernel: Any, context: int, buffer: Any, refused: Any, fields: dict[str, int], code: int
) -> None:
    wanted = {"iova": 0, "vaddr": buffer(1).address, "size": PAGE} | fields
    with refused(code):
        kernel.map(context, **wanted)


def test_unmap_writes_its_size_also_when_it_fails(
    kernel: Any, context: int, buffer: Any, refused: Any
) -> None:
    kernel.map(context, 0, buffer(2).address, 2 * PAGE)
    arg = vfio.vfio_iommu_type1_dma_unmap(24, 0, 0, PAGE)
    with refused(errno.ENOENT):
        kernel.ioctl(context, vfio.VFIO_IOMMU_UNMAP_DMA, arg)
    assert arg.size == 0
    assert kernel.unmap(context, 0, 0, vfio.VFIO_DMA_UNMAP_FLAG_ALL) == 2 * PAGE
    assert kernel.unmap(context, 0, PAGE) == 0


@pytest.mark.parametrize(
    ("flags", "iova", "size"),
    [
        (vfio.VFIO_DMA_UNMAP_FLAG_VADDR, 0, PAGE),
        (vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, 0, PAGE),
        (vfio.VFIO_DMA_UNMAP_FLAG_ALL, PAGE, 0),
        (vfio.VFIO_DMA_UNMAP_FLAG_ALL, 0, PAGE),
    ],
)
def test_an_unmap_that_cannot_be_is_refused(
    kernel: Any, context: int, buffer: Any, refused: Any, flags: int, iova: int, size: int
) -> None:
    kernel.map(context, 0, buffer(1).address, PAGE)
    with refused(errno.EINVAL):
        kernel.unmap(context, iova, size, flags)
    assert kernel.unmap(context, 0, PAGE) == PAGE


def test_a_write_only_mapping_cannot_be_read_by_the_device(
    kernel: Any, context: int, buffer: Any
) -> None:
    group = kernel.open("/dev/vfio/2")
    kernel.set_container(group, context)
    kernel.device_fd(group, "0000:02:00.0")
    kernel.map(context, 0, buffer(1).address, PAGE, vfio.VFIO_DMA_MAP_FLAG_WRITE)
    kernel.device("0000:02:00.0").dma.write(0, b"in")
    with pytest.raises(DmaFault, match="read"):
        kernel.device("0000:02:00.0").dma.read(0, 2)


def test_version_1_cuts_a_mapping_that_ends_with_the_address_space(
    kernel: Any, context: int, buffer: Any
) -> None:
    kernel.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1_IOMMU)
    kernel.map(context, TOP - 2 * PAGE, buffer(2).address, 2 * PAGE)
    assert kernel.unmap(context, TOP - PAGE, PAGE) == PAGE
    assert kernel.unmap(context, TOP - 2 * PAGE, PAGE) == PAGE


def test_version_1_lets_an_unmap_cut_a_mapping(kernel: Any, context: int, buffer: Any) -> None:
    kernel.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1_IOMMU)
    kernel.map(context, 0, buffer(3).address, 3 * PAGE)
    assert kernel.unmap(context, PAGE, PAGE) == PAGE
    assert kernel.unmap(context, 0, 3 * PAGE) == 2 * PAGE


def test_extensions_are_type1s_without_the_rest(kernel: Any, context: int, refused: Any) -> None:
    check = vfio.VFIO_CHECK_EXTENSION
    found = {number for number in range(16) if kernel.ioctl(context, check, number)}
    types = {vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU}
    more = {vfio.VFIO_UNMAP_ALL, vfio.VFIO_DMA_CC_IOMMU, vfio.VFIO_NOIOMMU_IOMMU}
    assert found == types | more
    with refused(errno.EINVAL):
        kernel.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_NOIOMMU_IOMMU)
    with refused(errno.ENOTTY):
        kernel.ioctl(context, vfio.VFIO_IOMMU_DIRTY_PAGES, bytearray(48))


def test_version_1_cuts_under_a_device_and_keeps_the_rest_pinned(
    kernel: Any, context: int, buffer: Any, refused: Any
) -> None:
    kernel.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1_IOMMU)
    group = kernel.open("/dev/vfio/2")
    kernel.set_container(group, context)
    kernel.device_fd(group, "0000:02:00.0")
    memory = buffer(3)
    kernel.map(context, 0, memory.address, 3 * PAGE)
    with refused(errno.EINVAL):
        kernel.unmap(context, 1, PAGE)
    assert kernel.unmap(context, PAGE, PAGE) == PAGE
    assert kernel.host.pinned_bytes == 2 * PAGE
    kernel.device("0000:02:00.0").dma.write(2 * PAGE, b"rest")
    assert memory.map[2 * PAGE : 2 * PAGE + 4] == b"rest"
    with pytest.raises(DmaFault, match="not mapped"):
        kernel.device("0000:02:00.0").dma.write(PAGE, b"gone")


def test_the_version_does_not_change_under_a_mapping(
    kernel: Any, context: int, buffer: Any, refused: Any
) -> None:
    group = kernel.open("/dev/vfio/2")
    kernel.set_container(group, context)
    kernel.device_fd(group, "0000:02:00.0")
    kernel.map(context, 0, buffer(1).address, PAGE)
    for _ in range(2):
        assert kernel.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU) == 0
    with refused(errno.EINVAL):
        kernel.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1_IOMMU)
