"""BARs as dma-bufs: how they are exported, mapped for another device, and taken back."""

from __future__ import annotations

import os
import struct

from tests.reality.parts import (
    BAR0,
    BAR2,
    COMMAND,
    CONFIG,
    FIXED,
    IOMMUFD,
    MASTER,
    MEMORY,
    PAGE,
    READABLE,
    WRITEABLE,
    attach,
    attached_cdev,
    bind,
    cdev_of,
    container_of,
    destroy,
    detach,
    device_of,
    ioas_map,
    ioas_unmap,
    map_dma,
    new_ioas,
)
from tests.reality.script import FAILED, Script
from tests.reality.sequence import sequence, sequences
from vfiocore.uapi import iommufd as i
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import vfio as v

END = 1 << 64
ALL = END - 1
BAR_SIZE = 1 << 20
HEAD = 8
"""Bytes of a feature's own head."""

AT = 0x100000
"""Where a BAR is shown."""

Ranges = tuple[tuple[int, int], ...]


def export(
    s: Script,
    device: int,
    *ranges: tuple[int, int],
    region: int = 2,
    argsz: int | None = None,
    **more: int,
) -> int:
    """VFIO_DEVICE_FEATURE_DMA_BUF; the fd."""
    fields = {"open_flags": os.O_RDWR | os.O_CLOEXEC, "nr_ranges": len(ranges), **more}
    body = bytes(v.vfio_device_feature_dma_buf(region_index=region, **fields))
    body += b"".join(struct.pack("=QQ", *each) for each in ranges)
    flags = v.VFIO_DEVICE_FEATURE_DMA_BUF | v.VFIO_DEVICE_FEATURE_GET
    head = v.vfio_device_feature(argsz=HEAD + len(body) if argsz is None else argsz, flags=flags)
    return s.ioctl_for_fd(device, v.VFIO_DEVICE_FEATURE, head, "dma-buf", body)


def exported(s: Script, device: int, *ranges: tuple[int, int], **more: int) -> int:
    """A dma-buf of these ranges of BAR 2, or all of it, with memory decode on."""
    decode(s, device)
    return export(s, device, *(ranges or ((0, BAR_SIZE),)), **more)


def decode(s: Script, device: int, bits: int = MEMORY | MASTER) -> None:
    """Write COMMAND."""
    s.pwrite(device, struct.pack("<H", bits), COMMAND)


def map_file(s: Script, context: int, ioas: int, fd: int, **more: int) -> int:
    """IOMMU_IOAS_MAP_FILE; where it was mapped."""
    fields = {
        "size": 40,
        "flags": FIXED | READABLE | WRITEABLE,
        "ioas_id": ioas,
        "fd": fd,
        "length": BAR_SIZE,
        "iova": AT,
        **more,
    }
    wanted = i.iommu_ioas_map_file(**fields)
    s.ioctl(context, i.IOMMU_IOAS_MAP_FILE, wanted)
    return int(wanted.iova)


def pair(s: Script, giver: str = "edu") -> tuple[int, int, int, int]:
    """An attached card, and ivshmem, whose BAR it is to reach: the iommufd, IOAS, both devices."""
    context, card, ioas = attached_cdev(s, giver)
    return context, ioas, card, device_of(s, "ivshmem")


# -- DMA of the edu card ---------------------------------------------------------------------------
REGISTERS, BUFFER = BAR0 + 0x80, 0x40000
START, LOAD, STORE = 1, 1, 3
SHOWN = 0x10000
"""Where memory is shown to the card."""


def dma(s: Script, card: int, data: bytes, to: int = AT) -> None:
    """Let the card fetch bytes from the memory that it is shown, and write them."""
    s.memory.store(s.memory.page(0), data)
    for source, target, command in ((SHOWN, BUFFER, LOAD), (BUFFER, to, STORE)):
        for number, value in enumerate((source, target, len(data), command)):
            s.pwrite(card, struct.pack("<Q", value), REGISTERS + 8 * number)
        s.pread_until(card, struct.pack("<Q", command & ~START), REGISTERS + 24)
    s.pwrite(card, bytes(24), REGISTERS)  # which a reset leaves as they are


def write_by_dma(s: Script, context: int, ioas: int, card: int, data: bytes, to: int = AT) -> None:
    """Let the card, with memory decode and bus mastering on, fetch bytes and write them."""
    decode(s, card)
    ioas_map(s, context, ioas, SHOWN)
    dma(s, card, data, to)
    ioas_unmap(s, context, ioas, SHOWN)


def look_and_clear(s: Script, device: int, offset: int = 0) -> None:
    """What is in the BAR; then it is empty again."""
    s.pread(device, 8, BAR2 + offset)
    s.pwrite(device, bytes(8), BAR2 + offset)


# -- export ----------------------------------------------------------------------------------------
WHOLE, FIRST = (0, BAR_SIZE), (0, PAGE)
RANGES: dict[str, dict[str, Ranges]] = {
    name: {"ranges": ranges}
    for name, ranges in {
        "everything": (WHOLE,),
        "a page": ((PAGE, PAGE),),
        "the last page": ((BAR_SIZE - PAGE, PAGE),),
        "no range": (),
        "two ranges": (FIRST, (2 * PAGE, PAGE)),
        "two ranges that overlap": ((0, 2 * PAGE), (PAGE, PAGE)),
        "a good and an empty range": (FIRST, (PAGE, 0)),
        "nothing": ((0, 0),),
        "half a page": ((0, PAGE // 2),),
        "an odd offset": ((PAGE // 2, PAGE),),
        "more than there is": ((0, BAR_SIZE + PAGE),),
        "what is behind it": ((BAR_SIZE, PAGE),),
        "half behind it": ((BAR_SIZE - PAGE, 2 * PAGE),),
        "a wrap": ((END - PAGE, 2 * PAGE),),
        "a wrap of the offset alone": ((END - PAGE, PAGE),),
        "almost everything that can be said": ((0, END - PAGE),),
        "ranges that add up to too much": ((0, END - PAGE), (0, END - PAGE)),
        "half of what can be said": ((0, 1 << 63),),
    }.items()
}


@sequences(RANGES)
def export_ranges(s: Script, ranges: Ranges) -> None:
    device = device_of(s, "ivshmem")
    decode(s, device)
    export(s, device, *ranges)


FIELDS: dict[str, dict[str, int]] = {
    "a flag": {"flags": 1},
    "a flag and no range": {"flags": 1, "nr_ranges": 0},
    "registers smaller than a page": {"region": 0},
    "a BAR that is not there": {"region": 1},
    "the upper half of a BAR": {"region": 3},
    "the ROM": {"region": 6},
    "configuration space": {"region": 7},
    "no such region": {"region": 99},
    "no such region and no range": {"region": 99, "nr_ranges": 0},
    "no open flags": {"open_flags": 0},
    "read only": {"open_flags": os.O_RDONLY | os.O_CLOEXEC},
    "not close on exec": {"open_flags": os.O_RDWR},
    "a struct that is too short": {"argsz": HEAD + 15},
    "a struct without its ranges": {"argsz": HEAD + 16},
    "fewer ranges than are there": {"nr_ranges": 1},
    "too many ranges": {"nr_ranges": 0xFFFFFFFF},
}


@sequences({name: {"fields": fields} for name, fields in FIELDS.items()})
def export_with(s: Script, fields: dict[str, int]) -> None:
    device = device_of(s, "ivshmem")
    decode(s, device)
    export(s, device, FIRST, FIRST, **fields)


@sequence
def export_ranges_that_cannot_be_read(s: Script) -> None:
    device = device_of(s, "ivshmem")
    flags = v.VFIO_DEVICE_FEATURE_DMA_BUF | v.VFIO_DEVICE_FEATURE_GET
    head = v.vfio_device_feature(argsz=HEAD + 32, flags=flags)
    body = v.vfio_device_feature_dma_buf(region_index=2, nr_ranges=1)
    where = s.memory.before_nothing(bytes(head) + bytes(body) + bytes(8))
    s.ioctl(device, v.VFIO_DEVICE_FEATURE, where)


@sequences({f"of region {region}": {"region": region} for region in (1, 6)})
def export_nothing(s: Script, region: int) -> None:
    device = device_of(s, "ivshmem")
    export(s, device, (0, 0), region=region)


@sequences({role: {"role": role} for role in ("edu", "nvme", "testdev")})
def export_registers(s: Script, role: str) -> None:
    device = device_of(s, role)
    export(s, device, FIRST, region=0)
    export(s, device, FIRST, region=1)


@sequence
def export_while_memory_decode_is_off(s: Script) -> None:
    context, ioas, _, device = pair(s)
    decode(s, device, 0)
    buffer = export(s, device, WHOLE)
    map_file(s, context, ioas, buffer)
    decode(s, device)
    map_file(s, context, ioas, buffer)


@sequence
def export_a_bar_that_is_mapped(s: Script) -> None:
    device = device_of(s, "ivshmem")
    decode(s, device)
    s.mmap(device, BAR_SIZE, BAR2)
    export(s, device, WHOLE)


@sequence
def what_the_file_itself_can_do(s: Script) -> None:
    device = device_of(s, "ivshmem")
    buffer = exported(s, device)
    s.pread(buffer, 8, 0)
    s.pwrite(buffer, bytes(8), 0)
    s.mmap(buffer, PAGE)
    if buffer != FAILED:
        s.ioctl(buffer, v.VFIO_DEVICE_GET_INFO)
    s.close(s.dup(buffer))


@sequence
def a_dma_buf_where_other_files_are_expected(s: Script) -> None:
    context = s.open(IOMMUFD)
    device = s.open(s.roles.cdev("edu"))
    buffer = exported(s, device_of(s, "ivshmem"))
    bind(s, device, buffer)
    bind(s, device, context)


# -- map -------------------------------------------------------------------------------------------
MAPS: dict[str, dict[str, int]] = {
    "all of it": {},
    "its second page": {"start": PAGE, "length": PAGE},
    "its last page": {"start": BAR_SIZE - PAGE, "length": PAGE},
    "more than there is": {"length": BAR_SIZE + PAGE},
    "what is behind it": {"start": BAR_SIZE, "length": PAGE},
    "half behind it": {"start": BAR_SIZE - PAGE, "length": 2 * PAGE},
    "nothing": {"length": 0},
    "half a page": {"length": PAGE // 2},
    "an odd start": {"start": PAGE // 2, "length": PAGE},
    "an odd iova": {"iova": AT + PAGE // 2},
    "a wrap": {"start": END - PAGE, "length": 2 * PAGE},
    "read only": {"flags": FIXED | READABLE},
    "write only": {"flags": FIXED | WRITEABLE},
    "neither": {"flags": FIXED},
    "a place of the kernel's choice": {"flags": READABLE | WRITEABLE, "iova": 0},
    "where interrupts go": {"iova": 0xFEE00000},
    "beyond what the IOMMU reaches": {"iova": 1 << 40},
}


@sequences({name: {"fields": fields} for name, fields in MAPS.items()})
def map_of(s: Script, fields: dict[str, int]) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    map_file(s, context, ioas, exported(s, device_of(s, "ivshmem")), **fields)
    ioas_unmap(s, context, ioas, 0, ALL)


@sequences({name: {"fields": fields} for name, fields in MAPS.items()})
def map_for_a_device(s: Script, fields: dict[str, int]) -> None:
    context, ioas, _, device = pair(s)
    map_file(s, context, ioas, exported(s, device), **fields)
    ioas_unmap(s, context, ioas, 0, ALL)


@sequence
def map_one_of_two_ranges(s: Script) -> None:
    context, ioas, _, device = pair(s)
    buffer = exported(s, device, FIRST, (2 * PAGE, PAGE))
    map_file(s, context, ioas, buffer, length=PAGE)
    map_file(s, context, ioas, buffer, length=2 * PAGE)


@sequence
def map_a_dma_buf_that_was_opened_read_only(s: Script) -> None:
    context, ioas, _, device = pair(s)
    map_file(s, context, ioas, exported(s, device, open_flags=os.O_CLOEXEC))


@sequence
def map_it_twice(s: Script) -> None:
    context, ioas, _, device = pair(s)
    buffer = exported(s, device)
    map_file(s, context, ioas, buffer)
    map_file(s, context, ioas, buffer)
    map_file(s, context, ioas, buffer, iova=4 * AT)
    ioas_unmap(s, context, ioas, AT, BAR_SIZE)
    ioas_unmap(s, context, ioas, 4 * AT, PAGE)
    ioas_unmap(s, context, ioas, 4 * AT, BAR_SIZE)


@sequence
def map_it_before_the_device_comes(s: Script) -> None:
    context, card, _ = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    map_file(s, context, ioas, exported(s, device_of(s, "ivshmem")))
    attach(s, card, ioas)
    detach(s, card)
    ioas_unmap(s, context, ioas, AT, BAR_SIZE)


@sequence
def a_card_reaches_its_own_bar(s: Script) -> None:
    context, device, ioas = attached_cdev(s, "ivshmem")
    map_file(s, context, ioas, exported(s, device))


@sequence
def map_it_for_a_device_of_the_same_iommufd(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    device = s.open(s.roles.cdev("ivshmem"))
    bind(s, device, context)
    attach(s, device, ioas)
    map_file(s, context, ioas, exported(s, device))


@sequence
def map_it_for_an_emulated_device(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "mtty")
    map_file(s, context, ioas, exported(s, device_of(s, "ivshmem")))


@sequence
def an_emulated_device_comes_later(s: Script) -> None:
    context, card, _ = cdev_of(s, "mtty")
    ioas = new_ioas(s, context)
    map_file(s, context, ioas, exported(s, device_of(s, "ivshmem")))
    attach(s, card, ioas)


@sequence
def the_mapping_keeps_the_dma_buf(s: Script) -> None:
    context, ioas, card, device = pair(s)
    buffer = exported(s, device)
    map_file(s, context, ioas, buffer)
    s.close(buffer)
    write_by_dma(s, context, ioas, card, b"keptopen")
    look_and_clear(s, device)


@sequence
def another_process_with_a_dma_buf(s: Script) -> None:
    context = s.open(IOMMUFD)
    map_file(s, context, new_ioas(s, context), exported(s, device_of(s, "ivshmem")))
    change = i.iommu_ioas_change_process(size=8)
    s.ioctl(context, i.IOMMU_IOAS_CHANGE_PROCESS, change)


@sequence
def larger_pages_are_turned_off(s: Script) -> None:
    context = s.open(IOMMUFD)
    ioas = new_ioas(s, context)
    fields = {"option_id": i.IOMMU_OPTION_HUGE_PAGES, "op": i.IOMMU_OPTION_OP_SET}
    s.ioctl(context, i.IOMMU_OPTION, i.iommu_option(size=24, object_id=ioas, **fields))
    map_file(s, context, ioas, exported(s, device_of(s, "ivshmem")))


# -- copies ----------------------------------------------------------------------------------------
def copy(s: Script, context: int, target: int, source: int, **more: int) -> None:
    """IOMMU_IOAS_COPY of the mapped BAR."""
    fields = {
        "size": 40,
        "flags": FIXED | READABLE | WRITEABLE,
        "dst_ioas_id": target,
        "src_ioas_id": source,
        "length": BAR_SIZE,
        "dst_iova": AT,
        "src_iova": AT,
        **more,
    }
    s.ioctl(context, i.IOMMU_IOAS_COPY, i.iommu_ioas_copy(**fields))


@sequences({"live": {"bits": MEMORY}, "revoked": {"bits": 0}})
def copy_a_mapping_that_is(s: Script, bits: int) -> None:
    context, ioas, _, device = pair(s)
    other = new_ioas(s, context)
    map_file(s, context, ioas, exported(s, device))
    decode(s, device, bits)
    copy(s, context, other, ioas)
    copy(s, context, ioas, ioas, dst_iova=4 * AT, length=PAGE)
    ioas_unmap(s, context, ioas, 0, ALL)
    ioas_unmap(s, context, other, 0, ALL)


@sequences({"live": {"bits": MEMORY}, "revoked": {"bits": 0}})
def a_device_comes_where_the_mapping_is(s: Script, bits: int) -> None:
    context, card, _ = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    device = device_of(s, "ivshmem")
    map_file(s, context, ioas, exported(s, device))
    decode(s, device, bits)
    attach(s, card, ioas)
    decode(s, device)
    attach(s, card, ioas)


# -- DMA, and what ends it -------------------------------------------------------------------------
@sequences({"the first byte": {"offset": 0}, "the last page": {"offset": BAR_SIZE - PAGE}})
def a_card_writes_to_another_cards(s: Script, offset: int) -> None:
    context, ioas, card, device = pair(s)
    map_file(s, context, ioas, exported(s, device))
    write_by_dma(s, context, ioas, card, b"to peer!", AT + offset)
    look_and_clear(s, device, offset)


@sequence
def a_card_does_not_write_where_it_may_only_read(s: Script) -> None:
    context, ioas, card, device = pair(s)
    map_file(s, context, ioas, exported(s, device), flags=FIXED | READABLE)
    write_by_dma(s, context, ioas, card, b"to peer!")
    look_and_clear(s, device)


@sequence
def memory_decode_goes_off_and_on(s: Script) -> None:
    context, ioas, card, device = pair(s)
    buffer = exported(s, device)
    map_file(s, context, ioas, buffer)
    decode(s, device, 0)
    map_file(s, context, ioas, buffer, iova=4 * AT)
    decode(s, device)
    write_by_dma(s, context, ioas, card, b"revoked!")
    look_and_clear(s, device)
    map_file(s, context, ioas, buffer)
    ioas_unmap(s, context, ioas, AT, BAR_SIZE)
    map_file(s, context, ioas, buffer)
    write_by_dma(s, context, ioas, card, b"reborn!!")
    look_and_clear(s, device)


@sequence
def bus_mastering_goes_off_and_on(s: Script) -> None:
    context, ioas, card, device = pair(s)
    map_file(s, context, ioas, exported(s, device))
    decode(s, device, MEMORY)
    decode(s, device, MEMORY | MASTER)
    write_by_dma(s, context, ioas, card, b"as ever!")
    look_and_clear(s, device)


@sequence
def the_command_is_written_again_as_it_is(s: Script) -> None:
    context, ioas, card, device = pair(s)
    map_file(s, context, ioas, exported(s, device))
    decode(s, device)
    write_by_dma(s, context, ioas, card, b"as ever!")
    look_and_clear(s, device)


@sequence
def it_is_unmapped_while_memory_decode_is_off(s: Script) -> None:
    context, ioas, _, device = pair(s)
    map_file(s, context, ioas, exported(s, device))
    decode(s, device, 0)
    ioas_unmap(s, context, ioas, AT, BAR_SIZE)
    ioas_unmap(s, context, ioas, AT, BAR_SIZE)


@sequence
def the_card_with_the_bar_is_reset(s: Script) -> None:
    context, ioas, card, device = pair(s)
    buffer = exported(s, device)
    map_file(s, context, ioas, buffer)
    s.ioctl(device, v.VFIO_DEVICE_RESET)
    write_by_dma(s, context, ioas, card, b"revoked!")
    look_and_clear(s, device)
    ioas_unmap(s, context, ioas, AT, BAR_SIZE)
    map_file(s, context, ioas, buffer)
    write_by_dma(s, context, ioas, card, b"reborn!!")
    look_and_clear(s, device)


@sequence
def the_card_with_the_bar_is_reset_while_memory_decode_is_off(s: Script) -> None:
    context, ioas, _, device = pair(s)
    buffer = exported(s, device)
    decode(s, device, 0)
    s.ioctl(device, v.VFIO_DEVICE_RESET)
    map_file(s, context, ioas, buffer)


@sequence
def the_bus_of_the_card_with_the_bar_is_reset(s: Script) -> None:
    context, ioas, card, device = pair(s)
    buffer = exported(s, device)
    map_file(s, context, ioas, buffer)
    reset = v.vfio_pci_hot_reset(argsz=16, count=1)
    fds = struct.pack("=i", s.last("group of ivshmem"))
    s.ioctl(device, v.VFIO_DEVICE_PCI_HOT_RESET, reset, fds)
    write_by_dma(s, context, ioas, card, b"revoked!")
    look_and_clear(s, device)
    ioas_unmap(s, context, ioas, AT, BAR_SIZE)
    map_file(s, context, ioas, buffer)


@sequence
def the_card_that_does_the_dma_is_reset(s: Script) -> None:
    context, ioas, card, device = pair(s)
    map_file(s, context, ioas, exported(s, device))
    s.ioctl(card, v.VFIO_DEVICE_RESET)
    write_by_dma(s, context, ioas, card, b"as ever!")
    look_and_clear(s, device)


@sequence
def the_card_with_the_bar_sleeps_and_wakes(s: Script) -> None:
    context, ioas, card, device = pair(s)
    buffer = exported(s, device)
    map_file(s, context, ioas, buffer)
    for number in (v.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, v.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT):
        asked = v.vfio_device_feature(argsz=HEAD, flags=number | v.VFIO_DEVICE_FEATURE_SET)
        s.ioctl(device, v.VFIO_DEVICE_FEATURE, asked)
        map_file(s, context, ioas, buffer, iova=4 * AT)
    write_by_dma(s, context, ioas, card, b"revoked!")
    look_and_clear(s, device)
    write_by_dma(s, context, ioas, card, b"reborn!!", 4 * AT)
    look_and_clear(s, device)


def power_state(s: Script, device: int) -> int:
    """Where the power state is written; cards have it at offsets of their own."""
    size = pci.PCI_CFG_SPACE_SIZE
    config = s.pread(device, size, CONFIG, hide=lambda data: bytes(len(data)))
    where = config[pci.PCI_CAPABILITY_LIST]
    while config[where] != pci.PCI_CAP_ID_PM:
        where = config[where + 1]
    return CONFIG + where + pci.PCI_PM_CTRL


@sequence
def the_card_with_the_bar_is_put_into_d3_and_back(s: Script) -> None:
    context, _, ioas = attached_cdev(s, "edu")
    device = device_of(s, "nvme")
    decode(s, device)
    buffer = export(s, device, FIRST, region=0)
    map_file(s, context, ioas, buffer, length=PAGE)
    power = power_state(s, device)
    for number, state in enumerate((3, 0)):
        s.pwrite(device, struct.pack("<H", state), power)
        map_file(s, context, ioas, buffer, length=PAGE, iova=(number + 2) * AT)


@sequence
def the_card_with_the_bar_is_closed(s: Script) -> None:
    context, ioas, card, device = pair(s)
    buffer = exported(s, device)
    map_file(s, context, ioas, buffer)
    s.close(device)
    map_file(s, context, ioas, buffer, iova=4 * AT)
    write_by_dma(s, context, ioas, card, b"revoked!")
    ioas_unmap(s, context, ioas, AT, BAR_SIZE)
    again = s.device_fd(s.last("group of ivshmem"), "ivshmem")
    decode(s, again)
    look_and_clear(s, again)
    map_file(s, context, ioas, buffer)


@sequence
def the_address_space_goes_before_the_card(s: Script) -> None:
    context, ioas, card, device = pair(s)
    map_file(s, context, ioas, exported(s, device))
    detach(s, card)
    destroy(s, context, ioas)


@sequence
def type1_does_not_map_a_dma_buf_but_the_bars_address(s: Script) -> None:
    container, group = container_of(s, "ivshmem", "edu")
    card = s.device_fd(group, "edu")
    device = s.device_fd(s.last("group of ivshmem"), "ivshmem")
    decode(s, device)
    address = s.address(s.mmap(device, BAR_SIZE, BAR2))
    map_dma(s, container, AT, vaddr=address, size=BAR_SIZE)
    decode(s, device, 0)
    decode(s, device)
    map_dma(s, container, SHOWN)
    decode(s, card)
    dma(s, card, b"unbroken")
    look_and_clear(s, device)
