"""A device without function, and system calls in one line each."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vfiocore.uapi import iommufd, kvm, vfio
from vfiocore_sim.device import DeviceMapping, SimDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import MdevType, Topology

PAGE = mmap.PAGESIZE
READ_WRITE = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE
IOAS_READ_WRITE = iommufd.IOMMU_IOAS_MAP_READABLE | iommufd.IOMMU_IOAS_MAP_WRITEABLE
MDEV = "11111111-2222-3333-4444-555555555555"


class PlainDevice(SimDevice):
    """A device with one page of memory as its only region, and a diary."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.open_error: int | None = None
        self.kvm_needed = False
        self.memory = os.memfd_create("region", os.MFD_CLOEXEC)
        os.ftruncate(self.memory, PAGE)

    def open_device(self) -> None:
        if self.open_error is not None:
            raise OSError(self.open_error, os.strerror(self.open_error))
        self.diary.append("open")

    def close_device(self) -> None:
        self.diary.append("close")

    def ioctl(self, request: int, arg: Any) -> int:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self.memory, size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        return os.pwrite(self.memory, data, offset)

    def mmap(self, length: int, prot: int, flags: int, offset: int) -> DeviceMapping:
        return DeviceMapping(self.memory, length, flags, prot, offset=offset)

    def needs_kvm(self) -> bool:
        return self.kvm_needed

    def request(self, count: int) -> None:
        self.diary.append(f"request {count}")

    def __del__(self) -> None:
        os.close(self.memory)


class EmulatedDevice(PlainDevice):
    """A mediated device that lets go of its pages when it is told to."""

    emulated = True

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[int, int]] = []
        self.stubborn = False

    def hold(self, iova: int, size: int, *, write: bool = True) -> None:
        self.dma.pin(iova, size, write=write)
        self.held.append((iova, size))

    def dma_unmapped(self, iova: int, size: int) -> None:
        self.diary.append(f"unmap {iova:#x} {size:#x}")
        if self.stubborn:
            return
        for pinned_iova, pinned_size in self.held:
            self.dma.unpin(pinned_iova, pinned_size)
        self.held.clear()


class Buffer:
    """Memory of the process, page-aligned."""

    def __init__(self, pages: int, *, prot: int = mmap.PROT_READ | mmap.PROT_WRITE) -> None:
        self.map = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot)
        self.size = pages * PAGE
        self.address = _address(self.map)


def _address(mapping: mmap.mmap) -> int:
    from vfiocore_sim.kernel.memory import addresses

    return addresses(mapping).first


class Kernel:
    """System calls with their structs filled in."""

    page = PAGE
    mdev = MDEV

    def __init__(self, host: SimHost) -> None:
        self.host = host

    def open(self, path: str) -> int:
        return self.host.open(path)

    def close(self, *fds: int) -> None:
        for fd in fds:
            self.host.close(fd)

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        return self.host.ioctl(fd, request, arg)

    def device(self, name: str) -> Any:
        return self.host.device(name)

    # -- legacy ------------------------------------------------------------------------------
    def status(self, group: int) -> int:
        arg = vfio.vfio_group_status(argsz=8)
        self.ioctl(group, vfio.VFIO_GROUP_GET_STATUS, arg)
        return int(arg.flags)

    def set_container(self, group: int, container: int) -> None:
        arg = bytearray(struct.pack("=i", container))
        self.ioctl(group, vfio.VFIO_GROUP_SET_CONTAINER, arg)

    def unset_container(self, group: int) -> None:
        self.ioctl(group, vfio.VFIO_GROUP_UNSET_CONTAINER)

    def device_fd(self, group: int, name: str) -> int:
        return self.ioctl(group, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"))

    def container_with(
        self, *groups: int, kind: int = vfio.VFIO_TYPE1v2_IOMMU
    ) -> tuple[int, list[int]]:
        container = self.open("/dev/vfio/vfio")
        fds = [self.open(f"/dev/vfio/{group}") for group in groups]
        for fd in fds:
            self.set_container(fd, container)
        self.ioctl(container, vfio.VFIO_SET_IOMMU, kind)
        return container, fds

    def map(
        self, container: int, iova: int, vaddr: int, size: int, flags: int = READ_WRITE
    ) -> None:
        arg = vfio.vfio_iommu_type1_dma_map(32, flags, vaddr, iova, size)
        self.ioctl(container, vfio.VFIO_IOMMU_MAP_DMA, arg)

    def unmap(self, container: int, iova: int, size: int, flags: int = 0) -> int:
        arg = vfio.vfio_iommu_type1_dma_unmap(24, flags, iova, size)
        self.ioctl(container, vfio.VFIO_IOMMU_UNMAP_DMA, arg)
        return int(arg.size)

    def info(self, container: int, size: int = 4096) -> Info:
        data = bytearray(size)
        struct.pack_into("=I", data, 0, size)
        self.ioctl(container, vfio.VFIO_IOMMU_GET_INFO, data)
        return Info(data)

    # -- iommufd -----------------------------------------------------------------------------
    def command(
        self, context: int, request: int, kind: type[ctypes.Structure], **fields: Any
    ) -> Any:
        arg = kind(ctypes.sizeof(kind))
        for name, value in fields.items():
            setattr(arg, name, value)
        self.ioctl(context, request, arg)
        return arg

    def ioas(self, fd: int) -> int:
        kind = iommufd.iommu_ioas_alloc
        return int(self.command(fd, iommufd.IOMMU_IOAS_ALLOC, kind).out_ioas_id)

    def destroy(self, fd: int, ident: int) -> None:
        self.command(fd, iommufd.IOMMU_DESTROY, iommufd.iommu_destroy, id=ident)

    def ioas_map(
        self,
        fd: int,
        ioas: int,
        vaddr: int,
        length: int,
        iova: int | None = None,
        flags: int = IOAS_READ_WRITE,
    ) -> int:
        if iova is not None:
            flags |= iommufd.IOMMU_IOAS_MAP_FIXED_IOVA
        arg = self.command(
            fd,
            iommufd.IOMMU_IOAS_MAP,
            iommufd.iommu_ioas_map,
            flags=flags,
            ioas_id=ioas,
            user_va=vaddr,
            length=length,
            iova=iova or 0,
        )
        return int(arg.iova)

    def map_file(
        self, fd: int, ioas: int, memory: int, length: int, iova: int, start: int = 0
    ) -> int:
        arg = self.command(
            fd,
            iommufd.IOMMU_IOAS_MAP_FILE,
            iommufd.iommu_ioas_map_file,
            flags=IOAS_READ_WRITE | iommufd.IOMMU_IOAS_MAP_FIXED_IOVA,
            ioas_id=ioas,
            fd=memory,
            start=start,
            length=length,
            iova=iova,
        )
        return int(arg.iova)

    def ioas_copy(
        self, fd: int, target: int, source: int, length: int, to: int, at: int, **fields: Any
    ) -> int:
        fields.setdefault("flags", IOAS_READ_WRITE | iommufd.IOMMU_IOAS_MAP_FIXED_IOVA)
        arg = self.command(
            fd,
            iommufd.IOMMU_IOAS_COPY,
            iommufd.iommu_ioas_copy,
            dst_ioas_id=target,
            src_ioas_id=source,
            length=length,
            dst_iova=to,
            src_iova=at,
            **fields,
        )
        return int(arg.dst_iova)

    def ioas_unmap(self, fd: int, ioas: int, iova: int, length: int) -> int:
        arg = self.command(
            fd,
            iommufd.IOMMU_IOAS_UNMAP,
            iommufd.iommu_ioas_unmap,
            ioas_id=ioas,
            iova=iova,
            length=length,
        )
        return int(arg.length)

    def allow(self, fd: int, ioas: int, *ranges: tuple[int, int]) -> None:
        entries = [iommufd.iommu_iova_range(*entry) for entry in ranges]
        table = (iommufd.iommu_iova_range * max(len(ranges), 1))(*entries)
        self.command(
            fd,
            iommufd.IOMMU_IOAS_ALLOW_IOVAS,
            iommufd.iommu_ioas_allow_iovas,
            ioas_id=ioas,
            num_iovas=len(ranges),
            allowed_iovas=ctypes.addressof(table),
        )

    def ranges(self, fd: int, ioas: int, room: int = 16) -> tuple[list[tuple[int, int]], int, int]:
        """The ranges that fitted, the number there are, and the alignment."""
        table = (iommufd.iommu_iova_range * room)()
        arg = iommufd.iommu_ioas_iova_ranges(
            ctypes.sizeof(iommufd.iommu_ioas_iova_ranges),
            ioas,
            room,
            0,
            ctypes.addressof(table),
        )
        try:
            self.ioctl(fd, iommufd.IOMMU_IOAS_IOVA_RANGES, arg)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        count = min(arg.num_iovas, room)
        fitted = [(entry.start, entry.last) for entry in table[:count]]
        return fitted, arg.num_iovas, arg.out_iova_alignment

    def bind(self, device: int, context: int, **fields: Any) -> int:
        arg = vfio.vfio_device_bind_iommufd(argsz=24, iommufd=context)
        for name, value in fields.items():
            setattr(arg, name, value)
        self.ioctl(device, vfio.VFIO_DEVICE_BIND_IOMMUFD, arg)
        return int(arg.out_devid)

    def attach(self, device: int, pt_id: int, flags: int = 0) -> int:
        arg = vfio.vfio_device_attach_iommufd_pt(16, flags, pt_id)
        self.ioctl(device, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, arg)
        return int(arg.pt_id)

    def detach(self, device: int, flags: int = 0) -> None:
        arg = vfio.vfio_device_detach_iommufd_pt(12, flags)
        self.ioctl(device, vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, arg)

    def hwpt(self, fd: int, device: int, parent: int, flags: int = 0, **fields: Any) -> int:
        arg = self.command(
            fd,
            iommufd.IOMMU_HWPT_ALLOC,
            iommufd.iommu_hwpt_alloc,
            flags=flags,
            dev_id=device,
            pt_id=parent,
            **fields,
        )
        return int(arg.out_hwpt_id)

    def cdev(self, name: str) -> int:
        for bus in ("pci", "platform", "mdev"):
            path = f"/sys/bus/{bus}/devices/{name}/vfio-dev"
            if self.host.exists(path):
                return self.open(f"/dev/vfio/devices/{self.host.listdir(path)[0]}")
        raise AssertionError(name)

    def attached(self, name: str) -> tuple[int, int, int]:
        """A new iommufd, an IOAS in it, and a device attached to that."""
        context = self.open("/dev/iommu")
        device = self.cdev(name)
        self.bind(device, context)
        ioas = self.ioas(context)
        self.attach(device, ioas)
        return context, ioas, device

    # -- KVM ---------------------------------------------------------------------------------
    def kvm_vfio(self) -> int:
        """A KVM-VFIO device; the files under it stay open."""
        machine = self.ioctl(self.open("/dev/kvm"), kvm.KVM_CREATE_VM)
        arg = kvm.kvm_create_device(type=kvm.KVM_DEV_TYPE_VFIO)
        self.ioctl(machine, kvm.KVM_CREATE_DEVICE, arg)
        return int(arg.fd)

    def kvm_file(self, device: int, attribute: int, fd: int) -> None:
        number = ctypes.c_int32(fd)
        arg = kvm.kvm_device_attr(
            group=kvm.KVM_DEV_VFIO_FILE, attr=attribute, addr=ctypes.addressof(number)
        )
        self.ioctl(device, kvm.KVM_SET_DEVICE_ATTR, arg)


class Info:
    """A reply of VFIO_IOMMU_GET_INFO, taken apart."""

    def __init__(self, data: bytearray) -> None:
        fields = struct.unpack_from("=IIQII", data)
        self.argsz, self.flags, self.page_sizes, self.cap_offset, _pad = fields
        self.capabilities: dict[int, bytes] = {}
        self.order: list[int] = []
        offset = self.cap_offset
        while offset:
            ident, _version, following = struct.unpack_from("=HHI", data, offset)
            self.order.append(ident)
            self.capabilities[ident] = bytes(data[offset + 8 :])
            offset = following

    @property
    def available(self) -> int:
        (count,) = struct.unpack_from("=I", self.capabilities[vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL])
        return int(count)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        data = self.capabilities[vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE]
        (count,) = struct.unpack_from("=I", data)
        return [struct.unpack_from("=QQ", data, 8 + 16 * number) for number in range(count)]


def mdev_topology() -> Topology:
    """Group 1 a PCI device; group 2 an emulated one (the first number that is free)."""
    kind = MdevType("plain-1", "vfio-pci", "mtty", EmulatedDevice, instances=2)
    return (
        Topology()
        .pci("0000:01:00.0", PlainDevice, group=1)
        .pci("0000:09:00.0", group=9, driver="parent")
        .mdev_parent("0000:09:00.0", kind)
        .mdev(MDEV, parent="0000:09:00.0")
    )


def plain_topology() -> Topology:
    """Groups 1 and 2 with one device each, 3 with two, 4 with a host driver beside."""
    return (
        Topology()
        .pci("0000:01:00.0", PlainDevice, group=1)
        .pci("0000:02:00.0", PlainDevice, group=2)
        .pci("0000:03:00.0", PlainDevice, group=3)
        .pci("0000:03:00.1", PlainDevice, group=3)
        .pci("0000:04:00.0", PlainDevice, group=4)
        .pci("0000:04:00.1", group=4, driver="e1000e")
        .platform("a000000.timer", PlainDevice, group=5)
    )


@pytest.fixture
def machine() -> Iterator[Callable[..., Kernel]]:
    """Makes a machine: `plain_topology` unless another one is given."""
    hosts: list[SimHost] = []

    def make(topology: Topology | None = None, **options: Any) -> Kernel:
        hosts.append(SimHost(topology or plain_topology(), **options))
        return Kernel(hosts[-1])

    yield make
    for host in hosts:
        host.exit_process()
        assert host.open_files() == []
        assert host.pinned_bytes == 0


@pytest.fixture
def kernel(machine: Callable[..., Kernel]) -> Kernel:
    return machine()


@pytest.fixture
def with_mdev(machine: Callable[..., Kernel]) -> Kernel:
    return machine(mdev_topology())


@pytest.fixture
def buffer() -> Callable[..., Buffer]:
    """Makes a buffer that stays until the test is over."""
    kept: list[Buffer] = []

    def make(pages: int, **how: Any) -> Buffer:
        kept.append(Buffer(pages, **how))
        return kept[-1]

    return make


@contextlib.contextmanager
def _refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        yield
    got = caught.value.errno
    assert got is not None
    assert errno.errorcode[got] == errno.errorcode[code]


@pytest.fixture
def refused() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """A block that must fail with this errno."""
    return _refused
