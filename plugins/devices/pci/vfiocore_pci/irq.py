"""Interrupts of a PCI function: INTx, MSI and MSI-X exclude each other."""

from __future__ import annotations

import errno
from collections.abc import Callable

from attrs import define, field

from vfiocore.errors import DeviceAccessError
from vfiocore.irq import Irq, Vector


@define(eq=False)
class PciIrq(Irq):
    """INTx, MSI or MSI-X.

    Attributes:
        active: Which of the three is enabled.
    """

    active: Callable[[], Irq | None] = field(repr=False)

    def enable(self, vectors: int = 1, *, minimum: int | None = None) -> tuple[Vector, ...]:
        """Signal the first `vectors` vectors, as `Irq.enable` does.

        INTx masks itself with each interrupt (`automasked`): serve the device, then `unmask`.

        Raises:
            DeviceAccessError: EINVAL, another of INTx, MSI and MSI-X is enabled; and as
                `Irq.enable`.
        """
        # vfio_pci_intrs.c:is_irq_none: the kernel answers EINVAL without a word about why.
        active = self.active()
        if active is not None and active is not self:
            raise DeviceAccessError(
                errno.EINVAL,
                "VFIO_DEVICE_SET_IRQS",
                self.name,
                f"{active.name} is enabled, and a device has only one of INTx, MSI and MSI-X at a time",
                "call disable() on it first",
            )
        return super().enable(vectors, minimum=minimum)
