"""The simulated machine that sequences run on."""

from __future__ import annotations

from vfiocore.uapi.pci_regs import PCI_COMMAND_IO, PCI_COMMAND_MEMORY, PCI_COMMAND_SERR
from vfiocore.uapi.vfio import VFIO_DEVICE_FLAGS_PCI
from vfiocore_sim.devices import EduDevice, IvshmemDevice, NvmeDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import IommuModel, MdevType, Topology
from vfiocore_sim.vfio.base import VfioDevice
from vfiocore_sim.vfio.pci import Bar, PciDevice

from .roles import MDEVS
from .sequence import CAP_IPC_LOCK, CAP_SYS_RAWIO, CAP_SYS_RESOURCE, Sequence


def simulated(sequence: Sequence, iommu: IommuModel) -> SimHost:
    """A simulated machine with the devices of the guests (``tests/vm/bed``) behind an IOMMU."""
    privileges = sequence.privileges
    host = SimHost(
        topology(iommu),
        cap_ipc_lock=privileges.without != CAP_IPC_LOCK,
        cap_sys_rawio=privileges.without != CAP_SYS_RAWIO,
        cap_sys_resource=privileges.without != CAP_SYS_RESOURCE,
        memlock_limit=privileges.memlock,
    )
    # As the guest's cards are given to vfio-pci.
    for name in host.listdir("/sys/bus/pci/devices"):
        host.write_file(f"/sys/bus/pci/devices/{name}/driver_override", b"vfio-pci")
    return host


AFTER_FIRMWARE = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_SERR
"""The guest's firmware gave every card its addresses."""


class Edu(EduDevice):
    """The card, as the guest's firmware leaves it."""

    firmware_command = AFTER_FIRMWARE


class Ivshmem(IvshmemDevice):
    """The card, as the guest's firmware leaves it."""

    firmware_command = AFTER_FIRMWARE


class Testdev(PciDevice):
    """The card ``pci-testdev`` of QEMU, as the guest's firmware leaves it."""

    vendor_id = 0x1B36
    device_id = 0x0005
    class_code = 0x00FF00
    subsystem_vendor_id = 0x1AF4
    subsystem_id = 0x1100
    bars = (Bar(index=0, size=0x1000), Bar(index=1, size=0x100, io=True))
    power_management = False
    reset_methods = ("bus",)
    spare_bytes = True
    firmware_command = AFTER_FIRMWARE


class Mtty(VfioDevice):
    """The place of the kernel's sample serial card; sequences do not ask what it is."""

    emulated = True
    device_flags = VFIO_DEVICE_FLAGS_PCI


def topology(iommu: IommuModel) -> Topology:
    """The guest's devices, each group behind the IOMMU."""
    return (
        Topology()
        .iommu(1, iommu)
        .iommu(2, iommu)
        .iommu(3, iommu)
        .iommu(4, iommu)
        .iommu(5, iommu)
        .pci("0000:01:00.0", Edu, group=1)
        .pci("0000:02:00.0", lambda: NvmeDevice(queues=64), group=2)
        .pci("0000:03:00.0", Edu, group=3)
        .pci("0000:03:00.1", Edu, group=3)
        .pci("0000:04:00.0", Testdev, group=4)
        .pci("0000:05:00.0", Ivshmem, group=5)
        .platform("mtty", group=None, driver=None)
        .mdev_parent("mtty", MdevType("mtty-2", "vfio-pci", "mtty", Mtty, instances=12))
        .mdev(MDEVS["mtty"], parent="mtty")
    )
