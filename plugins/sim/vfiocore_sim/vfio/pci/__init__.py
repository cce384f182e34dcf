"""vfio-pci, and the base for authors of simulated PCI devices.

A device is a subclass of `PciDevice` that declares its identity, BARs and interrupts as class
attributes and implements registers::

    class Doorbell(PciDevice):
        vendor_id, device_id, class_code = 0x1234, 0x0001, 0xFF0000
        bars = (Bar(index=0, size=4096),)
        msi_vectors = 1

        def read(self, bar: int, offset: int, size: int) -> int:
            return 0x600D

        def write(self, bar: int, offset: int, value: int, size: int) -> None:
            self.dma_write(value, b"ring")  # through the IOMMU; DmaFault if it refuses
            self.raise_irq(0)
"""

from __future__ import annotations

from vfiocore_sim.vfio.pci.device import PciDevice
from vfiocore_sim.vfio.pci.layout import Bar, MsixTable

__all__ = ["Bar", "MsixTable", "PciDevice"]
