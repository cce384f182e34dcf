"""Cards with faults of their own, for topologies of tests: ``device = "cards:Corrupt"``."""

from __future__ import annotations

import errno

from vfiocore.uapi.vfio import VFIO_PCI_REQ_IRQ_INDEX
from vfiocore_sim.devices import EduDevice, NvmeDevice
from vfiocore_sim.vfio.irqset import IrqRequest

FACTORIAL = 0x08
CONTROLLER_STATUS = 0x1C


class Corrupt(EduDevice):
    """Turns a bit over in what it writes to memory."""

    def dma_write(self, iova: int, data: bytes) -> None:
        super().dma_write(iova, bytes([data[0] ^ 1]) + data[1:])


class Miscounting(EduDevice):
    """Is off by one in every factorial."""

    def read(self, bar: int, offset: int, size: int) -> int:
        return super().read(bar, offset, size) + (offset == FACTORIAL)


class NeverReady(NvmeDevice):
    """Is enabled, and does not come up."""

    def read(self, bar: int, offset: int, size: int) -> int:
        return 0 if offset == CONTROLLER_STATUS else super().read(bar, offset, size)


class Taken(EduDevice):
    """Is held by somebody else."""

    def open_device(self) -> None:
        raise OSError(errno.EBUSY, "taken")


class Wanted(EduDevice):
    """Is wanted back by the host as soon as somebody listens."""

    def set_irqs(self, request: IrqRequest) -> int:
        result = super().set_irqs(request)
        if request.index == VFIO_PCI_REQ_IRQ_INDEX and request.count:
            self.request(0)
        return result
