"""/dev/iommu: its objects, its address spaces, and the sizes of its structs."""

from __future__ import annotations

import ctypes
import struct

from tests.reality.memory import NOTHING, READ_ONLY
from tests.reality.parts import (
    FIXED,
    INTERRUPTS,
    IOMMUFD,
    MIB,
    PAGE,
    REACHES,
    READABLE,
    WRITEABLE,
    attach,
    attached_cdev,
    cdev_of,
    destroy,
    ioas_map,
    ioas_unmap,
    iova_ranges,
    new_ioas,
)
from tests.reality.script import Script
from tests.reality.sequence import (
    CAP_IPC_LOCK,
    CAP_SYS_RESOURCE,
    Privileges,
    sequence,
    sequences,
    with_privileges,
)
from vfiocore.uapi import iommufd as i
from vfiocore.uapi import vfio as v
from vfiocore.uapi.ioctl import _IO, _IOWR

END = 1 << 64
ALL = END - 1


# -- the size of a struct --------------------------------------------------------------------------
STRUCTS: dict[str, tuple[int, type[ctypes.Structure]]] = {
    "destroy": (i.IOMMU_DESTROY, i.iommu_destroy),
    "ioas alloc": (i.IOMMU_IOAS_ALLOC, i.iommu_ioas_alloc),
    "allow iovas": (i.IOMMU_IOAS_ALLOW_IOVAS, i.iommu_ioas_allow_iovas),
    "copy": (i.IOMMU_IOAS_COPY, i.iommu_ioas_copy),
    "iova ranges": (i.IOMMU_IOAS_IOVA_RANGES, i.iommu_ioas_iova_ranges),
    "map": (i.IOMMU_IOAS_MAP, i.iommu_ioas_map),
    "unmap": (i.IOMMU_IOAS_UNMAP, i.iommu_ioas_unmap),
    "option": (i.IOMMU_OPTION, i.iommu_option),
    "vfio ioas": (i.IOMMU_VFIO_IOAS, i.iommu_vfio_ioas),
    "hwpt alloc": (i.IOMMU_HWPT_ALLOC, i.iommu_hwpt_alloc),
    "hw info": (i.IOMMU_GET_HW_INFO, i.iommu_hw_info),
    "set dirty tracking": (i.IOMMU_HWPT_SET_DIRTY_TRACKING, i.iommu_hwpt_set_dirty_tracking),
    "get dirty bitmap": (i.IOMMU_HWPT_GET_DIRTY_BITMAP, i.iommu_hwpt_get_dirty_bitmap),
    "fault queue": (i.IOMMU_FAULT_QUEUE_ALLOC, i.iommu_fault_alloc),
    "map file": (i.IOMMU_IOAS_MAP_FILE, i.iommu_ioas_map_file),
    "change process": (i.IOMMU_IOAS_CHANGE_PROCESS, i.iommu_ioas_change_process),
}


@sequences(
    {
        name: {"request": request, "kind": kind}
        for name, (request, kind) in STRUCTS.items()
        if name != "fault queue"  # it would leave an fd open
    }
)
def a_struct_of_every_size(s: Script, request: int, kind: type[ctypes.Structure]) -> None:
    context = s.open(IOMMUFD)
    size = ctypes.sizeof(kind)
    for claimed in range(0, size + 1, 4):
        s.ioctl(context, request, kind(size=claimed))
    s.ioctl(context, request, kind(size=size + 8), bytes(8))
    s.ioctl(context, request, kind(size=size + 8), bytes(7) + b"\1")
    s.ioctl(context, request, kind(size=5000), bytes(5000))


@sequences({name: {"request": request, "kind": kind} for name, (request, kind) in STRUCTS.items()})
def a_struct_that_cannot_be_read(s: Script, request: int, kind: type[ctypes.Structure]) -> None:
    context = s.open(IOMMUFD)
    whole = bytes(kind(size=ctypes.sizeof(kind)))
    s.ioctl(context, request, NOTHING)
    s.ioctl(context, request, s.memory.before_nothing(whole[:4]))
    s.ioctl(context, request, s.memory.before_nothing(whole[:-1]))
    longer = bytes(kind(size=ctypes.sizeof(kind) + 1))
    s.ioctl(context, request, s.memory.before_nothing(longer))


@sequence
def requests_that_do_not_exist(s: Script) -> None:
    context = s.open(IOMMUFD)
    for number in (0x7F, 0x95, 0xFF):
        s.ioctl(context, _IO(i.IOMMUFD_TYPE, number), i.iommu_destroy(size=8))
    for request in (_IO(ord("!"), 0x81), _IOWR(i.IOMMUFD_TYPE, 0x81, 12)):
        s.ioctl(context, request, i.iommu_ioas_alloc(size=12))
        s.ioctl(context, request)
    s.ioctl(context, v.VFIO_GROUP_GET_STATUS)
    s.ioctl(context, v.VFIO_DEVICE_GET_INFO)


@sequence
def the_file_cannot_be_read_or_mapped(s: Script) -> None:
    context = s.open(IOMMUFD)
    s.pread(context, 16, 0)
    s.pwrite(context, bytes(16), 0)
    s.mmap(context, PAGE)
    s.mmap(context, PAGE, PAGE)
    s.mmap(context, PAGE, flags=2)
    s.mmap(context, PAGE, prot=4)
    s.mmap(context, 100)


# -- objects ---------------------------------------------------------------------------------------
@sequence
def ids_are_the_lowest_that_are_free(s: Script) -> None:
    context = s.open(IOMMUFD)
    ids = [new_ioas(s, context) for _ in range(3)]
    destroy(s, context, ids[1])
    new_ioas(s, context)
    new_ioas(s, context)
    destroy(s, context, ids[0])
    destroy(s, context, ids[0])


@sequences({str(ident): {"ident": ident} for ident in (0, 1, 2, 99, 1 << 31, (1 << 32) - 1)})
def destroy_what_is_not_there(s: Script, ident: int) -> None:
    destroy(s, s.open(IOMMUFD), ident)


@sequence
def an_ioas_with_flags(s: Script) -> None:
    context = s.open(IOMMUFD)
    for flags in (1, 1 << 31):
        s.ioctl(context, i.IOMMU_IOAS_ALLOC, i.iommu_ioas_alloc(size=12, flags=flags))


@sequence
def contexts_share_no_objects(s: Script) -> None:
    first, second = s.open(IOMMUFD), s.open(IOMMUFD)
    ioas = new_ioas(s, first)
    iova_ranges(s, second, ioas)
    destroy(s, second, ioas)


@sequence
def an_ioas_with_mappings_can_be_destroyed(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, 0x10000)
    destroy(s, context, ioas)
    ioas_unmap(s, context, ioas, 0x10000)


@sequence
def what_is_in_use_cannot_be_destroyed(s: Script) -> None:
    context, device, _ = attached_cdev(s, "edu")
    for ident in range(1, 5):
        destroy(s, context, ident)
    s.close(device)
    for ident in range(1, 5):
        destroy(s, context, ident)
    new_ioas(s, context)


@sequence
def a_device_id_where_an_ioas_is_wanted(s: Script) -> None:
    context, _, device = cdev_of(s, "edu")
    iova_ranges(s, context, device)
    ioas_map(s, context, device, 0x10000)
    ioas_unmap(s, context, device, 0x10000)
    destroy(s, context, device)


# -- ranges ----------------------------------------------------------------------------------------
@sequences({str(room): {"room": room} for room in range(4)})
def ranges_with_room_for(s: Script, room: int) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    iova_ranges(s, context, ioas, room)
    attached, _, ioas = attached_cdev(s, "edu")
    iova_ranges(s, attached, ioas, room)


@sequence
def ranges_with_mistakes(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    iova_ranges(s, context, ioas + 1)
    iova_ranges(s, context, 0)
    iova_ranges(s, context, ioas, allowed_iovas=NOTHING)
    reserved = struct.pack("=4I2Q", 32, ioas, 4, 1, s.memory.page(0), 0)
    s.ioctl(context, i.IOMMU_IOAS_IOVA_RANGES, i.iommu_ioas_iova_ranges.from_buffer_copy(reserved))


def allow(s: Script, context: int, ioas: int, *ranges: tuple[int, int], **more: int) -> None:
    where = s.memory.page(50)
    s.memory.store(where, b"".join(struct.pack("=QQ", *pair) for pair in ranges))
    fields = {"size": 24, "ioas_id": ioas, "num_iovas": len(ranges), "allowed_iovas": where, **more}
    s.ioctl(context, i.IOMMU_IOAS_ALLOW_IOVAS, i.iommu_ioas_allow_iovas(**fields))


ALLOWED: dict[str, list[tuple[int, int]]] = {
    "nothing": [],
    "one range": [(0x100000, 0x1FFFFF)],
    "a range of one byte": [(0x100000, 0x100000)],
    "a range that ends before it begins": [(0x200000, 0x100000)],
    "two ranges": [(0x100000, 0x1FFFFF), (0x300000, 0x3FFFFF)],
    "two ranges the other way round": [(0x300000, 0x3FFFFF), (0x100000, 0x1FFFFF)],
    "two that touch": [(0x100000, 0x1FFFFF), (0x200000, 0x3FFFFF)],
    "two that overlap": [(0x100000, 0x200000), (0x200000, 0x3FFFFF)],
    "the same twice": [(0x100000, 0x1FFFFF), (0x100000, 0x1FFFFF)],
    "everything": [(0, ALL)],
    **{
        f"where {machine} interrupts go": [(at, at + MIB - 1)] for machine, at in INTERRUPTS.items()
    },
    **{f"what {bits} do not reach": [(end, end + PAGE - 1)] for bits, end in REACHES.items()},
}


@sequences({name: {"ranges": ranges} for name, ranges in ALLOWED.items()})
def allow_for_nobody(s: Script, ranges: list[tuple[int, int]]) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    allow(s, context, ioas, *ranges)
    iova_ranges(s, context, ioas)
    automatic = READABLE | WRITEABLE
    ioas_map(s, context, ioas, 0, flags=automatic)
    ioas_map(s, context, ioas, 0, page=1, flags=automatic)
    ioas_map(s, context, ioas, 0x500000)


@sequences({name: {"ranges": ranges} for name, ranges in ALLOWED.items()})
def allow_when_a_device_is_attached(s: Script, ranges: list[tuple[int, int]]) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    allow(s, context, ioas, *ranges)
    iova_ranges(s, context, ioas)


@sequences({f"on {machine}": {"window": at} for machine, at in INTERRUPTS.items()})
def allow_where_interrupts_go_and_attach_a_device(s: Script, window: int) -> None:
    context, device, _ = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    allow(s, context, ioas, (window, window + MIB - 1))
    attach(s, device, ioas)
    allow(s, context, ioas)
    attach(s, device, ioas)


@sequence
def allow_with_mistakes(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    allow(s, context, ioas + 1, (0, PAGE))
    allow(s, context, ioas, (0, PAGE), allowed_iovas=NOTHING)
    reserved = struct.pack("=4IQ", 24, ioas, 0, 1, s.memory.page(0))
    s.ioctl(context, i.IOMMU_IOAS_ALLOW_IOVAS, i.iommu_ioas_allow_iovas.from_buffer_copy(reserved))


# -- map -------------------------------------------------------------------------------------------
MAPS: dict[str, dict[str, int]] = {
    "nothing wrong": {},
    "an unknown flag": {"flags": 8 | FIXED | READABLE},
    "no access": {"flags": FIXED},
    "no flag": {"flags": 0},
    "reading only": {"flags": FIXED | READABLE},
    "writing only": {"flags": FIXED | WRITEABLE},
    "an ioas that is not there": {"ioas_id": 99},
    "ioas zero": {"ioas_id": 0},
    "length zero": {"length": 0},
    "length of a byte": {"length": 1},
    "length of a page and a half": {"length": PAGE + PAGE // 2},
    "the greatest length": {"length": ALL},
    "iova in a page": {"iova": 0x10800},
    "iova at an odd byte": {"iova": 0x10001},
    "the greatest iova": {"iova": ALL},
    "iova zero": {"iova": 0},
    "the last page of all": {"iova": END - PAGE},
    "across the last page of all": {"iova": END - PAGE, "length": 2 * PAGE},
    "address in a page": {"user_va": 0x7000_0800},
    "address that wraps": {"user_va": END - PAGE, "length": 2 * PAGE},
    "the last address": {"user_va": END - PAGE},
    "where no memory is": {"user_va": NOTHING},
    "address zero": {"user_va": 0},
    "memory that cannot be written": {"user_va": READ_ONLY},
    "memory that cannot be written, to read": {"user_va": READ_ONLY, "flags": FIXED | READABLE},
    "a second page that is not there": {"user_va": READ_ONLY, "length": 2 * PAGE},
    **{f"where {machine} interrupts go": {"iova": at} for machine, at in INTERRUPTS.items()},
    **{
        f"into where {machine} interrupts go": {"iova": at - PAGE, "length": 2 * PAGE}
        for machine, at in INTERRUPTS.items()
    },
    **{f"the last page of {bits}": {"iova": end - PAGE} for bits, end in REACHES.items()},
    **{f"the first page beyond {bits}": {"iova": end} for bits, end in REACHES.items()},
    "a place of the kernel's choice": {"flags": READABLE | WRITEABLE, "iova": 0},
    "a place of the kernel's choice, for half a page": {"flags": READABLE, "length": PAGE // 2},
    "a place of the kernel's choice, for half pages": {
        "flags": READABLE,
        "user_va": 0x7000_0800,
        "length": PAGE,
    },
    "a place of the kernel's choice, for many pages": {"flags": READABLE, "length": 33 * PAGE},
    "a place of the kernel's choice, for too much": {"flags": READABLE, "length": 1 << 63},
    "a place of the kernel's choice, for all": {"flags": READABLE, "length": END - PAGE},
    "no access and no ioas": {"flags": FIXED, "ioas_id": 99},
    "no length and no ioas": {"length": 0, "ioas_id": 99},
    "no length and a wrap": {"length": 0, "user_va": ALL},
    "reserved words": {"reserved": 1},
}


@sequences({name: {"fields": dict(fields)} for name, fields in MAPS.items()})
def map_with(s: Script, fields: dict[str, int]) -> None:
    context = s.open(IOMMUFD)
    _map_case(s, context, new_ioas(s, context), fields)


@sequences({name: {"fields": dict(fields)} for name, fields in MAPS.items()})
def map_for_a_device_with(s: Script, fields: dict[str, int]) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    _map_case(s, context, ioas, fields)


def _map_case(s: Script, context: int, ioas: int, fields: dict[str, int]) -> None:
    if "reserved" in fields:
        words = (40, FIXED | READABLE, ioas, 1, s.memory.page(0), PAGE, 0x10000)
        raw = struct.pack("=4I3Q", *words)
        s.ioctl(context, i.IOMMU_IOAS_MAP, i.iommu_ioas_map.from_buffer_copy(raw))
        return
    ioas_map(s, context, **{"ioas": ioas, "iova": 0x10000, **fields})
    ioas_unmap(s, context, ioas, 0, ALL)


OVERLAPS = {
    "the same": (0x10000, 2 * PAGE),
    "its first page": (0x10000, PAGE),
    "its second page": (0x11000, PAGE),
    "its end and more": (0x11000, 2 * PAGE),
    "all around it": (0xF000, 4 * PAGE),
    "right before it": (0xF000, PAGE),
    "right behind it": (0x12000, PAGE),
}


@sequences({name: {"iova": iova, "length": size} for name, (iova, size) in OVERLAPS.items()})
def map_beside_a_mapping(s: Script, iova: int, length: int) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, 0x10000, length=2 * PAGE)
    ioas_map(s, context, ioas, iova, length=length)


@sequence
def the_kernel_chooses_holes(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, 0x1000)
    ioas_map(s, context, ioas, 0x3000)
    for length in (1, 2, 1, 4, 16, 1):
        ioas_map(s, context, ioas, 0, flags=READABLE, length=length * PAGE)
    ioas_unmap(s, context, ioas, 0x3000)
    ioas_map(s, context, ioas, 0, flags=READABLE)


# -- unmap -----------------------------------------------------------------------------------------
UNMAPS: dict[str, tuple[int, int]] = {
    "the whole mapping": (0x10000, 2 * PAGE),
    "its first page": (0x10000, PAGE),
    "its second page": (0x11000, PAGE),
    "it and more": (0xF000, 4 * PAGE),
    "both": (0x10000, 0x11000),
    "the first and a part of the second": (0x10000, 0x10800),
    "the second and a part of the first": (0x11000, 0x11000),
    "nothing that is mapped": (0x40000, PAGE),
    "no length": (0x10000, 0),
    "a wrap": (END - PAGE, 2 * PAGE),
    "the last page of all": (END - PAGE, PAGE),
    "everything": (0, ALL),
    "everything but by a page": (0, END - PAGE),
    "the greatest length from one on": (1, ALL),
    "the greatest iova": (ALL, 1),
    "one byte": (0x10000, 1),
}


@sequences({name: {"iova": iova, "length": size} for name, (iova, size) in UNMAPS.items()})
def unmap(s: Script, iova: int, length: int) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, 0x10000, length=2 * PAGE)
    ioas_map(s, context, ioas, 0x20000, page=4)
    ioas_unmap(s, context, ioas, iova, length)
    for place in (0x10000, 0x11000, 0x20000):
        ioas_map(s, context, ioas, place)


@sequence
def unmap_with_mistakes(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    ioas_unmap(s, context, ioas + 1, 0x10000)
    ioas_unmap(s, context, ioas, 0, ALL)
    ioas_unmap(s, context, 0, 0, ALL)


# -- copy ------------------------------------------------------------------------------------------
COPIES: dict[str, dict[str, int]] = {
    "all of it": {},
    "its first page": {"length": PAGE},
    "its second page": {"src_iova": 0x11000, "length": PAGE},
    "more than it": {"length": 3 * PAGE},
    "two neighbours": {"src_iova": 0x20000, "length": 2 * PAGE},
    "over a hole": {"src_iova": 0x10000, "length": 0x11000},
    "what is not mapped": {"src_iova": 0x40000},
    "from itself": {"dst_ioas_id": 1},
    "over itself": {"dst_ioas_id": 1, "dst_iova": 0x10000},
    "no length": {"length": 0},
    "the greatest length": {"length": ALL},
    "the greatest source": {"src_iova": ALL},
    "the greatest target": {"dst_iova": ALL},
    "a source that wraps": {"src_iova": END - PAGE},
    "an odd length": {"length": 0x800},
    "an odd source": {"src_iova": 0x10800, "length": PAGE},
    "an odd target": {"dst_iova": 0x80800},
    "no access": {"flags": FIXED},
    "an unknown flag": {"flags": FIXED | READABLE | 8},
    "no source": {"src_ioas_id": 99},
    "no target": {"dst_ioas_id": 99},
    "neither": {"src_ioas_id": 98, "dst_ioas_id": 99},
    "what may only be read, to write": {"src_iova": 0x30000, "length": PAGE},
    "what may only be read, to read": {
        "src_iova": 0x30000,
        "length": PAGE,
        "flags": FIXED | READABLE,
    },
    "to a place of the kernel's choice": {"flags": READABLE, "dst_iova": 0},
}


@sequences({name: {"fields": fields} for name, fields in COPIES.items()})
def copy(s: Script, fields: dict[str, int]) -> None:
    context = s.open(IOMMUFD)
    source, target = new_ioas(s, context), new_ioas(s, context)
    ioas_map(s, context, source, 0x10000, length=2 * PAGE)
    ioas_map(s, context, source, 0x20000, page=4)
    ioas_map(s, context, source, 0x21000, page=8)
    ioas_map(s, context, source, 0x30000, user_va=READ_ONLY, flags=FIXED | READABLE)
    wanted = {
        "size": 40,
        "flags": FIXED | READABLE | WRITEABLE,
        "dst_ioas_id": target,
        "src_ioas_id": source,
        "length": 2 * PAGE,
        "dst_iova": 0x80000,
        "src_iova": 0x10000,
        **fields,
    }
    s.ioctl(context, i.IOMMU_IOAS_COPY, i.iommu_ioas_copy(**wanted))
    ioas_unmap(s, context, source, 0, ALL)
    ioas_unmap(s, context, target, 0, ALL)


# -- files -----------------------------------------------------------------------------------------
FILES: dict[str, dict[str, int]] = {
    "all of it": {},
    "its second page": {"start": PAGE, "length": PAGE},
    "beyond its end": {"length": 3 * PAGE},
    "after its end": {"start": 2 * PAGE, "length": PAGE},
    "an odd start": {"start": 0x800, "length": PAGE},
    "no length": {"length": 0},
    "the greatest length": {"length": ALL},
    "a wrap": {"start": END - PAGE},
    "no access": {"flags": FIXED},
    "an unknown flag": {"flags": 8 | FIXED | READABLE},
    "a closed fd": {"fd": 999},
    "minus one": {"fd": -1},
    "an ioas that is not there": {"ioas_id": 99},
    "no fd and no length": {"fd": 999, "length": 0},
    "a place of the kernel's choice": {"flags": READABLE, "iova": 0},
}


@sequences({name: {"fields": fields} for name, fields in FILES.items()})
def map_a_file(s: Script, fields: dict[str, int]) -> None:
    context = s.open(IOMMUFD)
    _map_file(s, context, new_ioas(s, context), {"fd": s.memfd(2 * PAGE), **fields})


@sequences({name: {"fields": fields} for name, fields in FILES.items()})
def map_a_file_for_a_device(s: Script, fields: dict[str, int]) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    _map_file(s, context, ioas, {"fd": s.memfd(2 * PAGE), **fields})


@sequence
def map_what_is_no_memory_file(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    for fd in (s.eventfd(), context, s.open("/dev/null")):
        _map_file(s, context, ioas, {"fd": fd})


def _map_file(s: Script, context: int, ioas: int, fields: dict[str, int]) -> None:
    wanted = {
        "size": 40,
        "flags": FIXED | READABLE | WRITEABLE,
        "ioas_id": ioas,
        "length": 2 * PAGE,
        "iova": 0x10000,
        **fields,
    }
    s.ioctl(context, i.IOMMU_IOAS_MAP_FILE, i.iommu_ioas_map_file(**wanted))
    ioas_unmap(s, context, ioas, 0, ALL)


@sequence
def another_process(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    change = i.IOMMU_IOAS_CHANGE_PROCESS
    s.ioctl(context, change, i.iommu_ioas_change_process(size=8))
    wanted = {"size": 40, "flags": READABLE, "ioas_id": ioas, "length": PAGE, "fd": s.memfd(PAGE)}
    s.ioctl(context, i.IOMMU_IOAS_MAP_FILE, i.iommu_ioas_map_file(**wanted))
    s.ioctl(context, change, i.iommu_ioas_change_process(size=8))
    ioas_map(s, context, ioas, 0x10000)
    s.ioctl(context, change, i.iommu_ioas_change_process(size=8))
    s.ioctl(context, change, i.iommu_ioas_change_process.from_buffer_copy(struct.pack("=II", 8, 1)))


# -- options ---------------------------------------------------------------------------------------
RLIMIT, HUGE = i.IOMMU_OPTION_RLIMIT_MODE, i.IOMMU_OPTION_HUGE_PAGES
SET, GET = i.IOMMU_OPTION_OP_SET, i.IOMMU_OPTION_OP_GET


def option(s: Script, context: int, number: int, op: int, ident: int = 0, value: int = 0) -> None:
    wanted = i.iommu_option(size=24, option_id=number, op=op, object_id=ident, val64=value)
    s.ioctl(context, i.IOMMU_OPTION, wanted)


@sequence
def who_is_charged_for_memory(s: Script) -> None:
    context = s.open(IOMMUFD)
    option(s, context, RLIMIT, GET)
    for value in (1, 2, 0, 1):
        option(s, context, RLIMIT, SET, value=value)
    option(s, context, RLIMIT, GET)
    option(s, context, RLIMIT, GET, ident=1)
    option(s, context, RLIMIT, SET, ident=1)
    option(s, context, RLIMIT, 2)
    option(s, context, 9, GET)
    new_ioas(s, context)
    option(s, context, RLIMIT, SET, value=0)
    option(s, context, RLIMIT, SET, value=2)
    option(s, context, RLIMIT, GET)


@with_privileges(Privileges(without=CAP_SYS_RESOURCE))
def who_is_charged_is_for_the_privileged(s: Script) -> None:
    context = s.open(IOMMUFD)
    option(s, context, RLIMIT, SET, value=1)
    option(s, context, RLIMIT, SET, value=2)
    option(s, context, RLIMIT, GET)


@sequence
def large_pages_can_be_switched_off(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    option(s, context, HUGE, GET, ioas)
    for value in (0, 2, 1, 0):
        option(s, context, HUGE, SET, ioas, value)
        option(s, context, HUGE, GET, ioas)
    option(s, context, HUGE, GET, ioas + 1)
    option(s, context, HUGE, GET, 0)
    option(s, context, HUGE, 7, ioas)
    iova_ranges(s, context, ioas)


@sequence
def large_pages_stay_when_they_are_in_use(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    option(s, context, HUGE, SET, ioas, 0)
    option(s, context, HUGE, SET, ioas, 1)
    ioas_map(s, context, ioas, 0x10000)
    option(s, context, HUGE, SET, ioas, 0)
    option(s, context, HUGE, GET, ioas)
    iova_ranges(s, context, ioas)


@sequence
def an_option_with_reserved_words(s: Script) -> None:
    raw = struct.pack("=IIHHIQ", 24, RLIMIT, GET, 1, 0, 0)
    s.ioctl(s.open(IOMMUFD), i.IOMMU_OPTION, i.iommu_option.from_buffer_copy(raw))


# -- memory that may be locked ---------------------------------------------------------------------
UNPRIVILEGED = Privileges(without=CAP_IPC_LOCK, memlock=4 * PAGE)


@with_privileges(UNPRIVILEGED)
def memory_is_charged_when_a_device_needs_it(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, 0x10000, length=8 * PAGE)
    device = s.open(s.roles.cdev("edu"))
    s.ioctl(
        device,
        v.VFIO_DEVICE_BIND_IOMMUFD,
        v.vfio_device_bind_iommufd(argsz=16, iommufd=context),
    )
    attach(s, device, ioas)
    ioas_unmap(s, context, ioas, 0, ALL)
    attach(s, device, ioas)
    ioas_map(s, context, ioas, 0x10000, length=5 * PAGE)
    ioas_map(s, context, ioas, 0x10000, length=4 * PAGE)
    ioas_map(s, context, ioas, 0x20000, page=8)
    ioas_unmap(s, context, ioas, 0x10000, 4 * PAGE)
    ioas_map(s, context, ioas, 0x20000, page=8)


@with_privileges(UNPRIVILEGED)
def a_page_counts_each_time_it_is_mapped(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    for number in range(5):
        ioas_map(s, context, ioas, 0x10000 + number * PAGE)


@with_privileges(UNPRIVILEGED)
def a_copy_is_not_charged_again(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    ioas_map(s, context, ioas, 0x10000, length=4 * PAGE)
    wanted = i.iommu_ioas_copy(
        size=40,
        flags=FIXED | READABLE,
        dst_ioas_id=ioas,
        src_ioas_id=ioas,
        length=4 * PAGE,
        dst_iova=0x80000,
        src_iova=0x10000,
    )
    s.ioctl(context, i.IOMMU_IOAS_COPY, wanted)
    ioas_unmap(s, context, ioas, 0x10000, 4 * PAGE)
    ioas_map(s, context, ioas, 0x20000, page=8)


@with_privileges(Privileges(memlock=PAGE))
def the_privileged_are_not_charged(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    ioas_map(s, context, ioas, 0x10000, length=8 * PAGE)


# -- fault queues ----------------------------------------------------------------------------------
@sequence
def a_fault_queue(s: Script) -> None:
    context = s.open(IOMMUFD)
    wanted = i.iommu_fault_alloc(size=16)
    queue = s.fault_queue(context, wanted)
    s.pread(queue, 40, 0)
    s.pread(queue, 39, 0)
    s.pread(queue, 40, 8)
    s.pwrite(queue, bytes(8), 0)
    s.pwrite(queue, bytes(7), 0)
    s.read(queue, 40)
    s.read(queue, 80)
    s.read(queue, 39)
    s.write(queue, bytes(8))
    s.write(queue, bytes(7))
    s.write(queue, bytes(16))
    destroy(s, context, wanted.out_fault_id)
    s.close(queue)
    destroy(s, context, wanted.out_fault_id)


@sequence
def a_fault_queue_with_flags(s: Script) -> None:
    s.fault_queue(s.open(IOMMUFD), i.iommu_fault_alloc(size=16, flags=1))
