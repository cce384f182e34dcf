"""What the page table ioctls of an iommufd refuse: ``hw_pagetable.c``, ``device.c``."""

from __future__ import annotations

import ctypes
import errno
import mmap
from typing import Any

import pytest

from vfiocore.uapi import iommufd as uapi

PAGE = mmap.PAGESIZE
CARD = "0000:01:00.0"
DIRTY = uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING


@pytest.fixture
def attached(kernel: Any) -> tuple[int, int, int]:
    """A context, the id of its device, and that of its IOAS."""
    context = kernel.open("/dev/iommu")
    device = kernel.bind(kernel.cdev(CARD), context)
    return context, device, kernel.ioas(context)


def info(kernel: Any, context: int, **fields: Any) -> Any:
    return kernel.command(context, uapi.IOMMU_GET_HW_INFO, uapi.iommu_hw_info, **fields)


def bitmap(kernel: Any, context: int, hwpt: int, **fields: int) -> None:
    room = (ctypes.c_uint8 * 64)()
    wanted = {"iova": 0, "length": 8 * PAGE, "page_size": PAGE} | fields
    kernel.command(
        context,
        uapi.IOMMU_HWPT_GET_DIRTY_BITMAP,
        uapi.iommu_hwpt_get_dirty_bitmap,
        hwpt_id=hwpt,
        data=ctypes.addressof(room),
        **wanted,
    )


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 1 << 30}, errno.EOPNOTSUPP),
        ({"flags": uapi.IOMMU_HWPT_ALLOC_NEST_PARENT}, errno.EOPNOTSUPP),
        ({"data_len": 8}, errno.EINVAL),
        ({"data_type": 1}, errno.EINVAL),
    ],
)
def test_a_page_table_of_a_kind_that_there_is_not_is_refused(
    kernel: Any, attached: Any, refused: Any, fields: dict[str, int], code: int
) -> None:
    context, device, ioas = attached
    with refused(code):
        kernel.hwpt(context, device, ioas, **fields)


def test_a_page_table_is_made_on_an_ioas_and_for_a_device(
    kernel: Any, attached: Any, refused: Any
) -> None:
    context, device, ioas = attached
    table = kernel.hwpt(context, device, ioas)
    for parent, code in ((table, errno.EOPNOTSUPP), (device, errno.EINVAL), (99, errno.EINVAL)):
        with refused(code):
            kernel.hwpt(context, device, parent)
    for no_device in (ioas, 99):
        with refused(errno.ENOENT):
            kernel.hwpt(context, no_device, ioas)


def test_what_an_iommu_is_can_be_asked_with_and_without_room(kernel: Any, attached: Any) -> None:
    context, device, _ioas = attached
    room = (ctypes.c_uint8 * 16)(*[0xFF] * 16)
    found = info(kernel, context, dev_id=device, data_len=16, data_uptr=ctypes.addressof(room))
    assert bytes(room) == bytes(16)  # nothing to tell: the room is cleared
    assert found.data_len == info(kernel, context, dev_id=device).data_len == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 1 << 30}, errno.EOPNOTSUPP),
        ({"dev_id": 99}, errno.ENOENT),
        ({"flags": uapi.IOMMU_HW_INFO_FLAG_INPUT_TYPE, "in_data_type": 7}, errno.EOPNOTSUPP),
    ],
)
def test_what_an_iommu_is_cannot_be_asked_otherwise(
    kernel: Any, attached: Any, refused: Any, fields: dict[str, int], code: int
) -> None:
    context, device, _ioas = attached
    with refused(code):
        info(kernel, context, **{"dev_id": device, **fields})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 1 << 30}, errno.EOPNOTSUPP),
        ({"iova": (1 << 64) - PAGE, "length": 2 * PAGE}, errno.EOVERFLOW),
        ({"iova": 1}, errno.EINVAL),
        ({"length": PAGE + 1}, errno.EINVAL),
        ({"page_size": 0}, errno.EINVAL),
        ({"iova": PAGE, "page_size": 2 * PAGE}, errno.EINVAL),
    ],
)
def test_a_bitmap_of_what_is_no_range_of_pages_is_refused(
    kernel: Any, attached: Any, refused: Any, fields: dict[str, int], code: int
) -> None:
    context, device, ioas = attached
    table = kernel.hwpt(context, device, ioas, DIRTY)
    bitmap(kernel, context, table)
    with refused(code):
        bitmap(kernel, context, table, **fields)


def test_tracking_knows_one_flag(kernel: Any, attached: Any, refused: Any) -> None:
    context, device, ioas = attached
    table = kernel.hwpt(context, device, ioas, DIRTY)
    with refused(errno.EOPNOTSUPP):
        kernel.command(
            context,
            uapi.IOMMU_HWPT_SET_DIRTY_TRACKING,
            uapi.iommu_hwpt_set_dirty_tracking,
            hwpt_id=table,
            flags=2,
        )
