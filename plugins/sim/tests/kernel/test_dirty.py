"""Dirty page logging of a container."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from typing import Any

import pytest

from vfiocore.uapi import vfio

PAGE = mmap.PAGESIZE
START = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START
STOP = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
GET = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP


def log(kernel: Any, container: int, flags: int) -> None:
    arg = bytearray(struct.pack("=II", 8, flags))
    kernel.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, arg)


def dirty(
    kernel: Any, container: int, iova: int, size: int, before: bytes = b"", **fields: int
) -> set[int]:
    bitmap = (ctypes.c_uint8 * 16)(*before)
    wanted = {"pgsize": PAGE, "room": 16, "data": ctypes.addressof(bitmap), "argsz": 48} | fields
    header = struct.pack("=II", wanted["argsz"], GET)
    rest = struct.pack("=5Q", iova, size, wanted["pgsize"], wanted["room"], wanted["data"])
    kernel.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, bytearray(header + rest))
    bits = int.from_bytes(bytes(bitmap), "little")
    return {number for number in range(128) if bits >> number & 1}


@pytest.fixture
def emulated(with_mdev: Any, buffer: Any) -> tuple[Any, int, Any]:
    """A machine whose container has an emulated device and 8 pages at 0."""
    container, (group,) = with_mdev.container_with(2)
    with_mdev.device_fd(group, with_mdev.mdev)
    with_mdev.map(container, 0, buffer(8).address, 8 * PAGE)
    return with_mdev, container, with_mdev.device(with_mdev.mdev)


def test_an_emulated_device_dirties_what_it_writes_and_what_it_holds(emulated: Any) -> None:
    kernel, container, device = emulated
    log(kernel, container, START)
    device.dma.write(2 * PAGE, b"write")
    device.dma.read(3 * PAGE, 4)
    device.hold(5 * PAGE, PAGE)
    assert dirty(kernel, container, 0, 8 * PAGE) == {2, 5}
    assert dirty(kernel, container, 0, 8 * PAGE) == {5}


def test_an_iommu_cannot_tell_so_everything_is_dirty(kernel: Any, buffer: Any) -> None:
    container, _groups = kernel.container_with(1)
    kernel.map(container, 2 * PAGE, buffer(3).address, 3 * PAGE)
    log(kernel, container, START)
    for _ in range(2):
        assert dirty(kernel, container, 0, 8 * PAGE) == {2, 3, 4}


def test_bits_count_from_the_range_and_the_others_of_a_first_word_that_begins_before_stay(
    kernel: Any, buffer: Any
) -> None:
    container, _groups = kernel.container_with(1)
    kernel.map(container, 3 * PAGE, buffer(1).address, PAGE)
    log(kernel, container, START)
    found = dirty(kernel, container, PAGE, 8 * PAGE, before=b"\x03\xf0")
    assert found == {0, 1, 2, 12, 13, 14, 15}


def test_logging_starts_and_stops_any_number_of_times(emulated: Any, refused: Any) -> None:
    kernel, container, _device = emulated
    for flags in (START, START, STOP, STOP):
        log(kernel, container, flags)
    with refused(errno.EINVAL):
        dirty(kernel, container, 0, 8 * PAGE)


@pytest.mark.parametrize("flags", [0, START | STOP, 8])
def test_exactly_one_thing_is_asked(emulated: Any, refused: Any, flags: int) -> None:
    kernel, container, _device = emulated
    with refused(errno.EINVAL):
        log(kernel, container, flags)


@pytest.mark.parametrize(
    ("iova", "size", "fields", "code"),
    [
        (0, 8 * PAGE, {"argsz": 47}, errno.EINVAL),
        (0, 0, {}, errno.EINVAL),
        ((1 << 64) - PAGE, 2 * PAGE, {}, errno.EOVERFLOW),
        (0, 8 * PAGE, {"room": 0}, errno.EINVAL),
        (0, 128 * PAGE, {"room": 8}, errno.EINVAL),
        (0, 8 * PAGE, {"room": (256 << 20) + 8}, errno.EINVAL),
        (0, 8 * PAGE, {"pgsize": 2 * PAGE}, errno.EINVAL),
        (0, 8 * PAGE, {"pgsize": 0}, errno.EINVAL),
        (1, 8 * PAGE, {}, errno.EINVAL),
        (0, 4 * PAGE, {}, errno.EINVAL),
        (0, 8 * PAGE, {"data": 8}, errno.EFAULT),
    ],
)
def test_a_report_that_cannot_be_is_refused(
    emulated: Any, refused: Any, iova: int, size: int, fields: Any, code: int
) -> None:
    kernel, container, _device = emulated
    log(kernel, container, START)
    with refused(code):
        dirty(kernel, container, iova, size, **fields)


def test_version_1_has_no_logging(kernel: Any, refused: Any) -> None:
    container, _groups = kernel.container_with(1, kind=vfio.VFIO_TYPE1_IOMMU)
    with refused(errno.EACCES):
        log(kernel, container, START)


def unmap_report(kernel: Any, container: int, size: int, **fields: int) -> bytes:
    bitmap = (ctypes.c_uint8 * 8)()
    wanted = {"argsz": 48, "pgsize": PAGE} | fields
    header = struct.pack("=IIQQ", wanted["argsz"], 1, 0, size)
    rest = struct.pack("=3Q", wanted["pgsize"], 8, ctypes.addressof(bitmap))
    kernel.ioctl(container, vfio.VFIO_IOMMU_UNMAP_DMA, bytearray(header + rest))
    return bytes(bitmap)


def test_the_last_report_comes_with_the_unmap(emulated: Any) -> None:
    kernel, container, device = emulated
    log(kernel, container, START)
    device.dma.write(PAGE, b"late")
    assert unmap_report(kernel, container, 8 * PAGE) == b"\x02" + bytes(7)
    assert kernel.unmap(container, 0, 8 * PAGE) == 0


def test_an_unmap_reports_while_logging_only(emulated: Any, refused: Any) -> None:
    kernel, container, _device = emulated
    with refused(errno.EINVAL):
        unmap_report(kernel, container, 8 * PAGE)
    log(kernel, container, START)
    for fields in ({"argsz": 47}, {"pgsize": 2 * PAGE}, {"pgsize": 0}):
        with refused(errno.EINVAL):
            unmap_report(kernel, container, 8 * PAGE, **fields)
