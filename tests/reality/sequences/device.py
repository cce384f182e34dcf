"""What a PCI device says of itself, its features, and its resets."""

from __future__ import annotations

import struct

from tests.reality.memory import NOTHING
from tests.reality.parts import (
    BAR0,
    BAR2,
    COMMAND,
    CONFIG,
    PAGE,
    attached_cdev,
    bind,
    container_of,
    device_of,
    enabled,
    group_of,
    set_container,
)
from tests.reality.script import Script
from tests.reality.sequence import sequence, sequences
from vfiocore.uapi import vfio as v
from vfiocore.uapi.ioctl import _IO

CARDS = ("edu", "nvme", "ivshmem", "testdev")


# -- info ------------------------------------------------------------------------------------------
@sequences({f"{size} bytes": {"size": size} for size in (0, 15, 16, 20, 24, 64)})
def info_with_room_for(s: Script, size: int) -> None:
    device = device_of(s, "edu")
    s.ioctl(device, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=size), bytes(40))


@sequences({role: {"role": role} for role in (*CARDS, "left", "right")})
def info_of(s: Script, role: str) -> None:
    device = device_of(s, role)
    s.ioctl(device, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))


@sequence
def info_of_a_device_file(s: Script) -> None:
    _, device, _ = attached_cdev(s, "edu")
    s.ioctl(device, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))
    s.ioctl(device, v.VFIO_DEVICE_GET_INFO, NOTHING)
    s.ioctl(device, _IO(v.VFIO_TYPE, v.VFIO_BASE + 99))
    s.ioctl(device, v.VFIO_SET_IOMMU, 1)


@sequences(
    {
        f"{index} of {role}": {"role": role, "index": index}
        for role in CARDS
        for index in (*range(10), 0xFFFFFFFF)
    }
)
def region(s: Script, role: str, index: int) -> None:
    device = device_of(s, role)
    info = v.vfio_region_info(argsz=32, index=index)
    s.ioctl(device, v.VFIO_DEVICE_GET_REGION_INFO, info)
    info = v.vfio_region_info(argsz=64, index=index)
    s.ioctl(device, v.VFIO_DEVICE_GET_REGION_INFO, info, bytes(32))


@sequences({f"{size} bytes": {"size": size} for size in (0, 31, 32, 39, 40, 48)})
def a_region_with_room_for(s: Script, size: int) -> None:
    device = device_of(s, "edu")
    info = v.vfio_region_info(argsz=size, index=7, flags=0xFF, cap_offset=0xFF)
    s.ioctl(device, v.VFIO_DEVICE_GET_REGION_INFO, info, bytes(16))
    s.ioctl(device, v.VFIO_DEVICE_GET_REGION_INFO, NOTHING)


@sequences(
    {
        f"{index} of {role}": {"role": role, "index": index}
        for role in CARDS
        for index in (*range(6), 0xFFFFFFFF)
    }
)
def interrupt(s: Script, role: str, index: int) -> None:
    device = device_of(s, role)
    info = v.vfio_irq_info(argsz=16, index=index)
    s.ioctl(device, v.VFIO_DEVICE_GET_IRQ_INFO, info)


@sequences({f"{size} bytes": {"size": size} for size in (0, 15, 16, 64)})
def an_interrupt_with_room_for(s: Script, size: int) -> None:
    device = device_of(s, "edu")
    info = v.vfio_irq_info(argsz=size, index=1, flags=0xFF, count=0xFF)
    s.ioctl(device, v.VFIO_DEVICE_GET_IRQ_INFO, info)
    s.ioctl(device, v.VFIO_DEVICE_GET_IRQ_INFO, NOTHING)


# -- features --------------------------------------------------------------------------------------
GET, SET, PROBE = (
    v.VFIO_DEVICE_FEATURE_GET,
    v.VFIO_DEVICE_FEATURE_SET,
    v.VFIO_DEVICE_FEATURE_PROBE,
)
FLAGS = {
    "nothing": 0,
    "get": GET,
    "set": SET,
    "get and set": GET | SET,
    "probe": PROBE,
    "probe get": PROBE | GET,
    "probe set": PROBE | SET,
    "probe get and set": PROBE | GET | SET,
    "an unknown flag": 1 << 19 | GET,
}


def feature(s: Script, device: int, flags: int, argsz: int = 64, data: bytes = b"") -> int:
    wanted = v.vfio_device_feature(argsz=argsz, flags=flags)
    return s.ioctl(device, v.VFIO_DEVICE_FEATURE, wanted, data.ljust(56, b"\0"))


@sequences({str(number): {"number": number} for number in (*range(14), 0xFFFF)})
def feature_number(s: Script, number: int) -> None:
    device = device_of(s, "edu")
    for flags in FLAGS.values():
        if flags & PROBE or flags not in (GET, SET):
            feature(s, device, number | flags)


@sequences({name: {"flags": flags} for name, flags in FLAGS.items()})
def a_feature_with_a_short_struct(s: Script, flags: int) -> None:
    device = device_of(s, "edu")
    for size in (0, 7, 8):
        feature(s, device, v.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP | flags, size)
    s.ioctl(device, v.VFIO_DEVICE_FEATURE, NOTHING)


@sequence
def migration_that_a_card_does_not_have(s: Script) -> None:
    device = device_of(s, "edu")
    feature(s, device, v.VFIO_DEVICE_FEATURE_MIGRATION | GET)
    feature(s, device, v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | GET)
    feature(s, device, v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET)
    feature(s, device, v.VFIO_DEVICE_FEATURE_DMA_LOGGING_START | SET)


ENTRY = v.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET
WAKEUP = v.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP | SET
EXIT = v.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | SET


ASLEEP = 0.3
"""How long a device takes to fall asleep when it may, in seconds."""


@sequence
def low_power(s: Script) -> None:
    device = device_of(s, "nvme")
    feature(s, device, EXIT)
    feature(s, device, ENTRY)
    feature(s, device, ENTRY)
    feature(s, device, EXIT)
    feature(s, device, EXIT)


@sequences({"minus one": {"fd": -1}, "minus two": {"fd": -2}, "a closed fd": {"fd": 999}})
def low_power_until_the_wakeup_of(s: Script, fd: int) -> None:
    device = device_of(s, "nvme")
    feature(s, device, WAKEUP, data=struct.pack("=iI", fd, 0))
    feature(s, device, EXIT)


@sequence
def low_power_with_a_wakeup(s: Script) -> None:
    device = device_of(s, "nvme")
    event = s.eventfd()
    feature(s, device, WAKEUP, data=struct.pack("=iI", s.memfd(PAGE), 0))
    feature(s, device, WAKEUP, data=struct.pack("=iI", event, 0))
    s.pause(ASLEEP)
    feature(s, device, ENTRY)
    s.count(event)
    s.pause(ASLEEP)
    s.pread(device, 2, CONFIG)
    s.count(event)
    feature(s, device, ENTRY)
    feature(s, device, EXIT)


# -- reset -----------------------------------------------------------------------------------------
@sequences({role: {"role": role} for role in ("edu", "nvme", "left")})
def reset_of(s: Script, role: str) -> None:
    device = enabled(s, role)
    s.ioctl(device, v.VFIO_DEVICE_RESET)
    s.pread(device, 2, COMMAND)


@sequence
def a_reset_clears_the_registers(s: Script) -> None:
    device = enabled(s, "edu")
    s.pwrite(device, struct.pack("<I", 0x1234), BAR0 + 4)
    s.pread(device, 4, BAR0 + 4)
    s.ioctl(device, v.VFIO_DEVICE_RESET)
    s.pread(device, 4, BAR0 + 4)


@sequence
def the_memory_of_a_card_that_is_reset(s: Script) -> None:
    device = enabled(s, "ivshmem")
    s.pwrite(device, b"kept", BAR2)
    s.ioctl(device, v.VFIO_DEVICE_RESET)
    s.pread(device, 4, BAR2)
    s.pwrite(device, bytes(4), BAR2)


def groups_hidden(s: Script, *roles: str) -> dict[int, int]:
    """What stands for the numbers of groups, which are different everywhere."""
    return {s.roles.group_number(role): 0xAAAA + number for number, role in enumerate(roles)}


def hot_reset_info(s: Script, device: int, room: int, *roles: str) -> None:
    numbers = groups_hidden(s, *roles)

    def hide(tail: bytes) -> bytes:
        words = struct.unpack(f"={len(tail) // 4}I", tail)
        shown = [numbers.get(word, word) if not at % 2 else word for at, word in enumerate(words)]
        return struct.pack(f"={len(words)}I", *shown)

    info = v.vfio_pci_hot_reset_info(argsz=room)
    s.ioctl(device, v.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info, bytes(32), hide)


@sequences({f"{size} bytes": {"size": size} for size in (0, 11, 12, 19, 20, 27, 28, 44)})
def hot_reset_info_with_room_for(s: Script, size: int) -> None:
    hot_reset_info(s, device_of(s, "left"), size, "left")


@sequence
def hot_reset_info_of_a_card_alone(s: Script) -> None:
    hot_reset_info(s, device_of(s, "edu"), 44, "edu")


@sequence
def hot_reset_info_of_device_files(s: Script) -> None:
    context, device, _ = attached_cdev(s, "left")
    hot_reset_info(s, device, 44)
    other = s.open(s.roles.cdev("right"))
    hot_reset_info(s, device, 44)
    bind(s, other, context)
    hot_reset_info(s, device, 44)
    _, alone, _ = attached_cdev(s, "edu")
    hot_reset_info(s, alone, 44)


def hot_reset(s: Script, device: int, fds: tuple[int, ...], **more: int) -> None:
    data = struct.pack(f"={len(fds)}i", *fds)
    wanted = v.vfio_pci_hot_reset(**{"argsz": 12 + len(data), "count": len(fds), **more})
    s.ioctl(device, v.VFIO_DEVICE_PCI_HOT_RESET, wanted, data)


@sequence
def hot_reset_with_the_group(s: Script) -> None:
    _, group = container_of(s, "edu")
    device = s.device_fd(group, "edu")
    hot_reset(s, device, (group,))
    hot_reset(s, device, ())
    hot_reset(s, device, (group, group))
    hot_reset(s, device, (group,), flags=1)
    hot_reset(s, device, (group,), argsz=11)
    hot_reset(s, device, (group,), argsz=12)
    hot_reset(s, device, (group,), count=99)


@sequence
def hot_reset_with_what_is_no_group(s: Script) -> None:
    container, group = container_of(s, "edu")
    device = s.device_fd(group, "edu")
    for fd in (-1, 999, container, s.eventfd(), device):
        hot_reset(s, device, (fd,))


@sequence
def hot_reset_with_another_group(s: Script) -> None:
    container, group = container_of(s, "edu")
    other = group_of(s, "nvme")
    device = s.device_fd(group, "edu")
    hot_reset(s, device, (other,))
    set_container(s, other, container)
    hot_reset(s, device, (other,))


@sequence
def hot_reset_of_two_functions(s: Script) -> None:
    _, group = container_of(s, "left")
    device = s.device_fd(group, "left")
    hot_reset(s, device, (group,))
    s.device_fd(group, "right")
    hot_reset(s, device, (group,))


@sequence
def hot_reset_of_device_files(s: Script) -> None:
    context, device, _ = attached_cdev(s, "left")
    hot_reset(s, device, ())
    other = s.open(s.roles.cdev("right"))
    hot_reset(s, device, ())
    bind(s, other, context)
    hot_reset(s, device, ())
    hot_reset(s, device, (context,))


# -- writes by eventfd -----------------------------------------------------------------------------
def ioeventfd(s: Script, device: int, fd: int, **more: int) -> None:
    fields = {"argsz": 32, "flags": v.VFIO_DEVICE_IOEVENTFD_32, "offset": BAR0 + 8, "data": 5}
    s.ioctl(device, v.VFIO_DEVICE_IOEVENTFD, v.vfio_device_ioeventfd(fd=fd, **{**fields, **more}))


IOEVENTFDS: dict[str, dict[str, int]] = {
    "nothing wrong": {},
    "the oldest size": {"argsz": 28},
    "a size too short": {"argsz": 27},
    "no width": {"flags": 0},
    "two widths": {"flags": 3},
    "an unknown flag": {"flags": 16 | 4},
    "8 bits": {"flags": 1},
    "16 bits": {"flags": 2},
    "64 bits": {"flags": 8},
    "an odd offset": {"offset": BAR0 + 9},
    "the end of the BAR": {"offset": BAR0 + (1 << 20)},
    "across the end of the BAR": {"offset": BAR0 + (1 << 20) - 2},
    "a BAR that is not there": {"offset": 1 << 40},
    "configuration space": {"offset": COMMAND},
    "a region that is not there": {"offset": 9 << 40},
    "reserved words": {"reserved": 1},
}


@sequences({name: {"fields": fields} for name, fields in IOEVENTFDS.items()})
def a_write_by_eventfd_with(s: Script, fields: dict[str, int]) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    ioeventfd(s, device, event, **fields)
    ioeventfd(s, device, event, **fields)
    ioeventfd(s, device, -1, **fields)
    ioeventfd(s, device, -1, **fields)


@sequence
def a_write_by_what_is_no_eventfd(s: Script) -> None:
    device = enabled(s, "edu")
    for fd in (999, s.memfd(PAGE), -2):
        ioeventfd(s, device, fd)


@sequence
def an_eventfd_writes(s: Script) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    ioeventfd(s, device, event)
    s.pread(device, 4, BAR0 + 8)
    s.signal(event)
    s.pread_until(device, struct.pack("<I", 120), BAR0 + 8)


@sequence
def a_write_by_eventfd_into_the_table_of_messages(s: Script) -> None:
    device = enabled(s, "nvme")
    ioeventfd(s, device, s.eventfd(), offset=BAR0 + 0x2000)
    ioeventfd(s, device, s.eventfd(), offset=BAR0 + 0x1FFE)
