"""Device files: binding them to an iommufd, attaching them to address spaces, page tables."""

from __future__ import annotations

import struct

from tests.reality.memory import NOTHING
from tests.reality.parts import (
    INTERRUPTS,
    IOMMUFD,
    PAGE,
    REACHES,
    attach,
    attached_cdev,
    bind,
    cdev_of,
    container_of,
    destroy,
    detach,
    group_of,
    ioas_map,
    iova_ranges,
    new_ioas,
)
from tests.reality.script import Script
from tests.reality.sequence import sequence, sequences
from vfiocore.uapi import iommufd as i
from vfiocore.uapi import vfio as v
from vfiocore.uapi.ioctl import _IO


# -- before it is bound ----------------------------------------------------------------------------
@sequence
def a_device_file_that_is_not_bound_answers_nothing(s: Script) -> None:
    device = s.open(s.roles.cdev("edu"))
    s.ioctl(device, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))
    s.ioctl(device, v.VFIO_DEVICE_RESET)
    attach(s, device, 1)
    detach(s, device)
    s.ioctl(device, _IO(v.VFIO_TYPE, v.VFIO_BASE + 99))
    s.pread(device, 4, 7 << 40)
    s.pwrite(device, bytes(2), (7 << 40) + 4)
    s.mmap(device, PAGE)


BINDS: dict[str, dict[str, int]] = {
    "nothing wrong": {},
    "the oldest size": {"argsz": 16},
    "a size in between": {"argsz": 20},
    "a size too short": {"argsz": 15},
    "size zero": {"argsz": 0},
    "a newer size": {"argsz": 32},
    "no iommufd": {"iommufd": -1},
    "a closed fd": {"iommufd": 999},
    "an unknown flag": {"flags": 2},
    "an id to come": {"out_devid": 77},
    "a token where nothing is": {"flags": 1, "token_uuid_ptr": NOTHING},
    "a token that nobody asks for": {"flags": 1, "token_uuid_ptr": 0x7000_0000},
    "a pointer without its flag": {"token_uuid_ptr": 0x7000_0000},
    "an unknown flag and no iommufd": {"flags": 2, "iommufd": -1},
}


@sequences({name: {"fields": fields} for name, fields in BINDS.items()})
def bind_with(s: Script, fields: dict[str, int]) -> None:
    device = s.open(s.roles.cdev("edu"))
    wanted = v.vfio_device_bind_iommufd(**{"argsz": 24, "iommufd": s.open(IOMMUFD), **fields})
    s.ioctl(device, v.VFIO_DEVICE_BIND_IOMMUFD, wanted, bytes(8))
    s.ioctl(device, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))


@sequence
def bind_with_something_behind_the_struct(s: Script) -> None:
    device = s.open(s.roles.cdev("edu"))
    wanted = v.vfio_device_bind_iommufd(argsz=32, iommufd=s.open(IOMMUFD))
    s.ioctl(device, v.VFIO_DEVICE_BIND_IOMMUFD, wanted, bytes(7) + b"\1")
    s.ioctl(device, v.VFIO_DEVICE_BIND_IOMMUFD, NOTHING)


@sequences(
    {kind: {"kind": kind} for kind in ("an eventfd", "a container", "itself", "a memory file")}
)
def bind_to(s: Script, kind: str) -> None:
    device = s.open(s.roles.cdev("edu"))
    if kind == "an eventfd":
        bind(s, device, s.eventfd())
    elif kind == "a container":
        bind(s, device, s.open("/dev/vfio/vfio"))
    elif kind == "itself":
        bind(s, device, device)
    else:
        bind(s, device, s.memfd(PAGE))


@sequence
def bind_twice(s: Script) -> None:
    context, device, _ = cdev_of(s, "edu")
    bind(s, device, context)
    bind(s, device, s.open(IOMMUFD))


@sequence
def bind_a_second_file_of_the_device(s: Script) -> None:
    context, device, _ = cdev_of(s, "edu")
    second = s.open(s.roles.cdev("edu"))
    bind(s, second, context)
    bind(s, second, s.open(IOMMUFD))
    s.close(device)
    bind(s, second, context)


@sequence
def bind_while_the_group_is_open(s: Script) -> None:
    device = s.open(s.roles.cdev("edu"))
    group = group_of(s, "edu")
    context = s.open(IOMMUFD)
    bind(s, device, context)
    s.close(group)
    bind(s, device, context)


@sequence
def a_group_cannot_be_opened_while_its_device_is_bound(s: Script) -> None:
    _, device, _ = cdev_of(s, "edu")
    group_of(s, "edu")
    s.close(device)
    group_of(s, "edu")


@sequence
def a_group_cannot_be_opened_while_another_of_its_devices_is_bound(s: Script) -> None:
    cdev_of(s, "left")
    group_of(s, "right")


@sequence
def bind_two_devices_of_a_group_to_two_iommufds(s: Script) -> None:
    cdev_of(s, "left")
    cdev_of(s, "right")


@sequence
def bind_two_devices_of_a_group_to_one_iommufd(s: Script) -> None:
    context, _, _ = cdev_of(s, "left")
    other = s.open(s.roles.cdev("right"))
    bind(s, other, context)
    s.ioctl(other, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))


@sequence
def bind_a_device_of_a_group(s: Script) -> None:
    _, group = container_of(s, "edu")
    device = s.device_fd(group, "edu")
    bind(s, device, s.open(IOMMUFD))
    attach(s, device, 1)
    detach(s, device)


@sequence
def an_iommufd_closed_before_its_device(s: Script) -> None:
    context, device, ioas = attached_cdev(s, "edu")
    s.close(context)
    s.ioctl(device, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))
    attach(s, device, ioas)
    detach(s, device)


@sequence
def a_device_id_is_gone_with_its_file(s: Script) -> None:
    context, device, ident = cdev_of(s, "edu")
    destroy(s, context, ident)
    s.close(device)
    destroy(s, context, ident)
    new_ioas(s, context)


# -- attach ----------------------------------------------------------------------------------------
ATTACHES: dict[str, dict[str, int]] = {
    "nothing wrong": {},
    "the oldest size": {"argsz": 12},
    "a size too short": {"argsz": 11},
    "a newer size": {"argsz": 64},
    "an unknown flag": {"flags": 2},
    "a pasid": {"flags": 1, "pasid": 1},
    "a pasid and too short a size": {"flags": 1, "argsz": 12},
    "nothing": {"pt_id": 0},
    "what is not there": {"pt_id": 99},
    "the device itself": {"pt_id": 1},
}


@sequences({name: {"fields": fields} for name, fields in ATTACHES.items()})
def attach_to(s: Script, fields: dict[str, int]) -> None:
    context, device, _ = cdev_of(s, "edu")
    attach(s, device, **{"pt_id": new_ioas(s, context), **fields})


@sequences(
    {
        "nothing wrong": {},
        "the oldest size": {"argsz": 8},
        "a size too short": {"argsz": 7},
        "an unknown flag": {"flags": 2},
        "a pasid": {"flags": 1, "pasid": 1},
        "a pasid and too short a size": {"flags": 1, "argsz": 8},
    }
)
def detach_with(s: Script, **fields: int) -> None:
    _, device, _ = attached_cdev(s, "edu")
    detach(s, device, **fields)


@sequence
def detach_what_was_never_attached(s: Script) -> None:
    _, device, _ = cdev_of(s, "edu")
    detach(s, device)
    detach(s, device)


@sequence
def attach_from_where_nothing_can_be_read(s: Script) -> None:
    context, device, _ = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    s.ioctl(device, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT, NOTHING)
    s.ioctl(device, v.VFIO_DEVICE_DETACH_IOMMUFD_PT, NOTHING)
    where = s.memory.before_nothing(struct.pack("=III", 12, 0, ioas))
    s.ioctl(device, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT, where)
    destroy(s, context, ioas)


@sequence
def attach_again(s: Script) -> None:
    context, device, ioas = attached_cdev(s, "edu")
    attach(s, device, ioas)
    other = new_ioas(s, context)
    attach(s, device, other)
    destroy(s, context, ioas)
    destroy(s, context, other)
    detach(s, device)
    destroy(s, context, other)


@sequence
def attach_two_devices_to_one_ioas(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    other = s.open(s.roles.cdev("nvme"))
    bind(s, other, context)
    attach(s, other, ioas)


@sequence
def attach_two_devices_of_a_group(s: Script) -> None:
    context, device, ioas = attached_cdev(s, "left")
    other = s.open(s.roles.cdev("right"))
    bind(s, other, context)
    second = new_ioas(s, context)
    attach(s, other, second)
    attach(s, other, ioas)
    attach(s, other, second)
    attach(s, device, second)
    detach(s, other)
    detach(s, device)
    attach(s, other, second)


@sequences(
    {
        "where no memory is": {"user_va": NOTHING},
        **{f"where {machine} interrupts go": {"iova": at} for machine, at in INTERRUPTS.items()},
        **{f"beyond {bits}": {"iova": end} for bits, end in REACHES.items()},
        "half a page": {"length": PAGE // 2},
        "in a page": {"iova": 0x10800, "user_va": 0x7000_0800},
        "a page that is there": {},
    }
)
def attach_to_an_ioas_that_maps(s: Script, **fields: int) -> None:
    context, device, _ = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, **{"iova": 0x10000, **fields})
    attach(s, device, ioas)
    iova_ranges(s, context, ioas)
    destroy(s, context, ioas)


# -- page tables -----------------------------------------------------------------------------------
HWPTS: dict[str, dict[str, int]] = {
    "nothing wrong": {},
    "the oldest size": {"size": 24},
    "a size too short": {"size": 20},
    "dirty tracking": {"flags": i.IOMMU_HWPT_ALLOC_DIRTY_TRACKING},
    "a nesting parent": {"flags": i.IOMMU_HWPT_ALLOC_NEST_PARENT},
    "pasids": {"flags": i.IOMMU_HWPT_ALLOC_PASID},
    "faults without a queue": {"flags": i.IOMMU_HWPT_FAULT_ID_VALID, "fault_id": 99},
    "a parent with faults": {
        "flags": i.IOMMU_HWPT_FAULT_ID_VALID | i.IOMMU_HWPT_ALLOC_NEST_PARENT,
        "fault_id": 99,
    },
    "an unknown flag": {"flags": 1 << 8},
    "a device that is not there": {"dev_id": 99},
    "an ioas as the device": {"dev_id": 2},
    "an ioas that is not there": {"pt_id": 99},
    "the device as the ioas": {"pt_id": 1},
    "data without a type": {"data_len": 16, "data_uptr": 0x7000_0000},
    "a type without data": {"data_type": 1},
    "a type that nobody knows": {"data_type": 77, "data_len": 16, "data_uptr": 0x7000_0000},
    "a queue without its flag": {"fault_id": 5},
    "no device and no ioas": {"dev_id": 98, "pt_id": 99},
}


@sequences({name: {"fields": fields} for name, fields in HWPTS.items()})
def a_page_table_with(s: Script, fields: dict[str, int]) -> None:
    context, device, ident = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    wanted = i.iommu_hwpt_alloc(**{"size": 48, "dev_id": ident, "pt_id": ioas, **fields})
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, wanted, bytes(8))
    attach(s, device, int(wanted.out_hwpt_id))
    destroy(s, context, int(wanted.out_hwpt_id))
    destroy(s, context, ioas)


@sequences({"a word": {"place": 20}, "the last word": {"place": 44}})
def a_page_table_with_reserved(s: Script, place: int) -> None:
    context, _, ident = cdev_of(s, "edu")
    wanted = i.iommu_hwpt_alloc(size=48, dev_id=ident, pt_id=new_ioas(s, context))
    raw = bytearray(wanted)
    raw[place] = 1
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, i.iommu_hwpt_alloc.from_buffer(raw))


@sequence
def a_page_table_of_ones_own(s: Script) -> None:
    context, device, ident = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, 0x10000)
    wanted = i.iommu_hwpt_alloc(size=48, dev_id=ident, pt_id=ioas)
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, wanted)
    table = int(wanted.out_hwpt_id)
    attach(s, device, table)
    attach(s, device, table)
    destroy(s, context, table)
    attach(s, device, ioas)
    destroy(s, context, table)
    iova_ranges(s, context, ioas)


@sequence
def a_page_table_from_a_page_table(s: Script) -> None:
    context, _, ident = cdev_of(s, "edu")
    wanted = i.iommu_hwpt_alloc(size=48, dev_id=ident, pt_id=new_ioas(s, context))
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, wanted)
    nested = i.iommu_hwpt_alloc(size=48, dev_id=ident, pt_id=wanted.out_hwpt_id)
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, nested)


@sequence
def a_page_table_of_memory_that_is_not_there(s: Script) -> None:
    context, _, ident = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, 0x10000, user_va=NOTHING)
    wanted = i.iommu_hwpt_alloc(size=48, dev_id=ident, pt_id=ioas)
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, wanted)
    destroy(s, context, ioas)


# -- dirty tracking and hardware info --------------------------------------------------------------
@sequences(
    {
        "on": {"flags": 1},
        "off": {"flags": 0},
        "something unknown": {"flags": 2},
        "a table that is not there": {"hwpt_id": 99},
        "an ioas": {"hwpt_id": 2},
    }
)
def dirty_tracking_without_the_hardware(s: Script, **fields: int) -> None:
    context, _, _ = attached_cdev(s, "edu")
    wanted = i.iommu_hwpt_set_dirty_tracking(**{"size": 16, "hwpt_id": 3, **fields})
    s.ioctl(context, i.IOMMU_HWPT_SET_DIRTY_TRACKING, wanted)


BITMAPS: dict[str, dict[str, int]] = {
    "nothing wrong": {},
    "an unknown flag": {"flags": 2},
    "a table that is not there": {"hwpt_id": 99},
    "a wrap": {"iova": (1 << 64) - PAGE, "length": 2 * PAGE},
    "an odd iova": {"iova": 0x10800},
    "an odd length": {"length": 0x800},
    "no length": {"length": 0},
    "pages of size zero": {"page_size": 0},
    "pages of an odd size": {"page_size": 3 * PAGE},
    "large pages": {"page_size": 2 << 20},
    "no place": {"data": 0},
}


@sequences({name: {"fields": fields} for name, fields in BITMAPS.items()})
def a_dirty_bitmap_without_the_hardware(s: Script, fields: dict[str, int]) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    ioas_map(s, context, ioas, 0x10000)
    wanted = {
        "size": 48,
        "hwpt_id": 3,
        "iova": 0x10000,
        "length": PAGE,
        "page_size": PAGE,
        "data": s.memory.page(9),
        **fields,
    }
    s.ioctl(context, i.IOMMU_HWPT_GET_DIRTY_BITMAP, i.iommu_hwpt_get_dirty_bitmap(**wanted))


INFOS: dict[str, dict[str, int]] = {
    "no room": {},
    "some room": {"data_len": 4, "data_uptr": 0x7000_0000},
    "all the room": {"data_len": 64, "data_uptr": 0x7000_0000},
    "room where nothing is": {"data_len": 64, "data_uptr": NOTHING},
    "the oldest size": {"size": 32},
    "a size too short": {"size": 28},
    "an unknown flag": {"flags": 2},
    "a type that it does not have": {"flags": 1, "in_data_type": 2},
    "the type that it has": {"flags": 1, "in_data_type": 1},
    "a type without its flag": {"in_data_type": 2},
    "a device that is not there": {"dev_id": 99},
    "an ioas": {"dev_id": 2},
}


@sequences({name: {"fields": fields} for name, fields in INFOS.items()})
def hardware_info_with(s: Script, fields: dict[str, int]) -> None:
    context, _, ident = cdev_of(s, "edu")
    new_ioas(s, context)
    s.memory.store(s.memory.page(0), b"\xff" * 64)
    wanted = i.iommu_hw_info(**{"size": 40, "dev_id": ident, **fields})
    s.ioctl(context, i.IOMMU_GET_HW_INFO, wanted)
    s.look(s.memory.page(0), 64)


# -- fault queues ----------------------------------------------------------------------------------
@sequence
def a_page_table_with_a_fault_queue(s: Script) -> None:
    context, device, ident = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    queue = i.iommu_fault_alloc(size=16)
    fd = s.fault_queue(context, queue)
    table = i.iommu_hwpt_alloc(
        size=48,
        flags=i.IOMMU_HWPT_FAULT_ID_VALID,
        dev_id=ident,
        pt_id=ioas,
        fault_id=queue.out_fault_id,
    )
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, table)
    attach(s, device, int(table.out_hwpt_id))
    detach(s, device)
    s.close(fd)
    destroy(s, context, queue.out_fault_id)
    destroy(s, context, int(table.out_hwpt_id))
    destroy(s, context, queue.out_fault_id)


@sequence
def pasids_of_a_page_table_for_them(s: Script) -> None:
    context, device, ident = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    table = i.iommu_hwpt_alloc(size=48, flags=i.IOMMU_HWPT_ALLOC_PASID, dev_id=ident, pt_id=ioas)
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, table)
    attach(s, device, int(table.out_hwpt_id))
    for pt_id in (int(table.out_hwpt_id), ioas, 99, ident):
        attach(s, device, pt_id, flags=v.VFIO_DEVICE_ATTACH_PASID, pasid=1)
    attach(s, device, int(table.out_hwpt_id), flags=v.VFIO_DEVICE_ATTACH_PASID, pasid=0)
    detach(s, device, flags=v.VFIO_DEVICE_DETACH_PASID, pasid=1)
