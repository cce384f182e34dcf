"""An iommufd in the place of a container."""

from __future__ import annotations

from tests.reality.memory import NOTHING, READ_ONLY
from tests.reality.parts import (
    INTERRUPTS,
    IOMMUFD,
    PAGE,
    READ,
    WRITE,
    cdev_of,
    destroy,
    group_of,
    ioas_map,
    iova_ranges,
    map_dma,
    new_ioas,
    set_container,
    type1_info,
    unmap_dma,
)
from tests.reality.script import Script
from tests.reality.sequence import CAP_IPC_LOCK, Privileges, sequence, sequences, with_privileges
from vfiocore.uapi import iommufd as i
from vfiocore.uapi import vfio as v

from .type1 import MAP_MISTAKES, OVERLAPS, UNMAP_MISTAKES

GET, SET, CLEAR = i.IOMMU_VFIO_IOAS_GET, i.IOMMU_VFIO_IOAS_SET, i.IOMMU_VFIO_IOAS_CLEAR


def compat_ioas(s: Script, context: int, op: int, ioas: int = 0, **more: int) -> int:
    wanted = i.iommu_vfio_ioas(**{"size": 12, "op": op, "ioas_id": ioas, **more})
    s.ioctl(context, i.IOMMU_VFIO_IOAS, wanted)
    return int(wanted.ioas_id)


def compat_of(s: Script, role: str, kind: int = v.VFIO_TYPE1v2_IOMMU) -> tuple[int, int, int]:
    """An iommufd with a group; it, the group, and the device."""
    context = s.open(IOMMUFD)
    group = group_of(s, role)
    set_container(s, group, context)
    s.ioctl(context, v.VFIO_SET_IOMMU, kind)
    return context, group, s.device_fd(group, role)


@sequence
def requests_without_an_ioas(s: Script) -> None:
    context = s.open(IOMMUFD)
    s.ioctl(context, v.VFIO_GET_API_VERSION)
    for number in range(12):
        s.ioctl(context, v.VFIO_CHECK_EXTENSION, number)
    s.ioctl(context, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    type1_info(s, context)
    map_dma(s, context, 0x10000)
    unmap_dma(s, context, 0x10000)
    s.ioctl(context, v.VFIO_IOMMU_DIRTY_PAGES, v.vfio_iommu_type1_dirty_bitmap(argsz=8, flags=1))


@sequence
def extensions_with_an_ioas(s: Script) -> None:
    context = s.open(IOMMUFD)
    compat_ioas(s, context, SET, new_ioas(s, context))
    for number in range(12):
        s.ioctl(context, v.VFIO_CHECK_EXTENSION, number)


@sequence
def extensions_with_a_device(s: Script) -> None:
    context, _, _ = compat_of(s, "edu")
    for number in range(12):
        s.ioctl(context, v.VFIO_CHECK_EXTENSION, number)


@sequences({f"type {number}": {"number": number} for number in (0, 1, 2, 3, 4, 8, 9, 10)})
def an_iommu_of_each_type(s: Script, number: int) -> None:
    context = s.open(IOMMUFD)
    compat_ioas(s, context, SET, new_ioas(s, context))
    s.ioctl(context, v.VFIO_SET_IOMMU, number)
    s.ioctl(context, v.VFIO_SET_IOMMU, number)
    type1_info(s, context)


@sequence
def the_ioas_of_the_container(s: Script) -> None:
    context = s.open(IOMMUFD)
    compat_ioas(s, context, GET)
    compat_ioas(s, context, CLEAR)
    compat_ioas(s, context, SET, 5)
    compat_ioas(s, context, 3)
    ioas = new_ioas(s, context)
    compat_ioas(s, context, SET, ioas)
    compat_ioas(s, context, GET)
    destroy(s, context, ioas)
    compat_ioas(s, context, GET)
    map_dma(s, context, 0x10000)


@sequence
def the_ioas_of_the_container_is_no_device(s: Script) -> None:
    context, _, ident = cdev_of(s, "edu")
    compat_ioas(s, context, SET, ident)


@sequence
def a_group_makes_an_ioas(s: Script) -> None:
    context = s.open(IOMMUFD)
    set_container(s, group_of(s, "edu"), context)
    ioas = compat_ioas(s, context, GET)
    iova_ranges(s, context, ioas)
    ioas_map(s, context, ioas, 0x10000)
    map_dma(s, context, 0x10000)
    unmap_dma(s, context, 0x10000)


@sequence
def a_group_uses_the_ioas_that_is_there(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    other = new_ioas(s, context)
    compat_ioas(s, context, SET, other)
    set_container(s, group_of(s, "edu"), context)
    compat_ioas(s, context, GET)
    destroy(s, context, ioas)
    destroy(s, context, other)


@sequence
def a_device_without_an_ioas(s: Script) -> None:
    context = s.open(IOMMUFD)
    group = group_of(s, "edu")
    set_container(s, group, context)
    compat_ioas(s, context, CLEAR)
    s.device_fd(group, "edu")
    compat_ioas(s, context, SET, 1)
    s.device_fd(group, "edu")


@sequence
def a_device_before_the_iommu_is_set(s: Script) -> None:
    context = s.open(IOMMUFD)
    group = group_of(s, "edu")
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))
    set_container(s, group, context)
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))
    device = s.device_fd(group, "edu")
    s.ioctl(device, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))
    s.ioctl(group, v.VFIO_GROUP_UNSET_CONTAINER)
    s.ioctl(group, v.VFIO_GROUP_UNSET_CONTAINER)
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))


@sequence
def a_device_opened_twice(s: Script) -> None:
    _, group, _ = compat_of(s, "edu")
    second = s.device_fd(group, "edu")
    s.ioctl(second, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))


@sequences({f"{size} bytes": {"size": size} for size in (0, 15, 16, 23, 24, 95, 96, 200)})
def info_with_room_for(s: Script, size: int) -> None:
    context, _, _ = compat_of(s, "edu")
    type1_info(s, context, size)


@sequences({name: {"fields": fields} for name, fields in MAP_MISTAKES.items()})
def map_with(s: Script, fields: dict[str, int]) -> None:
    context, _, _ = compat_of(s, "edu")
    map_dma(s, context, **{"iova": 0x10000, **fields})


@sequences({name: {"fields": fields} for name, fields in MAP_MISTAKES.items()})
def map_without_a_device_with(s: Script, fields: dict[str, int]) -> None:
    context = s.open(IOMMUFD)
    compat_ioas(s, context, SET, new_ioas(s, context))
    map_dma(s, context, **{"iova": 0x10000, **fields})


@sequences({name: {"fields": fields} for name, fields in OVERLAPS.items()})
def map_beside_a_mapping(s: Script, fields: dict[str, int]) -> None:
    context, _, _ = compat_of(s, "edu")
    map_dma(s, context, 0x10000, size=2 * PAGE)
    map_dma(s, context, **fields)


VERSIONS = {
    "version 1": {"kind": v.VFIO_TYPE1_IOMMU},
    "version 2": {"kind": v.VFIO_TYPE1v2_IOMMU},
}


@sequences(
    {
        f"{name}, {version}": {"fields": fields, **kind}
        for name, fields in UNMAP_MISTAKES.items()
        for version, kind in VERSIONS.items()
    }
)
def unmap_with(s: Script, fields: dict[str, int], kind: int) -> None:
    context, _, _ = compat_of(s, "edu", kind)
    map_dma(s, context, 0x10000, size=2 * PAGE)
    map_dma(s, context, 0x20000, page=4)
    unmap_dma(s, context, **{"iova": 0x10000, "size": 2 * PAGE, **fields})
    map_dma(s, context, 0x10000)
    map_dma(s, context, 0x11000)
    map_dma(s, context, 0x20000)


@sequence
def version_1_comes_too_late(s: Script) -> None:
    context, _, _ = compat_of(s, "edu")
    map_dma(s, context, 0x10000)
    s.ioctl(context, v.VFIO_SET_IOMMU, v.VFIO_TYPE1_IOMMU)
    unmap_dma(s, context, 0x10000)
    s.ioctl(context, v.VFIO_SET_IOMMU, v.VFIO_TYPE1_IOMMU)
    s.ioctl(context, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)


@sequences(
    {
        "where no memory is": {"vaddr": NOTHING},
        "read-only memory": {"vaddr": READ_ONLY},
        **{f"where {machine} interrupts go": {"iova": at} for machine, at in INTERRUPTS.items()},
        "no access": {"flags": 0},
        "a page that is there": {},
    }
)
def a_device_for_an_ioas_that_maps(s: Script, **fields: int) -> None:
    context = s.open(IOMMUFD)
    group = group_of(s, "edu")
    set_container(s, group, context)
    map_dma(s, context, **{"iova": 0x10000, "flags": READ | WRITE, **fields})
    s.device_fd(group, "edu")


@sequence
def two_groups(s: Script) -> None:
    context, _, _ = compat_of(s, "edu")
    second = group_of(s, "nvme")
    set_container(s, second, context)
    s.device_fd(second, "nvme")
    s.ioctl(context, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    type1_info(s, context)


@with_privileges(Privileges(without=CAP_IPC_LOCK, memlock=4 * PAGE))
def memory_may_be_locked_up_to_the_limit(s: Script) -> None:
    context, _, _ = compat_of(s, "edu")
    map_dma(s, context, 0x10000, size=5 * PAGE)
    map_dma(s, context, 0x10000, size=4 * PAGE)
    map_dma(s, context, 0x20000, page=8)
