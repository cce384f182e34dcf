"""Containers and groups: their order, their kinds of fds, who may have them."""

from __future__ import annotations

import ctypes

from tests.reality.memory import NOTHING, READ_ONLY
from tests.reality.parts import CONTAINER, container_of, group_of, set_container
from tests.reality.script import Script
from tests.reality.sequence import sequence, sequences
from vfiocore.uapi import vfio as v
from vfiocore.uapi.ioctl import _IO


@sequence
def a_container_says_its_version(s: Script) -> None:
    s.ioctl(s.open(CONTAINER), v.VFIO_GET_API_VERSION)


@sequences({f"extension {number}": {"number": number} for number in range(12)})
def extensions_of_a_container_without_groups(s: Script, number: int) -> None:
    s.ioctl(s.open(CONTAINER), v.VFIO_CHECK_EXTENSION, number)


@sequence
def extensions_of_a_container_with_an_iommu(s: Script) -> None:
    container, _ = container_of(s, "edu")
    for number in range(12):
        s.ioctl(container, v.VFIO_CHECK_EXTENSION, number)


@sequences({f"type {number}": {"number": number} for number in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)})
def an_iommu_of_each_type(s: Script, number: int) -> None:
    container = s.open(CONTAINER)
    group = group_of(s, "edu")
    set_container(s, group, container)
    s.ioctl(container, v.VFIO_SET_IOMMU, number)


@sequence
def an_iommu_without_a_group(s: Script) -> None:
    s.ioctl(s.open(CONTAINER), v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)


@sequence
def an_iommu_set_twice(s: Script) -> None:
    container, _ = container_of(s, "edu")
    s.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    s.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_TYPE1_IOMMU)


@sequences(
    {
        "get info": {"request": v.VFIO_IOMMU_GET_INFO},
        "map": {"request": v.VFIO_IOMMU_MAP_DMA},
        "unmap": {"request": v.VFIO_IOMMU_UNMAP_DMA},
        "dirty pages": {"request": v.VFIO_IOMMU_DIRTY_PAGES},
        "an unknown request": {"request": _IO(v.VFIO_TYPE, v.VFIO_BASE + 99)},
        "a request of another type": {"request": _IO(ord("!"), v.VFIO_BASE)},
    }
)
def a_request_before_there_is_an_iommu(s: Script, request: int) -> None:
    s.ioctl(s.open(CONTAINER), request)


@sequence
def an_unknown_request_of_a_container_with_an_iommu(s: Script) -> None:
    container, _ = container_of(s, "edu")
    s.ioctl(container, _IO(v.VFIO_TYPE, v.VFIO_BASE + 99))
    s.ioctl(container, _IO(ord("!"), v.VFIO_BASE))


# -- groups ----------------------------------------------------------------------------------------
@sequence
def the_status_of_a_group_as_it_goes_into_a_container_and_out(s: Script) -> None:
    group = group_of(s, "edu")
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))
    container = s.open(CONTAINER)
    set_container(s, group, container)
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))
    s.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))
    s.ioctl(group, v.VFIO_GROUP_UNSET_CONTAINER)
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))


@sequences(
    {
        "too short": {"argsz": 7},
        "nothing": {"argsz": 0},
        "longer than the struct": {"argsz": 64},
        "with flags": {"argsz": 8, "flags": 0xFFFFFFFF},
    }
)
def the_status_with_a_struct_that_is(s: Script, argsz: int, flags: int = 0) -> None:
    status = v.vfio_group_status(argsz=argsz, flags=flags)
    s.ioctl(group_of(s, "edu"), v.VFIO_GROUP_GET_STATUS, status, bytes(56))


@sequence
def the_status_of_a_group_to_where_it_cannot_be_written(s: Script) -> None:
    group = group_of(s, "edu")
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, NOTHING)
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, 0)
    s.memory.before_nothing((8).to_bytes(4, "little"))
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, NOTHING - 4)
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, s.memory.before_nothing(bytes(v.vfio_group_status(8))))


@sequence
def a_group_is_opened_once(s: Script) -> None:
    group = group_of(s, "edu")
    group_of(s, "edu")
    s.close(group)
    group_of(s, "edu")


@sequence
def a_group_that_was_duplicated_stays_open(s: Script) -> None:
    group = group_of(s, "edu")
    s.dup(group)
    s.close(group)
    group_of(s, "edu")


@sequence
def a_group_that_does_not_exist(s: Script) -> None:
    s.open("/dev/vfio/4242")
    s.open("/dev/vfio/noiommu-1")
    s.open("/dev/vfio/devices/vfio4242")


@sequences(
    {
        "the group itself": {"kind": "self"},
        "another group": {"kind": "group"},
        "an eventfd": {"kind": "eventfd"},
        "a memory file": {"kind": "memfd"},
        "a device file that is not bound": {"kind": "cdev"},
        "a closed fd": {"kind": "closed"},
        "minus one": {"kind": "minus"},
    }
)
def a_container_that_is(s: Script, kind: str) -> None:
    group = group_of(s, "edu")
    set_container(s, group, _other_fd(s, group, kind))
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))


def _other_fd(s: Script, group: int, kind: str) -> int:
    if kind == "self":
        return group
    if kind == "group":
        return group_of(s, "nvme")
    if kind == "eventfd":
        return s.eventfd()
    if kind == "memfd":
        return s.memfd(4096)
    if kind == "cdev":
        return s.open(s.roles.cdev("edu"))
    return 999 if kind == "closed" else -1


@sequence
def a_container_from_where_nothing_can_be_read(s: Script) -> None:
    s.ioctl(group_of(s, "edu"), v.VFIO_GROUP_SET_CONTAINER, NOTHING)


@sequence
def a_second_container(s: Script) -> None:
    group = group_of(s, "edu")
    set_container(s, group, s.open(CONTAINER))
    set_container(s, group, s.open(CONTAINER))
    set_container(s, group, s.open("/dev/iommu"))
    set_container(s, group, -1)


@sequence
def leaving_a_container_that_was_never_set(s: Script) -> None:
    s.ioctl(group_of(s, "edu"), v.VFIO_GROUP_UNSET_CONTAINER)


@sequence
def leaving_a_container_while_a_device_is_open(s: Script) -> None:
    _, group = container_of(s, "edu")
    device = s.device_fd(group, "edu")
    s.ioctl(group, v.VFIO_GROUP_UNSET_CONTAINER)
    s.close(device)
    s.ioctl(group, v.VFIO_GROUP_UNSET_CONTAINER)
    s.ioctl(group, v.VFIO_GROUP_UNSET_CONTAINER)


@sequence
def the_last_group_takes_the_iommu_along(s: Script) -> None:
    container, group = container_of(s, "edu")
    s.ioctl(group, v.VFIO_GROUP_UNSET_CONTAINER)
    s.ioctl(container, v.VFIO_IOMMU_GET_INFO, v.vfio_iommu_type1_info(argsz=24))
    set_container(s, group, container)
    s.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_TYPE1_IOMMU)


@sequence
def a_container_closed_before_its_groups(s: Script) -> None:
    container, group = container_of(s, "edu")
    s.close(container)
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))
    s.device_fd(group, "edu")


@sequence
def two_groups_in_one_container(s: Script) -> None:
    container, first = container_of(s, "edu")
    second = group_of(s, "nvme")
    set_container(s, second, container)
    s.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    s.ioctl(first, v.VFIO_GROUP_UNSET_CONTAINER)
    s.ioctl(container, v.VFIO_IOMMU_GET_INFO, v.vfio_iommu_type1_info(argsz=24))
    s.ioctl(second, v.VFIO_GROUP_UNSET_CONTAINER)
    s.ioctl(container, v.VFIO_IOMMU_GET_INFO, v.vfio_iommu_type1_info(argsz=24))


@sequence
def an_unknown_request_of_a_group(s: Script) -> None:
    group = group_of(s, "edu")
    s.ioctl(group, _IO(v.VFIO_TYPE, v.VFIO_BASE + 99))
    s.ioctl(group, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))
    s.ioctl(group, v.VFIO_GET_API_VERSION)


# -- devices of a group ----------------------------------------------------------------------------
@sequence
def a_device_without_a_container(s: Script) -> None:
    s.device_fd(group_of(s, "edu"), "edu")


@sequence
def a_device_of_a_container_without_an_iommu(s: Script) -> None:
    group = group_of(s, "edu")
    set_container(s, group, s.open(CONTAINER))
    s.device_fd(group, "edu")


@sequences(
    {
        "of another group": {"name": "nvme"},
        "with a trailing space": {"name": "edu", "options": " "},
        "with a token that nobody asks for": {
            "name": "edu",
            "options": " vf_token=11111111-2222-3333-4444-555555555555",
        },
        "with a token that is no UUID": {"name": "edu", "options": " vf_token=1"},
        "with an option that does not exist": {"name": "edu", "options": " colour=red"},
        "with something right behind it": {"name": "edu", "options": "x"},
    }
)
def a_device_by_a_name(s: Script, name: str, options: str = "") -> None:
    _, group = container_of(s, "edu")
    s.device_fd(group, name, options)


@sequence
def a_device_by_a_name_that_does_not_end(s: Script) -> None:
    _, group = container_of(s, "edu")
    s.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, NOTHING)
    s.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, s.memory.before_nothing(b"0000:01:00.0"))
    s.memory.store(s.memory.page(0), b"x" * 8192)
    s.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, s.memory.page(0))
    s.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, READ_ONLY)


@sequence
def a_device_opened_twice(s: Script) -> None:
    _, group = container_of(s, "edu")
    first = s.device_fd(group, "edu")
    second = s.device_fd(group, "edu")
    s.close(first)
    s.ioctl(second, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=16))


@sequence
def a_group_whose_device_is_open_is_not_free(s: Script) -> None:
    _, group = container_of(s, "edu")
    device = s.device_fd(group, "edu")
    s.close(group)
    group_of(s, "edu")
    s.close(device)
    group_of(s, "edu")


@sequence
def two_devices_of_one_group(s: Script) -> None:
    _, group = container_of(s, "left")
    for role in ("left", "right"):
        device = s.device_fd(group, role)
        s.ioctl(device, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))


@sequence
def files_cannot_be_read_or_mapped(s: Script) -> None:
    container, group = container_of(s, "edu")
    for fd in (container, group):
        s.pread(fd, 16, 0)
        s.pwrite(fd, bytes(16), 0)
        s.mmap(fd, 4096)


@sequence
def a_node_opened_for_reading_only(s: Script) -> None:
    container = s.open(CONTAINER, 0)
    s.ioctl(container, v.VFIO_GET_API_VERSION)
    group = s.open(s.roles.group("edu"), 0)
    set_container(s, group, container)
    s.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)


@sequence
def a_container_number_is_an_int(s: Script) -> None:
    group = group_of(s, "edu")
    container = s.open(CONTAINER)
    s.memory.store(s.memory.page(0), bytes(ctypes.c_int(container)))
    s.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, s.memory.page(0))
