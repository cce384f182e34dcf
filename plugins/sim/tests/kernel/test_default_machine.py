"""The whole path on the default machine: a device program behind the simulated IOMMU."""

from __future__ import annotations

import mmap
import struct
from typing import Any

import pytest

from vfiocore.uapi import vfio
from vfiocore.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY
from vfiocore_sim.topology import Topology

PAGE = mmap.PAGESIZE
BAR0, CONFIG = 0, vfio.VFIO_PCI_CONFIG_REGION_INDEX << 40
EDU_BUFFER = 0x40000


@pytest.mark.parametrize("backend", ["legacy", "iommufd"])
def test_an_edu_copies_memory_through_the_iommu(machine: Any, buffer: Any, backend: str) -> None:
    kernel = machine(Topology.default())
    host, name, memory = kernel.host, "0000:02:00.0", buffer(2)
    memory.map[:11] = b"hello world"
    if backend == "legacy":
        container, (group,) = kernel.container_with(1)
        kernel.map(container, 0x1000000, memory.address, memory.size)
        device = kernel.device_fd(group, name)
    else:
        context, ioas, device = kernel.attached(name)
        kernel.ioas_map(context, ioas, memory.address, memory.size, 0x1000000)
    command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
    host.pwrite(device, struct.pack("<H", command), CONFIG + PCI_COMMAND)

    def copy(source: int, destination: int, count: int, run: int) -> None:
        for register, value in ((0x80, source), (0x88, destination), (0x90, count), (0x98, run)):
            host.pwrite(device, struct.pack("<Q", value), BAR0 + register)

    copy(0x1000000, EDU_BUFFER, 11, 1)
    copy(EDU_BUFFER, 0x1000000 + PAGE, 11, 3)
    assert memory.map[PAGE : PAGE + 11] == b"hello world"
    copy(0x2000000, EDU_BUFFER, 11, 1)
    (fault,) = host.faults
    assert (fault.device, fault.iova, fault.size, fault.write) == (name, 0x2000000, 11, False)


@pytest.mark.parametrize(
    ("name", "bus"),
    [
        ("0000:02:00.0", "pci"),
        ("0000:03:00.0", "pci"),
        ("0000:06:00.1", "pci"),
        ("0000:07:00.0", "pci"),
        ("10000000.timer", "platform"),
        ("7e270a25-e163-4922-af60-757fc8ed48c6", "mdev"),
    ],
)
def test_each_device_tells_about_itself(machine: Any, name: str, bus: str) -> None:
    kernel = machine(Topology.default())
    _context, _ioas, device = kernel.attached(name)
    info = vfio.vfio_device_info(argsz=24)
    kernel.ioctl(device, vfio.VFIO_DEVICE_GET_INFO, info)
    assert info.num_regions
    assert kernel.host.exists(f"/sys/bus/{bus}/devices/{name}")


def test_the_ap_matrix_opens_with_a_kvm(machine: Any) -> None:
    from vfiocore.uapi.kvm import KVM_DEV_VFIO_FILE_ADD

    kernel = machine(Topology.default())
    device = kernel.cdev("6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01")
    kernel.kvm_file(kernel.kvm_vfio(), KVM_DEV_VFIO_FILE_ADD, device)
    kernel.bind(device, kernel.open("/dev/iommu"))
