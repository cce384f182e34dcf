"""A device of the simulated machine, as the driver core and vfio_main see it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.device import SimDevice
    from vfiocore_sim.kernel.group import Group
    from vfiocore_sim.kernel.hwpt import Attachment
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.kernel.translation import Translation

#: Drivers that leave DMA to user space (``driver_managed_dma``): they never own a group's DMA.
_MANAGED_DMA = frozenset({"pci-stub", "pcieport"})
_VFIO_DRIVERS = frozenset({"mtty", "mdpy", "mbochs"})


def is_vfio_driver(driver: str | None) -> bool:
    """True for a driver that registers its devices with the VFIO core."""
    if driver is None:
        return False
    # vfio-pci and its variants (mlx5_vfio_pci), vfio-platform, vfio_ap_mdev, vfio_ccw_mdev...
    return "vfio" in driver or driver in _VFIO_DRIVERS


class Node:
    """A device: its place, driver and group; and, bound to VFIO, who has it open."""

    def __init__(
        self, machine: Machine, bus: str, name: str, *, parent: str, program: SimDevice | None
    ) -> None:
        self.machine = machine
        self.bus = bus
        self.name = name
        #: The directory under /sys/devices that the device's own directory is in.
        self.parent = parent
        self.program = program
        self.driver: str | None = None
        self.driver_override: str | None = None
        self.group: Group | None = None
        #: The N of its ``vfioN`` in sysfs, None while no VFIO driver is bound.
        self.vfio_index: int | None = None
        #: Opens through VFIO (``vfio_device.open_count``).
        self.open_count: int = 0
        #: All open files, bound or not: what driver unbind waits for.
        self.files = 0
        self.opened_by_cdev = False
        self.kvm: object | None = None
        #: Its object in an iommufd, while it is bound there.
        self.attachment: Attachment | None = None
        #: Where DMA goes now, asked at each access.
        self.translation: Callable[[], Translation | None] = lambda: None

    @property
    def path(self) -> str:
        """The directory in sysfs."""
        return f"{self.parent}/{self.name}"

    @property
    def on_vfio(self) -> bool:
        """True when a VFIO driver is bound."""
        return is_vfio_driver(self.driver)

    @property
    def owns_dma(self) -> bool:
        """True when a host driver uses the kernel's DMA API: the group is not viable."""
        return not (self.driver is None or self.on_vfio or self.driver in _MANAGED_DMA)

    @property
    def cdev_index(self) -> int | None:
        """The number of its character device, if it has one.

        ``vfio.h:vfio_device_add``: a device without an IOMMU is added without.
        """
        return None if self.group is None or self.group.noiommu else self.vfio_index

    @property
    def emulated(self) -> bool:
        """True for a mediated device."""
        return self.bus == "mdev" or (self.program is not None and self.program.emulated)

    def vfio_program(self) -> SimDevice:
        """The device program; only a device that VFIO drives has its files opened."""
        if self.program is None:
            raise refused(errno.ENODEV)
        return self.program

    def open(self, kvm: object | None) -> None:
        """``vfio_main.c:vfio_df_device_first_open``: the driver's open, at the first one."""
        if not self.open_count:
            self.kvm = kvm
            try:
                self._open_driver()
            except OSError:
                self.kvm = None
                raise
        self.open_count += 1

    def _open_driver(self) -> None:
        program = self.vfio_program()
        if program.needs_kvm() and self.kvm is None:
            raise refused(errno.EINVAL)  # vfio_ap_ops.c:vfio_ap_mdev_open_device
        program.open_device()

    def close(self) -> None:
        """``vfio_main.c:vfio_df_device_last_close``."""
        self.open_count -= 1
        if not self.open_count:
            self.vfio_program().close_device()
            self.kvm = None
