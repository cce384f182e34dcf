"""Mapping memory with the type1 backend: both versions, and every mistake there is."""

from __future__ import annotations

import struct

from tests.reality.memory import NOTHING, READ_ONLY
from tests.reality.parts import (
    INTERRUPTS,
    MIB,
    PAGE,
    REACHES,
    READ,
    WRITE,
    container_of,
    group_of,
    map_dma,
    set_container,
    type1_info,
    unmap_dma,
)
from tests.reality.script import Script
from tests.reality.sequence import CAP_IPC_LOCK, Privileges, sequence, sequences, with_privileges
from vfiocore.uapi import vfio as v

V1, V2 = v.VFIO_TYPE1_IOMMU, v.VFIO_TYPE1v2_IOMMU
VERSIONS = {"version 1": {"kind": V1}, "version 2": {"kind": V2}}
MAP_VADDR = v.VFIO_DMA_MAP_FLAG_VADDR
UNMAP_ALL, UNMAP_VADDR = v.VFIO_DMA_UNMAP_FLAG_ALL, v.VFIO_DMA_UNMAP_FLAG_VADDR
UNMAP_DIRTY = v.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
END = 1 << 64


# -- info ------------------------------------------------------------------------------------------
@sequences(
    {f"{size} bytes": {"size": size} for size in (0, 15, 16, 20, 23, 24, 25, 64, 119, 120, 512)}
)
def info_with_room_for(s: Script, size: int) -> None:
    container, _ = container_of(s, "edu")
    type1_info(s, container, size)


@sequence
def info_to_where_it_cannot_be_written(s: Script) -> None:
    container, _ = container_of(s, "edu")
    s.ioctl(container, v.VFIO_IOMMU_GET_INFO, NOTHING)
    s.memory.store(s.memory.page(0), bytes(v.vfio_iommu_type1_info(argsz=512)))
    s.ioctl(container, v.VFIO_IOMMU_GET_INFO, s.memory.page(0))
    s.look(s.memory.page(0), 128)
    s.ioctl(
        container, v.VFIO_IOMMU_GET_INFO, s.memory.before_nothing(struct.pack("=IIQ", 16, 0, 0))
    )


@sequence
def info_counts_mappings_down_and_up(s: Script) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000)
    map_dma(s, container, 0x20000)
    type1_info(s, container)
    unmap_dma(s, container, 0x10000)
    type1_info(s, container)


@sequence
def info_of_two_groups(s: Script) -> None:
    container, _ = container_of(s, "edu", "nvme")
    type1_info(s, container)


# -- map: one mistake at a time --------------------------------------------------------------------
ENDS = {
    f"{words} {bits}": {"iova": end + offset, "size": size}
    for bits, end in REACHES.items()
    for words, offset, size in (
        ("the last page of", -PAGE, PAGE),
        ("the first page beyond", 0, PAGE),
        ("across the end of", -PAGE, 2 * PAGE),
    )
}
WINDOWS = {
    f"{words} {machine} interrupts go": {"iova": at + offset, "size": size}
    for machine, at in INTERRUPTS.items()
    for words, offset, size in (
        ("where", 0, PAGE),
        ("before where", -PAGE, PAGE),
        ("into where", -PAGE, 2 * PAGE),
        ("after where", MIB, PAGE),
        ("around where", -MIB, 3 * MIB),
    )
}
MAP_MISTAKES: dict[str, dict[str, int]] = {
    "nothing wrong": {},
    "struct one byte short": {"argsz": 31},
    "struct of no size": {"argsz": 0},
    "struct larger than known": {"argsz": 64},
    "unknown flag": {"flags": 8 | READ},
    "highest flag": {"flags": 1 << 31 | READ},
    "no flag": {"flags": 0},
    "read only": {"flags": READ},
    "write only": {"flags": WRITE},
    "new address of nothing": {"flags": MAP_VADDR},
    "new address with access": {"flags": MAP_VADDR | READ},
    "size zero": {"size": 0},
    "size of a byte": {"size": 1},
    "size of a page and a half": {"size": PAGE + PAGE // 2},
    "iova inside a page": {"iova": 0x10800},
    "address inside a page": {"vaddr": 0x7000_0800},
    "iova zero": {"iova": 0},
    **ENDS,
    "the last page of all": {"iova": END - PAGE},
    "across the last page of all": {"iova": END - PAGE, "size": 2 * PAGE},
    "everything": {"iova": 0, "size": END - PAGE},
    "address that wraps": {"vaddr": END - PAGE, "size": 2 * PAGE},
    "address at the end": {"vaddr": END - PAGE},
    **WINDOWS,
    "nothing at the address": {"vaddr": NOTHING},
    "address zero": {"vaddr": 0},
    "the second page is not there": {"vaddr": READ_ONLY, "size": 2 * PAGE, "flags": READ},
    "read-only memory to write": {"vaddr": READ_ONLY},
    "read-only memory to read": {"vaddr": READ_ONLY, "flags": READ},
    "unaligned and without access": {"iova": 1, "flags": 0},
    "unaligned and size zero": {"iova": 1, "size": 0},
    "unknown flag and short struct": {"flags": 0xFF, "argsz": 8},
}


@sequences({name: {"fields": fields} for name, fields in MAP_MISTAKES.items()})
def map_with(s: Script, fields: dict[str, int]) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, **{"iova": 0x10000, **fields})
    type1_info(s, container)


@sequence
def map_from_where_nothing_can_be_read(s: Script) -> None:
    container, _ = container_of(s, "edu")
    s.ioctl(container, v.VFIO_IOMMU_MAP_DMA, NOTHING)
    s.ioctl(container, v.VFIO_IOMMU_UNMAP_DMA, NOTHING)
    wanted = v.vfio_iommu_type1_dma_unmap(argsz=24, iova=0x10000, size=PAGE)
    s.ioctl(container, v.VFIO_IOMMU_UNMAP_DMA, s.memory.before_nothing(bytes(wanted)))
    s.ioctl(container, v.VFIO_IOMMU_UNMAP_DMA, s.memory.before_nothing(bytes(wanted)[:16]))


OVERLAPS = {
    "the same": {"iova": 0x10000, "size": 2 * PAGE},
    "its first page": {"iova": 0x10000, "size": PAGE},
    "its second page": {"iova": 0x11000, "size": PAGE},
    "its end and more": {"iova": 0x11000, "size": 2 * PAGE},
    "its begin and before": {"iova": 0xF000, "size": 2 * PAGE},
    "all around it": {"iova": 0xF000, "size": 4 * PAGE},
    "right before it": {"iova": 0xF000, "size": PAGE},
    "right behind it": {"iova": 0x12000, "size": PAGE},
    "over it and with a bad address": {"iova": 0x10000, "size": PAGE, "vaddr": NOTHING},
    "over it and beyond reach": {"iova": 0x10000, "size": max(REACHES.values())},
}


@sequences({name: {"fields": fields} for name, fields in OVERLAPS.items()})
def map_beside_a_mapping(s: Script, fields: dict[str, int]) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000, size=2 * PAGE)
    map_dma(s, container, **fields)


# -- unmap -----------------------------------------------------------------------------------------
UNMAP_MISTAKES: dict[str, dict[str, int]] = {
    "nothing wrong": {},
    "struct one byte short": {"argsz": 23},
    "struct larger than known": {"argsz": 64},
    "unknown flag": {"flags": 8},
    "highest flag": {"flags": 1 << 31},
    "size zero": {"size": 0},
    "size of a byte": {"size": 1},
    "iova inside a page": {"iova": 0x10800},
    "size of one and a half pages": {"size": PAGE + PAGE // 2},
    "first page": {"size": PAGE},
    "second page": {"iova": 0x11000, "size": PAGE},
    "from the second page on": {"iova": 0x11000, "size": 8 * PAGE},
    "up to the first page": {"iova": 0xF000, "size": 2 * PAGE},
    "more before": {"iova": 0xF000, "size": 3 * PAGE},
    "more behind": {"size": 3 * PAGE},
    "nothing there": {"iova": 0x40000},
    "wrap": {"iova": END - PAGE, "size": 2 * PAGE},
    "the last page of all": {"iova": END - PAGE, "size": PAGE},
    "both mappings": {"size": 0x11000},
    "both mappings but a page": {"size": 0x10000},
    "all with an iova": {"flags": UNMAP_ALL},
    "all with a size": {"flags": UNMAP_ALL, "iova": 0},
    "all": {"flags": UNMAP_ALL, "iova": 0, "size": 0},
    "everything by size": {"iova": 0, "size": END - PAGE},
    "addresses": {"flags": UNMAP_VADDR},
    "all addresses": {"flags": UNMAP_VADDR | UNMAP_ALL, "iova": 0, "size": 0},
    "addresses of half a mapping": {"flags": UNMAP_VADDR, "size": PAGE},
    "dirty pages and all": {"flags": UNMAP_DIRTY | UNMAP_ALL},
    "dirty pages and addresses": {"flags": UNMAP_DIRTY | UNMAP_VADDR},
    "dirty pages without room for a bitmap": {"flags": UNMAP_DIRTY},
}


@sequences(
    {
        f"{name}, {version}": {"fields": fields, **kind}
        for name, fields in UNMAP_MISTAKES.items()
        for version, kind in VERSIONS.items()
    }
)
def unmap_with(s: Script, fields: dict[str, int], kind: int) -> None:
    container, _ = container_of(s, "edu", kind=kind)
    map_dma(s, container, 0x10000, size=2 * PAGE)
    map_dma(s, container, 0x20000, page=4)
    unmap_dma(s, container, **{"iova": 0x10000, "size": 2 * PAGE, **fields})
    map_dma(s, container, 0x10000)
    map_dma(s, container, 0x11000)
    map_dma(s, container, 0x20000)


@sequences(VERSIONS)
def unmap_neighbours_in_one_go(s: Script, kind: int) -> None:
    container, _ = container_of(s, "edu", kind=kind)
    for number in range(4):
        map_dma(s, container, 0x10000 + number * PAGE, page=number)
    unmap_dma(s, container, 0x11000, 2 * PAGE)
    unmap_dma(s, container, 0x10000, 4 * PAGE)
    unmap_dma(s, container, 0x10000, 4 * PAGE)


@sequence
def unmap_where_nothing_was_ever_mapped(s: Script) -> None:
    container, _ = container_of(s, "edu")
    unmap_dma(s, container, 0, PAGE)
    unmap_dma(s, container, 0, 0, flags=UNMAP_ALL)


# -- new addresses ---------------------------------------------------------------------------------
@sequence
def a_new_address_for_a_mapping(s: Script) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000, size=2 * PAGE)
    map_dma(s, container, 0x10000, page=8, size=2 * PAGE, flags=MAP_VADDR)
    unmap_dma(s, container, 0x10000, 2 * PAGE, flags=UNMAP_VADDR)
    unmap_dma(s, container, 0x10000, 2 * PAGE, flags=UNMAP_VADDR)
    map_dma(s, container, 0x10000, page=8, size=PAGE, flags=MAP_VADDR)
    map_dma(s, container, 0x11000, page=8, size=PAGE, flags=MAP_VADDR)
    map_dma(s, container, 0x30000, page=8, size=PAGE, flags=MAP_VADDR)
    map_dma(s, container, 0x10000, page=8, size=2 * PAGE)
    map_dma(s, container, 0x10000, page=8, size=2 * PAGE, flags=MAP_VADDR)
    unmap_dma(s, container, 0x10000, 2 * PAGE)


@sequence
def a_group_joins_while_addresses_are_taken_away(s: Script) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000)
    unmap_dma(s, container, 0x10000, flags=UNMAP_VADDR)
    group = group_of(s, "nvme")
    set_container(s, group, container)
    map_dma(s, container, 0x10000, flags=MAP_VADDR)
    set_container(s, group, container)


@sequence
def addresses_are_taken_away_as_far_as_they_are_there(s: Script) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000)
    map_dma(s, container, 0x20000)
    unmap_dma(s, container, 0x20000, flags=UNMAP_VADDR)
    unmap_dma(s, container, 0, 0, flags=UNMAP_VADDR | UNMAP_ALL)
    map_dma(s, container, 0x10000, flags=MAP_VADDR)
    unmap_dma(s, container, 0x10000)
    unmap_dma(s, container, 0x20000)


# -- dirty pages -----------------------------------------------------------------------------------
START, STOP = v.VFIO_IOMMU_DIRTY_PAGES_FLAG_START, v.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
GET = v.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP


def dirty(s: Script, container: int, flags: int, argsz: int = 8, tail: bytes = b"") -> None:
    wanted = v.vfio_iommu_type1_dirty_bitmap(argsz=argsz, flags=flags)
    s.ioctl(container, v.VFIO_IOMMU_DIRTY_PAGES, wanted, tail or bytes(40))


@sequences(
    {
        "nothing": {"flags": 0},
        "start": {"flags": START},
        "stop": {"flags": STOP},
        "start and stop": {"flags": START | STOP},
        "start and get": {"flags": START | GET},
        "something unknown": {"flags": 8},
        "start with a short struct": {"flags": START, "argsz": 7},
        "get with a short struct": {"flags": GET, "argsz": 47},
    }
)
def dirty_pages(s: Script, flags: int, argsz: int = 8) -> None:
    container, _ = container_of(s, "edu")
    dirty(s, container, flags, argsz)
    dirty(s, container, flags, argsz)


@sequence
def dirty_pages_of_version_1(s: Script) -> None:
    container, _ = container_of(s, "edu", kind=V1)
    dirty(s, container, START)
    dirty(s, container, 0)
    dirty(s, container, START, argsz=4)


BITMAPS: dict[str, dict[str, int]] = {
    "of both pages": {},
    "of one page": {"size": PAGE},
    "of a range with holes": {"iova": 0xE000, "size": 8 * PAGE},
    "of a range without mappings": {"iova": 0x40000},
    "before a mapping": {"iova": 0xF000, "size": PAGE},
    "of size zero": {"size": 0},
    "that wraps": {"iova": END - PAGE},
    "that is not aligned": {"iova": 0x10800},
    "whose size is not aligned": {"size": PAGE + 1},
    "of large pages": {"pgsize": 2 * PAGE},
    "of pages of size zero": {"pgsize": 0},
    "of half pages": {"pgsize": PAGE // 2},
    "with no room": {"room": 0},
    "with room for half a word": {"room": 4},
    "with too much room": {"room": (256 << 20) + 1},
    "where nothing can be written": {"data": NOTHING},
    "at address zero": {"data": 0},
    "where there can be no memory": {"data": END - PAGE},
}


@sequences({name: {"fields": fields} for name, fields in BITMAPS.items()})
def a_bitmap(s: Script, fields: dict[str, int]) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000, size=2 * PAGE)
    get = {"iova": 0x10000, "size": 2 * PAGE, "pgsize": PAGE, "room": 8, "data": s.memory.page(9)}
    get.update(fields)
    words = [get[name] for name in ("iova", "size", "pgsize", "room", "data")]
    dirty(s, container, GET, 48, struct.pack("=5Q", *words))
    dirty(s, container, START)
    s.memory.store(s.memory.page(9), b"\xf0" * 16)
    dirty(s, container, GET, 48, struct.pack("=5Q", *words))
    s.look(s.memory.page(9), 16)


@sequences({name: {"fields": fields} for name, fields in BITMAPS.items()})
def unmap_with_a_bitmap(s: Script, fields: dict[str, int]) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000, size=2 * PAGE)
    get = {"iova": 0x10000, "size": 2 * PAGE, "pgsize": PAGE, "room": 8, "data": s.memory.page(9)}
    get.update(fields)
    if get["pgsize"] == 0:
        get["pgsize"] = 1  # the kernel shifts by the place of the lowest bit, which zero has not
    tail = struct.pack("=3Q", get["pgsize"], get["room"], get["data"])
    for flags in (STOP, START):
        dirty(s, container, flags)
        s.memory.store(s.memory.page(9), b"\xf0" * 16)
        wanted = v.vfio_iommu_type1_dma_unmap(
            argsz=48, flags=UNMAP_DIRTY, iova=get["iova"], size=get["size"]
        )
        s.ioctl(container, v.VFIO_IOMMU_UNMAP_DMA, wanted, tail)
        s.look(s.memory.page(9), 16)


# -- limits ----------------------------------------------------------------------------------------
UNPRIVILEGED = Privileges(without=CAP_IPC_LOCK, memlock=4 * PAGE)


@with_privileges(UNPRIVILEGED)
def memory_may_be_locked_up_to_the_limit(s: Script) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000, size=5 * PAGE)
    map_dma(s, container, 0x10000, size=4 * PAGE)
    map_dma(s, container, 0x20000, page=8)
    unmap_dma(s, container, 0x10000, 4 * PAGE)
    map_dma(s, container, 0x20000, page=8)


@with_privileges(UNPRIVILEGED)
def a_page_counts_each_time_it_is_mapped(s: Script) -> None:
    container, _ = container_of(s, "edu")
    for number in range(5):
        map_dma(s, container, 0x10000 + number * PAGE)


@with_privileges(Privileges(memlock=PAGE))
def the_limit_is_not_for_the_privileged(s: Script) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000, size=8 * PAGE)


@with_privileges(UNPRIVILEGED)
def a_group_that_joins_pins_nothing_again(s: Script) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000, size=4 * PAGE)
    set_container(s, group_of(s, "nvme"), container)


# -- memory of devices -----------------------------------------------------------------------------
@sequence
def registers_of_a_device_can_be_mapped(s: Script) -> None:
    container, _ = container_of(s, "nvme")
    group = group_of(s, "ivshmem")
    set_container(s, group, container)
    device = s.device_fd(group, "ivshmem")
    s.pwrite(device, b"\x02\x00", (7 << 40) + 4)
    bar = s.mmap(device, 1 << 20, 2 << 40)
    map_dma(s, container, 0x10000, vaddr=s.address(bar))
    unmap_dma(s, container, 0x10000)


@sequence
def mappings_of_the_last_group_are_gone(s: Script) -> None:
    container, group = container_of(s, "edu")
    map_dma(s, container, 0x10000)
    s.ioctl(group, v.VFIO_GROUP_UNSET_CONTAINER)
    set_container(s, group, container)
    s.ioctl(container, v.VFIO_SET_IOMMU, V2)
    map_dma(s, container, 0x10000)
    type1_info(s, container)


@sequence
def many_mappings(s: Script) -> None:
    container, _ = container_of(s, "edu")
    for number in range(0, 40, 2):
        map_dma(s, container, 0x100000 + number * PAGE, page=number)
    for number in range(0, 40, 4):
        unmap_dma(s, container, 0x100000 + number * PAGE)
    unmap_dma(s, container, 0x100000, 40 * PAGE)
