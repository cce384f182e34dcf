"""Cards with faults of their own, for topologies of tests: ``device = "cards:Corrupt"``."""

from __future__ import annotations

import errno

from vfiocore.uapi.vfio import VFIO_PCI_REQ_IRQ_INDEX
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.vfio.irqset import IrqRequest


class Corrupt(EduDevice):
    """Turns a bit over in what it writes to memory."""

    def dma_write(self, iova: int, data: bytes) -> None:
        super().dma_write(iova, bytes([data[0] ^ 1]) + data[1:])


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
