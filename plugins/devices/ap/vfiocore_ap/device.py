"""A matrix of cryptographic adapters: interrupts, reset, and what sysfs tells of it.

The guest talks to the queues itself (SIE interprets the AP instructions), so there are no regions.
"""

from __future__ import annotations

import errno

from vfiocore.access import IrqInfo
from vfiocore.device import Device
from vfiocore.errors import UnsupportedError, kernel_error
from vfiocore.irq import Irq, SignalIrq
from vfiocore.registration import DeviceSetup
from vfiocore.uapi import vfio
from vfiocore_ap.matrix import ApMatrix, parse_matrix

IRQ_NAMES = {
    vfio.VFIO_AP_REQ_IRQ_INDEX: "request",
    vfio.VFIO_AP_CFG_CHG_IRQ_INDEX: "configuration change",
}


class ApDevice(Device):
    """A live AP matrix.

    Attributes:
        request: Signalled, again and again, while the host wants the device back: close it
            (Linux 6.6; None before).
        config_changed: Signalled when the queues that the guest sees have changed: read
            `guest_matrix` (Linux 6.15; None before).
    """

    request: Irq | None
    config_changed: Irq | None

    def __init__(self, setup: DeviceSetup) -> None:
        """Wrap an open device.

        Raises:
            UnsupportedError: EINVAL, it is not an AP matrix.
        """
        super().__init__(setup)
        if not self.info.flags & vfio.VFIO_DEVICE_FLAGS_AP:
            raise UnsupportedError(
                errno.EINVAL,
                "VFIO_DEVICE_GET_INFO",
                self.name,
                f"this is not an AP matrix: its flags are {self.info.flags:#x}",
                "another device type fits it, or sysfsdev= or fd= is of another device",
            )
        self.request = self._irq_if_there(vfio.VFIO_AP_REQ_IRQ_INDEX)
        self.config_changed = self._irq_if_there(vfio.VFIO_AP_CFG_CHG_IRQ_INDEX)

    @property
    def matrix(self) -> ApMatrix | None:
        """What is assigned to the device, read from sysfs now; None if only its fd is known.

        Raises:
            KernelError: The attributes cannot be read.
        """
        return self._read_matrix("matrix")

    @property
    def guest_matrix(self) -> ApMatrix | None:
        """The part of `matrix` that the guest can use, since it exists on the host right now.

        None if only the device's fd is known, or before Linux 6.0. Control domains are those of
        `matrix`: the kernel does not list them apart.

        Raises:
            KernelError: The attributes cannot be read.
        """
        device = self.target.device
        if device is None or not self.host.exists(f"{device.path}/guest_matrix"):
            return None
        return self._read_matrix("guest_matrix")

    def make_irq(self, info: IrqInfo, name: str) -> Irq:
        """An index that is turned off by taking its eventfd away."""
        return SignalIrq(self.access, info, name)

    def request_irq(self) -> Irq | None:
        """The same as `request`."""
        return self.request

    def irq_name(self, index: int) -> str:
        """What messages call an interrupt index."""
        return IRQ_NAMES.get(index) or super().irq_name(index)

    # ----------------------------------------------------------------------------------------
    def _irq_if_there(self, index: int) -> Irq | None:
        return self.irq(index) if index < self.info.num_irqs else None

    def _read_matrix(self, attribute: str) -> ApMatrix | None:
        device = self.target.device
        if device is None:
            return None
        return parse_matrix(
            self._attribute(f"{device.path}/{attribute}"),
            self._attribute(f"{device.path}/control_domains"),
        )

    def _attribute(self, path: str) -> str:
        try:
            return self.host.read_file(path).decode(errors="replace")
        except OSError as error:
            raise kernel_error(error, "read", path) from error
