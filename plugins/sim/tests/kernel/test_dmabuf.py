"""BARs as dma-bufs: files that an IOAS maps, until the device takes its memory back."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from vfiocore.uapi import vfio
from vfiocore_sim.device import DmaFault
from vfiocore_sim.devices import EduDevice, IvshmemDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import MdevType, Topology
from vfiocore_sim.vfio.bench import Bench

from .conftest import MDEV, PAGE, EmulatedDevice, Kernel

SIZE = 1 << 20
BAR = 2
COMMAND = (7 << 40) + 4
MEMORY = 2
AT = 0x100000
CARD, EDU = "0000:01:00.0", "0000:02:00.0"


def export(host: Any, fd: int, *ranges: tuple[int, int], region: int = BAR, flags: int = 0) -> int:
    """VFIO_DEVICE_FEATURE_DMA_BUF; the fd."""
    body = bytes(
        vfio.vfio_device_feature_dma_buf(
            region_index=region, open_flags=flags, nr_ranges=len(ranges)
        )
    )
    body += b"".join(bytes(vfio.vfio_region_dma_range(*each)) for each in ranges)
    number = vfio.VFIO_DEVICE_FEATURE_DMA_BUF | vfio.VFIO_DEVICE_FEATURE_GET
    head = bytes(vfio.vfio_device_feature(argsz=8 + len(body), flags=number))
    found: int = host.ioctl(fd, vfio.VFIO_DEVICE_FEATURE, bytearray(head + body))
    return found


class Machine:
    """A card whose BAR is exported, and an edu and an emulated device that are to reach it."""

    def __init__(self, **options: Any) -> None:
        self.host = SimHost(
            Topology()
            .pci(CARD, IvshmemDevice, group=1)
            .pci(EDU, EduDevice, group=2)
            .platform("parent", group=None, driver=None)
            .mdev_parent("parent", MdevType("plain", "vfio-pci", "mtty", EmulatedDevice))
            .mdev(MDEV, parent="parent"),
            **options,
        )
        self.kernel = Kernel(self.host)
        self.context = self.kernel.open("/dev/iommu")
        self.ioas = self.kernel.ioas(self.context)
        self.card = self.attached(f"/sys/bus/pci/devices/{CARD}")

    def attached(self, folder: str) -> int:
        (name,) = self.host.listdir(f"{folder}/vfio-dev")
        fd = self.kernel.open(f"/dev/vfio/devices/{name}")
        self.kernel.bind(fd, self.context)
        self.kernel.attach(fd, self.ioas)
        return fd

    def decode(self, bits: int = MEMORY) -> None:
        self.host.pwrite(self.card, bits.to_bytes(2, "little"), COMMAND)

    def mapped(self) -> int:
        self.decode()
        fd = export(self.host, self.card, (0, SIZE))
        self.kernel.map_file(self.context, self.ioas, fd, SIZE, iova=AT)
        return fd


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.host.exit_process()
    assert made.host.open_files() == []


def test_a_mapped_bar_is_read_and_written_and_is_not_pinned_memory(machine: Machine) -> None:
    machine.attached(f"/sys/bus/pci/devices/{EDU}")
    machine.mapped()
    assert machine.host.pinned_bytes == 0
    program: Any = machine.host.device(EDU)
    memory: Any = machine.host.device(CARD)
    program.dma.write(AT + PAGE, b"from a peer")
    assert memory.memory.read(PAGE, 11) == b"from a peer"
    assert program.dma.read(AT + PAGE, 11) == b"from a peer"


def test_registers_are_reached_too(machine: Machine) -> None:
    edu = machine.attached(f"/sys/bus/pci/devices/{EDU}")
    machine.host.pwrite(edu, b"\2\0", COMMAND)
    fd = export(machine.host, edu, (0, PAGE), region=0)
    machine.kernel.map_file(machine.context, machine.ioas, fd, PAGE, iova=AT)
    program: Any = machine.host.device(CARD)
    program.dma.write(AT + 4, b"\1\2\3\4")
    assert program.dma.read(AT + 4, 4) == b"\xfe\xfd\xfc\xfb"


def test_what_was_mapped_faults_once_memory_decode_was_off(machine: Machine) -> None:
    machine.mapped()
    program: Any = machine.host.device(CARD)
    assert machine.host.page_table(CARD)
    for bits in (0, MEMORY):
        machine.decode(bits)
        assert machine.host.page_table(CARD) == ()
        with pytest.raises(DmaFault, match="revoked"):
            program.dma.read(AT, 4)


def test_a_driver_of_an_emulated_device_does_not_get_at_it(machine: Machine) -> None:
    machine.attached(f"/sys/bus/mdev/devices/{MDEV}")
    machine.mapped()
    program: Any = machine.host.device(MDEV)
    with pytest.raises(DmaFault, match="another device"):
        program.dma.read(AT, 4)
    with pytest.raises(OSError, match="Invalid") as caught:
        program.hold(AT, PAGE)
    assert caught.value.errno == errno.EINVAL


def test_the_file_has_nothing_to_read_or_write(machine: Machine, refused: Any) -> None:
    machine.decode()
    fd = export(machine.host, machine.card, (0, PAGE))
    with refused(errno.EINVAL):
        machine.host.read(fd, 1)
    with refused(errno.EINVAL):
        machine.host.write(fd, b"a")
    assert str(machine.host.open_files()[-1]) == f"dma-buf of {CARD}"


@pytest.mark.parametrize(("flags", "inherited"), [(os.O_CLOEXEC, False), (0, True)])
def test_the_caller_says_whether_children_inherit_it(
    machine: Machine, flags: int, inherited: bool
) -> None:
    fd = export(machine.host, machine.card, (0, PAGE), flags=flags)
    assert os.get_inheritable(fd) == inherited


def test_a_mapping_keeps_the_file_and_lets_go_of_it(machine: Machine) -> None:
    fd = machine.mapped()
    machine.host.close(fd)
    assert f"dma-buf of {CARD}" in machine.host.open_files()
    machine.kernel.ioas_unmap(machine.context, machine.ioas, AT, SIZE)
    assert f"dma-buf of {CARD}" not in machine.host.open_files()


def test_a_closed_device_takes_its_memory_back_for_good(machine: Machine, refused: Any) -> None:
    fd = machine.mapped()
    machine.host.close(machine.card)
    machine.card = machine.attached(f"/sys/bus/pci/devices/{CARD}")
    machine.decode()
    with refused(errno.ENODEV):
        machine.kernel.map_file(machine.context, machine.ioas, fd, SIZE, iova=4 * AT)


def test_an_older_kernel_exports_nothing(refused: Any) -> None:
    machine = Machine(without={"VFIO_DEVICE_FEATURE_DMA_BUF"})
    with refused(errno.ENOTTY):
        export(machine.host, machine.card, (0, PAGE))
    machine.host.exit_process()


def test_on_the_bench_there_are_no_files(refused: Any) -> None:
    with Bench(EduDevice()) as bench, refused(errno.EMFILE):
        export(_Lone(bench), 0, (0, PAGE), region=0)


class _Lone:
    """A bench's device, asked as a host is."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench

    def ioctl(self, _fd: int, request: int, arg: bytearray) -> int:
        found: int = self.bench.ioctl(request, arg)
        return found
