"""Reading the usable IOVAs of an IOAS."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vfiocore.errors import MalformedReplyError, kernel_error
from vfiocore.memory.ranges import FULL_RANGE, IovaRange
from vfiocore.uapi import iommufd as uapi

if TYPE_CHECKING:
    from vfiocore_iommufd.iommufd import Iommufd

FIRST_ROOM = 8
ROOM_LIMIT = 1 << 16
"""More ranges than any machine has; a kernel that says so is not believed."""


def read_iova_ranges(
    iommufd: Iommufd, ioas_id: int, label: str
) -> tuple[tuple[IovaRange, ...], int]:
    """IOMMU_IOAS_IOVA_RANGES: the usable ranges, and the alignment in bytes.

    Asked again with the room that the kernel wants (EMSGSIZE) until it fits.

    Returns:
        Sorted ranges, none where the kernel knows no limit; the alignment, 1 while nothing is
        attached.

    Raises:
        KernelError: The ioctl failed.
        MalformedReplyError: The answer contradicts itself, or wants more room than is sensible.
    """
    room = FIRST_ROOM
    while room <= ROOM_LIMIT:
        ranges = (uapi.iommu_iova_range * room)()
        arg = uapi.iommu_ioas_iova_ranges(
            size=ctypes.sizeof(uapi.iommu_ioas_iova_ranges),
            ioas_id=ioas_id,
            num_iovas=room,
            allowed_iovas=ctypes.addressof(ranges),
        )
        try:
            iommufd.host.ioctl(iommufd.fd, uapi.IOMMU_IOAS_IOVA_RANGES, arg)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise kernel_error(error, "IOMMU_IOAS_IOVA_RANGES", label) from error
            room = max(arg.num_iovas, 2 * room)
            continue
        if arg.num_iovas > room:
            raise MalformedReplyError(f"{label}: {arg.num_iovas} IOVA ranges in room for {room}")
        return _usable(ranges[: arg.num_iovas], label), _alignment(arg, label)
    raise MalformedReplyError(f"{label}: the kernel wants room for {room} IOVA ranges")


def _usable(ranges: Iterable[uapi.iommu_iova_range], label: str) -> tuple[IovaRange, ...]:
    try:
        found = sorted(IovaRange(item.start, item.last) for item in ranges)
    except ValueError as error:
        raise MalformedReplyError(f"{label}: {error}") from error
    return () if found == [FULL_RANGE] else tuple(found)


def _alignment(arg: uapi.iommu_ioas_iova_ranges, label: str) -> int:
    alignment = int(arg.out_iova_alignment)
    if alignment < 1 or alignment & (alignment - 1):
        raise MalformedReplyError(f"{label}: an alignment of {alignment:#x} is no power of two")
    return alignment
