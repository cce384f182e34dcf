"""The simulated machine that sequences run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vfiocore.uapi.pci_regs import PCI_COMMAND_IO, PCI_COMMAND_MEMORY, PCI_COMMAND_SERR
from vfiocore.uapi.vfio import VFIO_DEVICE_FLAGS_PCI
from vfiocore_sim.devices import EduDevice, IvshmemDevice, NvmeDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import IommuModel, MdevType, Topology
from vfiocore_sim.vfio.base import VfioDevice
from vfiocore_sim.vfio.pci import Bar, PciDevice

from .iommus import INTEL, SMMUV3
from .roles import MDEVS
from .sequence import CAP_IPC_LOCK, CAP_SYS_RAWIO, CAP_SYS_RESOURCE, Sequence


def simulated(sequence: Sequence, machine: str) -> SimHost:
    """A simulated machine with the devices of a guest (``tests/vm/bed``)."""
    privileges = sequence.privileges
    host = SimHost(
        topology(BOARDS[machine]),
        cap_ipc_lock=privileges.without != CAP_IPC_LOCK,
        cap_sys_rawio=privileges.without != CAP_SYS_RAWIO,
        cap_sys_resource=privileges.without != CAP_SYS_RESOURCE,
        memlock_limit=privileges.memlock,
    )
    # As the guest's cards are given to vfio-pci.
    for name in host.listdir("/sys/bus/pci/devices"):
        host.write_file(f"/sys/bus/pci/devices/{name}/driver_override", b"vfio-pci")
    return host


@dataclass(frozen=True)
class Board:
    """What a guest's board makes of the cards that all of them have.

    Attributes:
        iommu: What is in front of each group.
        firmware_command: What the firmware leaves in each card's COMMAND.
        dynamic_msix: Whether its interrupt controller adds MSI-X vectors to those that are in use.
    """

    iommu: IommuModel
    firmware_command: int
    dynamic_msix: bool

    def card(self, program: PciDevice) -> PciDevice:
        """A card, as it is on this board."""
        program.firmware_command = self.firmware_command
        return program


BOARDS: Mapping[str, Board] = {
    # No firmware: the kernel gives the cards their addresses. The interrupt controller is a GICv3.
    "aarch64": Board(iommu=SMMUV3, firmware_command=0, dynamic_msix=False),
    # Firmware gave every card its addresses.
    "x86_64": Board(
        iommu=INTEL,
        firmware_command=PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_SERR,
        dynamic_msix=True,
    ),
}
"""By the name of the machine in ``tests/vm/bed``; sequences are recorded on each."""


class Testdev(PciDevice):
    """The card ``pci-testdev`` of QEMU."""

    vendor_id = 0x1B36
    device_id = 0x0005
    class_code = 0x00FF00
    subsystem_vendor_id = 0x1AF4
    subsystem_id = 0x1100
    bars = (Bar(index=0, size=0x1000), Bar(index=1, size=0x100, io=True))
    power_management = False
    reset_methods = ("bus",)
    spare_bytes = True


class Mtty(VfioDevice):
    """The place of the kernel's sample serial card; sequences do not ask what it is."""

    emulated = True
    device_flags = VFIO_DEVICE_FLAGS_PCI


def topology(board: Board) -> Topology:
    """The guest's devices, each group behind the IOMMU."""
    found = Topology()
    for group in range(1, 6):
        found.iommu(group, board.iommu)
    return (
        found.pci("0000:01:00.0", lambda: board.card(EduDevice()), group=1)
        .pci("0000:02:00.0", lambda: board.card(nvme(board)), group=2)
        .pci("0000:03:00.0", lambda: board.card(EduDevice()), group=3)
        .pci("0000:03:00.1", lambda: board.card(EduDevice()), group=3)
        .pci("0000:04:00.0", lambda: board.card(Testdev()), group=4)
        .pci("0000:05:00.0", lambda: board.card(IvshmemDevice()), group=5)
        .platform("mtty", group=None, driver=None)
        .mdev_parent("mtty", MdevType("mtty-2", "vfio-pci", "mtty", Mtty, instances=12))
        .mdev(MDEVS["mtty"], parent="mtty")
    )


def nvme(board: Board) -> NvmeDevice:
    """The controller, with as many queues as QEMU's."""
    return NvmeDevice(queues=64, dynamic_msix=board.dynamic_msix)
