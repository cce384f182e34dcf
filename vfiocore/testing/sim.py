"""A backend that talks to VFIO, on the simulated host. Needs vfiocore-sim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import define, frozen

from vfiocore.sysfs import read_device
from vfiocore.testing.under_test import BackendUnderTest, DeviceFault, PassedDevice
from vfiocore_sim.device import DmaFault
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import IommuModel, ReservedRegion, Topology
from vfiocore_sim.vfio.pci import Bar, PciDevice

if TYPE_CHECKING:
    from vfiocore.device import Device

CARDS = ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0")
"""The PCI addresses of the machine's cards: each in a group of its own, the last one behind an
IOMMU with fewer usable addresses."""

RAM_BAR = 2
"""The BAR of a card that is plain memory, of one page."""

SCRATCH, WIDE_SCRATCH, DOORBELL, ACKNOWLEDGE = 0x04, 0x08, 0x10, 0x14
"""Registers in BAR 0: 4 and 8 bytes that keep what is written; 4 bytes whose write signals the
vector of that number, or asserts INTx; and 4 bytes whose write takes INTx back."""

IDENTIFICATION = 0x0C0FFEE0
"""What the register at 0 has."""

HOLE = ReservedRegion(0x4000_0000, 0x4FFF_FFFF)
"""What the IOMMU of the last card keeps for itself."""


class ConformanceCard(PciDevice):
    """A card with registers to write to, a BAR of memory, INTx, and four MSI vectors."""

    vendor_id: int = 0x1234
    device_id: int = 0xC0FF
    class_code: int = 0xFF0000
    interrupt_pin = 1
    msi_vectors = 4

    def __init__(self, page_size: int) -> None:
        self.bars: tuple[Bar, ...] = (
            Bar(index=0, size=0x100),
            Bar(index=RAM_BAR, size=page_size, ram=((0, page_size),)),
        )
        super().__init__()

    def power_on_reset(self) -> None:
        """Both scratch registers are 0."""
        self._kept = {SCRATCH: 0, WIDE_SCRATCH: 0}

    def read(self, bar: int, offset: int, size: int) -> int:
        """A register; 0 where there is none."""
        return IDENTIFICATION if offset == 0 else self._kept.get(offset, 0)

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        """Store, ring, or be quiet."""
        if offset == DOORBELL:
            self.raise_irq(value)
        elif offset == ACKNOWLEDGE:
            self.lower_irq()
        elif offset in self._kept:
            self._kept[offset] = value


def machine(page_size: int, *, noiommu: bool = False) -> Topology:
    """A machine with three cards; see `CARDS`.

    Args:
        page_size: In bytes, of the `SimHost` that it is for.
        noiommu: Without an IOMMU.
    """
    topology = Topology()
    for group, name in enumerate(CARDS, start=1):
        topology.pci(name, lambda: ConformanceCard(page_size), group=group, noiommu=noiommu)
    reserved = (*IommuModel().reserved, HOLE)
    return topology if noiommu else topology.iommu(len(CARDS), IommuModel(reserved=reserved))


@frozen
class SimFaults:
    """`vfiocore.testing.Faults` of a simulated host.

    Attributes:
        host: The host.
        map_call: What maps one range, as `SimHost.fail` names it: ``VFIO_IOMMU_MAP_DMA``.
        unmap_call: What unmaps.
    """

    host: SimHost
    map_call: str
    unmap_call: str

    def fail_map(self, number: int, *, after: int) -> None:
        """Let a later map fail."""
        self.host.fail(self.map_call, number, after=after)

    def fail_unmap(self, number: int, *, after: int) -> None:
        """Let a later unmap fail."""
        self.host.fail(self.unmap_call, number, after=after)

    def calls(self) -> Sequence[str]:
        """What the host was asked."""
        return [call.operation for call in self.host.calls]

    def fail_call(self, name: str, number: int, *, after: int) -> None:
        """Let a later call of that name fail."""
        self.host.fail(name, number, after=after)


@define(eq=False, kw_only=True)
class SimBackend(BackendUnderTest):
    """A backend over VFIO, tested on a simulated machine whose devices reach memory by themselves.

    Attributes:
        host: The simulated host; its topology may be `machine`.
        passes_fds: True if the backend takes an opened cdev.
    """

    host: SimHost
    passes_fds: bool = False

    def device_read(self, device: Device, iova: int, size: int) -> bytes:
        """Through the simulated IOMMU."""
        try:
            return self.host.device(device.name).dma.read(iova, size)
        except DmaFault as fault:
            raise DeviceFault(str(fault)) from None

    def device_write(self, device: Device, iova: int, data: bytes) -> None:
        """Through the simulated IOMMU."""
        try:
            self.host.device(device.name).dma.write(iova, data)
        except DmaFault as fault:
            raise DeviceFault(str(fault)) from None

    def leftovers(self) -> Sequence[str]:
        """Open files, mapped regions, pinned memory."""
        return left_behind(self.host)

    def pinned_bytes(self) -> int | None:
        """What the simulated kernel has pinned."""
        return self.host.pinned_bytes

    def pass_device(self) -> PassedDevice | None:
        """The cdev of the first device."""
        if not self.passes_fds:
            return None
        kind, _, name = self.devices[0].partition(",host=")
        device = read_device(self.host, f"/sys/bus/pci/devices/{name}")
        fd = self.host.open(f"/dev/vfio/devices/{device.cdev}")
        return PassedDevice(f"{kind},fd={fd}", (fd,))


def left_behind(host: SimHost) -> list[str]:
    """What the simulated kernel still holds for this process, in words."""
    pinned = [f"{host.pinned_bytes} pinned bytes"] if host.pinned_bytes else []
    return [*host.open_files(), *(f"a mapping of {name}" for name in host.live_mappings()), *pinned]
