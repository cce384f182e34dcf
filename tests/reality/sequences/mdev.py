"""Mediated devices, which have no IOMMU of their own: the kernel's sample serial card."""

from __future__ import annotations

from tests.reality.memory import NOTHING
from tests.reality.parts import (
    CONTAINER,
    INTERRUPTS,
    IOMMUFD,
    PAGE,
    REACHES,
    READ,
    attach,
    attached_cdev,
    bind,
    cdev_of,
    container_of,
    destroy,
    detach,
    group_of,
    ioas_map,
    ioas_unmap,
    iova_ranges,
    map_dma,
    new_ioas,
    set_container,
    type1_info,
    unmap_dma,
)
from tests.reality.roles import MDEVS
from tests.reality.script import Script
from tests.reality.sequence import CAP_IPC_LOCK, Privileges, sequence, sequences, with_privileges
from vfiocore.uapi import iommufd as i
from vfiocore.uapi import vfio as v

PARENT = "/sys/class/mdev_bus/mtty"
TYPE = f"{PARENT}/mdev_supported_types/mtty-2"
UUID = "22222222-0000-4000-8000-000000000001"


# -- a container with nothing but mediated devices -------------------------------------------------
@sequence
def the_status_of_a_group(s: Script) -> None:
    group = group_of(s, "mtty")
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))
    set_container(s, group, s.open(CONTAINER))
    s.ioctl(group, v.VFIO_GROUP_GET_STATUS, v.vfio_group_status(argsz=8))


@sequence
def extensions(s: Script) -> None:
    container, _ = container_of(s, "mtty")
    for number in range(12):
        s.ioctl(container, v.VFIO_CHECK_EXTENSION, number)


@sequence
def info_has_no_ranges(s: Script) -> None:
    container, _ = container_of(s, "mtty")
    type1_info(s, container)


@sequences(
    {
        "nothing wrong": {},
        "where no memory is": {"vaddr": NOTHING},
        **{f"where {machine} interrupts go": {"iova": at} for machine, at in INTERRUPTS.items()},
        "the last page of all": {"iova": (1 << 64) - PAGE},
        "size of a byte": {"size": 1},
        "iova inside a page": {"iova": 0x10800},
        "no access": {"flags": 0},
        "a new address of nothing": {"flags": v.VFIO_DMA_MAP_FLAG_VADDR},
    }
)
def map_with(s: Script, **fields: int) -> None:
    container, _ = container_of(s, "mtty")
    map_dma(s, container, **{"iova": 0x10000, **fields})
    type1_info(s, container)
    unmap_dma(s, container, 0, 0, flags=v.VFIO_DMA_UNMAP_FLAG_ALL)


@sequence
def addresses_cannot_be_taken_away(s: Script) -> None:
    container, _ = container_of(s, "mtty")
    map_dma(s, container, 0x10000)
    unmap_dma(s, container, 0x10000, flags=v.VFIO_DMA_UNMAP_FLAG_VADDR)
    unmap_dma(s, container, 0x10000)


@with_privileges(Privileges(without=CAP_IPC_LOCK, memlock=PAGE))
def memory_is_not_charged_before_it_is_used(s: Script) -> None:
    container, _ = container_of(s, "mtty")
    map_dma(s, container, 0x10000, size=8 * PAGE)


@sequence
def dirty_pages_of_what_nobody_wrote(s: Script) -> None:
    container, _ = container_of(s, "mtty")
    map_dma(s, container, 0x10000, size=2 * PAGE)
    start = v.vfio_iommu_type1_dirty_bitmap(argsz=8, flags=1)
    s.ioctl(container, v.VFIO_IOMMU_DIRTY_PAGES, start)
    get = v.vfio_iommu_type1_dirty_bitmap(argsz=48, flags=4)
    wanted = v.vfio_iommu_type1_dirty_bitmap_get(iova=0x10000, size=2 * PAGE)
    wanted.bitmap.pgsize, wanted.bitmap.size = PAGE, 8
    wanted.bitmap.data = s.memory.page(9)
    s.memory.store(s.memory.page(9), b"\xf0" * 16)
    s.ioctl(container, v.VFIO_IOMMU_DIRTY_PAGES, get, bytes(wanted))
    s.look(s.memory.page(9), 16)


# -- beside a card ---------------------------------------------------------------------------------
@sequence
def a_card_joins(s: Script) -> None:
    container, _ = container_of(s, "mtty")
    map_dma(s, container, 0x10000)
    card = group_of(s, "edu")
    set_container(s, card, container)
    type1_info(s, container)
    s.ioctl(container, v.VFIO_CHECK_EXTENSION, v.VFIO_UPDATE_VADDR)
    s.ioctl(card, v.VFIO_GROUP_UNSET_CONTAINER)
    type1_info(s, container)


@sequences(
    {
        "where no memory is": {"vaddr": NOTHING},
        **{f"where {machine} interrupts go": {"iova": at} for machine, at in INTERRUPTS.items()},
        **{f"beyond {bits}": {"iova": end} for bits, end in REACHES.items()},
        "what can only be read": {"flags": READ},
    }
)
def a_card_joins_a_container_that_maps(s: Script, **fields: int) -> None:
    container, _ = container_of(s, "mtty")
    map_dma(s, container, **{"iova": 0x10000, **fields})
    set_container(s, group_of(s, "edu"), container)
    type1_info(s, container)


@sequence
def a_serial_card_joins_a_card(s: Script) -> None:
    container, _ = container_of(s, "edu")
    map_dma(s, container, 0x10000)
    unmap_dma(s, container, 0x10000, flags=v.VFIO_DMA_UNMAP_FLAG_VADDR)
    serial = group_of(s, "mtty")
    set_container(s, serial, container)
    map_dma(s, container, 0x10000, flags=v.VFIO_DMA_MAP_FLAG_VADDR)
    set_container(s, serial, container)
    s.ioctl(container, v.VFIO_CHECK_EXTENSION, v.VFIO_UPDATE_VADDR)


# -- device files ----------------------------------------------------------------------------------
@sequence
def a_device_file_is_attached_to_an_ioas(s: Script) -> None:
    context, device, ident = cdev_of(s, "mtty")
    ioas = new_ioas(s, context)
    iova_ranges(s, context, ioas)
    attach(s, device, ioas)
    iova_ranges(s, context, ioas)
    destroy(s, context, ioas)
    destroy(s, context, ident)
    attach(s, device, ioas)
    detach(s, device)
    detach(s, device)
    destroy(s, context, ioas)


@sequences({"what is not there": {"pt_id": 99}, "nothing": {"pt_id": 0}, "itself": {"pt_id": 1}})
def a_device_file_is_attached_to(s: Script, pt_id: int) -> None:
    _, device, _ = cdev_of(s, "mtty")
    attach(s, device, pt_id)


@sequence
def a_device_file_has_no_pasids(s: Script) -> None:
    _, device, ioas = attached_cdev(s, "mtty")
    attach(s, device, ioas, flags=v.VFIO_DEVICE_ATTACH_PASID, pasid=1)
    detach(s, device, flags=v.VFIO_DEVICE_DETACH_PASID, pasid=1)


@sequence
def a_device_file_is_attached_to_a_page_table(s: Script) -> None:
    context, _, card = cdev_of(s, "edu")
    ioas = new_ioas(s, context)
    table = i.iommu_hwpt_alloc(size=48, dev_id=card, pt_id=ioas)
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, table)
    device = s.open(s.roles.cdev("mtty"))
    serial = bind(s, device, context)
    attach(s, device, int(table.out_hwpt_id))
    again = i.iommu_hwpt_alloc(size=48, dev_id=serial, pt_id=ioas)
    s.ioctl(context, i.IOMMU_HWPT_ALLOC, again)
    s.ioctl(context, i.IOMMU_GET_HW_INFO, i.iommu_hw_info(size=40, dev_id=serial))


@sequence
def a_device_file_moves_to_another_ioas(s: Script) -> None:
    context, device, ioas = attached_cdev(s, "mtty")
    other = new_ioas(s, context)
    attach(s, device, other)
    destroy(s, context, ioas)
    attach(s, device, other)


@sequences(
    {
        "where no memory is": {"user_va": NOTHING},
        "half a page": {"length": PAGE // 2},
        **{f"where {machine} interrupts go": {"iova": at} for machine, at in INTERRUPTS.items()},
    }
)
def an_ioas_that_maps(s: Script, **fields: int) -> None:
    context, device, _ = cdev_of(s, "mtty")
    ioas = new_ioas(s, context)
    ioas_map(s, context, ioas, **{"iova": 0x10000, **fields})
    attach(s, device, ioas)
    ioas_map(s, context, ioas, **{"iova": 0x20000, **fields})
    ioas_unmap(s, context, ioas, 0, (1 << 64) - 1)


@sequence
def a_group_with_an_iommufd(s: Script) -> None:
    context = s.open(IOMMUFD)
    group = group_of(s, "mtty")
    set_container(s, group, context)
    s.device_fd(group, "mtty")
    type1_info(s, context)
    map_dma(s, context, 0x10000)


@sequence
def a_bound_device_keeps_its_group_shut(s: Script) -> None:
    cdev_of(s, "mtty")
    group_of(s, "mtty")


# -- sysfs -----------------------------------------------------------------------------------------
@sequence
def the_type_of_a_device(s: Script) -> None:
    s.link(f"{s.roles.folder('mtty')}/mdev_type")
    s.link(f"{s.roles.folder('mtty')}/driver")
    s.read_file(f"{TYPE}/device_api")
    s.listdir(TYPE, ("available_instances", "create", "device_api", "devices", "name"))
    s.exists(f"{TYPE}/devices/{MDEVS['mtty']}")


@sequence
def a_device_is_made_and_removed(s: Script) -> None:
    folder = f"/sys/bus/mdev/devices/{UUID}"
    s.exists(folder)
    s.write_file(f"{TYPE}/create", UUID.encode())
    s.exists(folder)
    s.link(f"{folder}/driver")
    s.write_file(f"{TYPE}/create", UUID.encode())
    s.write_file(f"{folder}/remove", b"0")
    s.exists(folder)
    s.write_file(f"{folder}/remove", b"x")
    s.write_file(f"{folder}/remove", b"1")
    s.exists(folder)
    s.write_file(f"{folder}/remove", b"1")


@sequence
def a_name_with_one_letter_more(s: Script) -> None:
    s.write_file(f"{TYPE}/create", UUID.encode() + b"x")
    s.write_file(f"/sys/bus/mdev/devices/{UUID}/remove", b"1\n")


@sequences(
    {
        "nothing": {"name": b"\n"},
        "too short": {"name": UUID[:-1].encode()},
        "too long": {"name": UUID.encode() + b"00"},
        "of wrong letters": {"name": b"g" + UUID[1:].encode()},
        "without dashes": {"name": UUID.replace("-", "").encode()},
        "there already": {"name": MDEVS["mtty"].encode()},
    }
)
def a_device_with_a_name_that_is(s: Script, name: bytes) -> None:
    s.write_file(f"{TYPE}/create", name)


@sequence
def files_of_a_type_that_cannot_be_read_or_written(s: Script) -> None:
    s.read_file(f"{TYPE}/create")
    s.write_file(f"{TYPE}/device_api", b"x")
    s.read_file(f"{s.roles.folder('mtty')}/remove")
