"""Steps that many sequences begin with."""

from __future__ import annotations

import ctypes
import struct

from vfiocore.uapi import iommufd as i
from vfiocore.uapi import vfio as v

from .script import Script

CONTAINER = "/dev/vfio/vfio"
IOMMUFD = "/dev/iommu"

MIB = 1 << 20
INTERRUPTS = {"x86": 0xFEE00000, "arm64": 0x8000000}
"""The MiB that interrupts go to on a processor; on others these are addresses as any other."""

REACHES = {"39 bits": 1 << 39, "48 bits": 1 << 48}
"""Where the reach of an IOMMU ends: intel-iommu's has 39 bits in the guests, SMMUv3's 48."""


class Number(ctypes.Structure):
    """An int, where an ioctl takes a pointer to one."""

    _fields_ = [("value", ctypes.c_int32)]


def group_of(s: Script, role: str) -> int:
    """Open a device's group."""
    return s.open(s.roles.group(role))


def set_container(s: Script, group: int, container: int) -> None:
    """Put a group into a container."""
    s.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, Number(container))


def container_of(s: Script, *roles: str, kind: int = v.VFIO_TYPE1v2_IOMMU) -> tuple[int, int]:
    """A container with an IOMMU and the groups of some devices; it, and the last group."""
    container, group = s.open(CONTAINER), -1
    for role in roles:
        group = group_of(s, role)
        set_container(s, group, container)
    s.ioctl(container, v.VFIO_SET_IOMMU, kind)
    return container, group


def device_of(s: Script, role: str) -> int:
    """A device, opened through its group."""
    _, group = container_of(s, role)
    return s.device_fd(group, role)


# -- type1 -----------------------------------------------------------------------------------------
READ, WRITE = v.VFIO_DMA_MAP_FLAG_READ, v.VFIO_DMA_MAP_FLAG_WRITE
PAGE = 4096


def map_dma(
    s: Script, container: int, iova: int, page: int = 0, size: int = PAGE, **more: int
) -> int:
    """VFIO_IOMMU_MAP_DMA of pages of the script's memory."""
    fields = {"argsz": 32, "flags": READ | WRITE, "vaddr": s.memory.page(page), **more}
    wanted = v.vfio_iommu_type1_dma_map(iova=iova, size=size, **fields)
    return s.ioctl(container, v.VFIO_IOMMU_MAP_DMA, wanted)


def unmap_dma(s: Script, container: int, iova: int, size: int = PAGE, **more: int) -> int:
    """VFIO_IOMMU_UNMAP_DMA."""
    wanted = v.vfio_iommu_type1_dma_unmap(iova=iova, size=size, **{"argsz": 24, **more})
    return s.ioctl(container, v.VFIO_IOMMU_UNMAP_DMA, wanted)


def type1_info(s: Script, container: int, room: int = 512) -> None:
    """VFIO_IOMMU_GET_INFO with room for capabilities."""
    info = v.vfio_iommu_type1_info(argsz=room)
    s.ioctl(container, v.VFIO_IOMMU_GET_INFO, info, bytes(max(room - 24, 0)))


# -- iommufd ---------------------------------------------------------------------------------------
def new_ioas(s: Script, context: int) -> int:
    """IOMMU_IOAS_ALLOC; the id."""
    wanted = i.iommu_ioas_alloc(size=12)
    s.ioctl(context, i.IOMMU_IOAS_ALLOC, wanted)
    return int(wanted.out_ioas_id)


FIXED = i.IOMMU_IOAS_MAP_FIXED_IOVA
READABLE, WRITEABLE = i.IOMMU_IOAS_MAP_READABLE, i.IOMMU_IOAS_MAP_WRITEABLE


def ioas_map(s: Script, context: int, ioas: int, iova: int, page: int = 0, **more: int) -> int:
    """IOMMU_IOAS_MAP of pages of the script's memory; where it was mapped."""
    fields = {
        "size": 40,
        "flags": FIXED | READABLE | WRITEABLE,
        "ioas_id": ioas,
        "user_va": s.memory.page(page),
        "length": PAGE,
        "iova": iova,
        **more,
    }
    wanted = i.iommu_ioas_map(**fields)
    s.ioctl(context, i.IOMMU_IOAS_MAP, wanted)
    return int(wanted.iova)


def ioas_unmap(
    s: Script, context: int, ioas: int, iova: int, length: int = PAGE, **more: int
) -> None:
    """IOMMU_IOAS_UNMAP."""
    wanted = i.iommu_ioas_unmap(
        **{"size": 24, "ioas_id": ioas, "iova": iova, "length": length, **more}
    )
    s.ioctl(context, i.IOMMU_IOAS_UNMAP, wanted)


def destroy(s: Script, context: int, ident: int) -> None:
    """IOMMU_DESTROY."""
    s.ioctl(context, i.IOMMU_DESTROY, i.iommu_destroy(size=8, id=ident))


def iova_ranges(s: Script, context: int, ioas: int, room: int = 4, **more: int) -> None:
    """IOMMU_IOAS_IOVA_RANGES, and the ranges."""
    where = s.memory.page(60)
    fields = {"size": 32, "ioas_id": ioas, "num_iovas": room, "allowed_iovas": where, **more}
    s.memory.store(where, bytes(64))
    s.ioctl(context, i.IOMMU_IOAS_IOVA_RANGES, i.iommu_ioas_iova_ranges(**fields))
    s.look(where, 48)


def bind(s: Script, device: int, context: int, **more: int) -> int:
    """VFIO_DEVICE_BIND_IOMMUFD; the device's id."""
    wanted = v.vfio_device_bind_iommufd(**{"argsz": 24, "iommufd": context, **more})
    s.ioctl(device, v.VFIO_DEVICE_BIND_IOMMUFD, wanted)
    return int(wanted.out_devid)


def attach(s: Script, device: int, pt_id: int, **more: int) -> int:
    """VFIO_DEVICE_ATTACH_IOMMUFD_PT; the id of the page table."""
    wanted = v.vfio_device_attach_iommufd_pt(**{"argsz": 16, "pt_id": pt_id, **more})
    s.ioctl(device, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT, wanted)
    return int(wanted.pt_id)


def detach(s: Script, device: int, **more: int) -> None:
    """VFIO_DEVICE_DETACH_IOMMUFD_PT."""
    wanted = v.vfio_device_detach_iommufd_pt(**{"argsz": 12, **more})
    s.ioctl(device, v.VFIO_DEVICE_DETACH_IOMMUFD_PT, wanted)


def cdev_of(s: Script, role: str) -> tuple[int, int, int]:
    """A device file that is bound to an iommufd of its own; both, and the device's id."""
    context = s.open(IOMMUFD)
    device = s.open(s.roles.cdev(role))
    return context, device, bind(s, device, context)


def attached_cdev(s: Script, role: str) -> tuple[int, int, int]:
    """A device file that is attached to an IOAS; the iommufd, the device, the IOAS."""
    context, device, _ = cdev_of(s, role)
    ioas = new_ioas(s, context)
    attach(s, device, ioas)
    return context, device, ioas


# -- PCI -------------------------------------------------------------------------------------------
BAR0, BAR2, CONFIG = 0, 2 << 40, 7 << 40
"""Where regions begin in a device's file."""

COMMAND = CONFIG + 4
MEMORY, MASTER = 2, 4


def enabled(s: Script, role: str) -> int:
    """A device, opened through its group, that decodes memory and may do DMA."""
    device = device_of(s, role)
    s.pwrite(device, struct.pack("<H", MEMORY | MASTER), COMMAND)
    return device


NONE, BOOL, EVENTFD = (
    v.VFIO_IRQ_SET_DATA_NONE,
    v.VFIO_IRQ_SET_DATA_BOOL,
    v.VFIO_IRQ_SET_DATA_EVENTFD,
)
MASK, UNMASK, TRIGGER = (
    v.VFIO_IRQ_SET_ACTION_MASK,
    v.VFIO_IRQ_SET_ACTION_UNMASK,
    v.VFIO_IRQ_SET_ACTION_TRIGGER,
)
INTX, MSI, MSIX, ERR, REQ = range(5)


def set_irqs(
    s: Script, device: int, index: int, flags: int, count: int = 1, data: bytes = b"", **more: int
) -> int:
    """VFIO_DEVICE_SET_IRQS."""
    fields = {"argsz": 20 + len(data), "flags": flags, "index": index, "count": count, **more}
    return s.ioctl(device, v.VFIO_DEVICE_SET_IRQS, v.vfio_irq_set(**fields), data)


def trigger(s: Script, device: int, index: int, *eventfds: int, start: int = 0) -> int:
    """Let eventfds be signalled."""
    data = struct.pack(f"={len(eventfds)}i", *eventfds)
    return set_irqs(s, device, index, EVENTFD | TRIGGER, len(eventfds), data, start=start)


def disable(s: Script, device: int, index: int) -> int:
    """Switch an index off."""
    return set_irqs(s, device, index, NONE | TRIGGER, 0)
