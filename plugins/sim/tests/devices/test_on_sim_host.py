"""The devices behind a whole simulated kernel: real paths, fds, IOMMU and accounting."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from attrs import define

from vfiocore.uapi.iommufd import (
    IOMMU_IOAS_ALLOC,
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    iommu_ioas_alloc,
    iommu_ioas_map,
)
from vfiocore.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY
from vfiocore.uapi.s390_cio import (
    CCW_CMD_SENSE_ID,
    ORB,
    ORB_CTRL0_MASK_FMT,
    SCSW,
    SCSW_FCTL_START_FUNC,
)
from vfiocore.uapi.vfio import (
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_SET_IRQS,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_PCI_BAR2_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    vfio_device_attach_iommufd_pt,
    vfio_device_bind_iommufd,
    vfio_device_info,
    vfio_irq_set,
)
from vfiocore_sim.devices import CcwDiskDevice, EduDevice, IvshmemDevice
from vfiocore_sim.devices.edu import BUFFER_OFFSET
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology
from vfiocore_sim.vfio.bench import fired

IOVA = 0x100000
LENGTH = 1 << 16
EDU = "0000:02:00.0"
CARD = "0000:07:00.0"
DISK = "7e270a25-e163-4922-af60-757fc8ed48c6"


@define
class Opened:
    """A device that is bound and attached, with `memory` mapped at `IOVA`."""

    host: SimHost
    iommufd: int
    device: int
    memory: mmap.mmap

    def close(self) -> None:
        self.host.close(self.device)
        self.host.close(self.iommufd)


def open_cdev(host: SimHost, directory: str) -> Opened:
    (cdev,) = host.listdir(f"{directory}/vfio-dev")
    iommufd = host.open("/dev/iommu")
    device = host.open(f"/dev/vfio/devices/{cdev}")
    bind = vfio_device_bind_iommufd(argsz=16, iommufd=iommufd)
    host.ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, bind)
    ioas = iommu_ioas_alloc(size=12)
    host.ioctl(iommufd, IOMMU_IOAS_ALLOC, ioas)
    attach = vfio_device_attach_iommufd_pt(argsz=12, pt_id=ioas.out_ioas_id)
    host.ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach)
    memory = mmap.mmap(-1, LENGTH)
    flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    map_ = iommu_ioas_map(
        size=40,
        flags=flags,
        ioas_id=ioas.out_ioas_id,
        user_va=address,
        length=LENGTH,
        iova=IOVA,
    )
    host.ioctl(iommufd, IOMMU_IOAS_MAP, map_)
    return Opened(host, iommufd, device, memory)


def listen(opened: Opened, index: int) -> int:
    event = opened.host.eventfd()
    flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER
    header = vfio_irq_set(argsz=24, flags=flags, index=index, count=1)
    buffer = bytearray(bytes(header) + struct.pack("=i", event))
    opened.host.ioctl(opened.device, VFIO_DEVICE_SET_IRQS, buffer)
    return event


@pytest.fixture
def edu() -> Iterator[Opened]:
    host = SimHost(Topology().pci(EDU, EduDevice, group=1))
    opened = open_cdev(host, f"/sys/bus/pci/devices/{EDU}")
    command = struct.pack("<H", PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
    host.pwrite(opened.device, command, (VFIO_PCI_CONFIG_REGION_INDEX << 40) + PCI_COMMAND)
    yield opened
    opened.close()
    assert host.open_files() == []


def test_an_argument_may_be_given_by_its_address(edu: Opened) -> None:
    info = vfio_device_info(argsz=24)
    edu.host.ioctl(edu.device, VFIO_DEVICE_GET_INFO, ctypes.addressof(info))
    assert info.num_irqs == 5


def test_an_address_where_nothing_is_is_a_bad_address(edu: Opened) -> None:
    for address in (0, mmap.PAGESIZE, 1 << 63):
        with pytest.raises(OSError, match="Bad address"):
            edu.host.ioctl(edu.device, VFIO_DEVICE_GET_INFO, address)


def register(opened: Opened, offset: int, value: int) -> None:
    opened.host.pwrite(opened.device, struct.pack("<Q", value), offset)


def test_an_edu_does_dma_through_the_iommu_and_interrupts(edu: Opened) -> None:
    event = listen(edu, VFIO_PCI_MSI_IRQ_INDEX)
    edu.memory[:5] = b"hello"
    register(edu, 0x80, IOVA)
    register(edu, 0x88, BUFFER_OFFSET)
    register(edu, 0x90, 5)
    register(edu, 0x98, 1 | 4)
    assert fired(event) == 1
    register(edu, 0x80, BUFFER_OFFSET)
    register(edu, 0x88, IOVA + 64)
    register(edu, 0x98, 1 | 2)
    assert edu.memory[64:69] == b"hello"
    edu.host.close(event)


def test_an_address_that_is_not_mapped_is_a_recorded_fault(edu: Opened) -> None:
    register(edu, 0x80, IOVA + LENGTH)
    register(edu, 0x88, BUFFER_OFFSET)
    register(edu, 0x90, 5)
    register(edu, 0x98, 1)
    (fault,) = edu.host.faults
    assert (fault.device, fault.iova, fault.write) == (EDU, IOVA + LENGTH, False)


def test_a_mapped_bar_holds_the_device_open() -> None:
    host = SimHost(Topology().pci(CARD, IvshmemDevice, group=1))
    opened = open_cdev(host, f"/sys/bus/pci/devices/{CARD}")
    mapping = host.mmap(
        opened.device,
        mmap.PAGESIZE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
        flags=mmap.MAP_SHARED,
        offset=VFIO_PCI_BAR2_REGION_INDEX << 40,
    )
    opened.close()
    mapping[:2] = b"hi"
    program = host.device(CARD)
    assert isinstance(program, IvshmemDevice)
    assert program.memory.read(0, 2) == b"hi"
    assert f"device {CARD}" in host.open_files()
    mapping.close()
    assert host.open_files() == []


def test_a_ccw_disk_answers_sense_id_in_memory_that_it_pins_and_unpins() -> None:
    topology = Topology().subchannel("0.0.0001").mdev(DISK, CcwDiskDevice, parent="0.0.0001")
    host = SimHost(topology)
    opened = open_cdev(host, f"/sys/bus/mdev/devices/{DISK}")
    info = vfio_device_info(argsz=24)
    host.ioctl(opened.device, VFIO_DEVICE_GET_INFO, info)
    assert info.num_regions == 4
    event = listen(opened, 0)
    opened.memory[:8] = struct.pack(">BBHI", CCW_CMD_SENSE_ID, 0, 7, IOVA + 0x1000)
    orb = bytes(ORB(ctrl0=ORB_CTRL0_MASK_FMT, lpm=0xFF, cpa=IOVA))
    region = orb + bytes(SCSW(ctrl=SCSW_FCTL_START_FUNC)) + bytes(100)
    assert host.pwrite(opened.device, region, 0) == 124
    assert fired(event) == 1
    assert opened.memory[0x1000:0x1007].hex() == "ff631080933610"
    assert host.pinned_bytes == 0
    assert host.faults == []
    os.close(event)
    opened.close()
    assert host.open_files() == []
