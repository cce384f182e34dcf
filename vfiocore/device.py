"""What every open device shares: regions and interrupts by index, reset, and orderly closing."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, ClassVar, Self

from attrs import define, field

from vfiocore.config.types import OnOffAuto
from vfiocore.container import Capability
from vfiocore.errors import DeviceAccessError
from vfiocore.feature import has_feature
from vfiocore.irq import Irq
from vfiocore.migration import MigrationFacts, decide_migration
from vfiocore.region import Area, ByteOrder, Region, mappable_areas, region_type
from vfiocore.uapi import vfio
from vfiocore.undo import run_all

if TYPE_CHECKING:
    from vfiocore.access import DeviceAccess, DeviceInfo, IrqInfo, RegionInfo
    from vfiocore.config.model import Device as DeviceConfig
    from vfiocore.container import Container, DeviceTarget
    from vfiocore.host import Host
    from vfiocore.registration import DeviceSetup


@define(eq=False, init=False)
class Device:
    """A live device. Frontends subclass it and add what their kind of device has.

    Attributes:
        id: Its id in the configuration.
        config: Its configuration.
        target: What is known of it: the kernel's name, sysfs facts.
        access: The open device file.
        container: Where its DMA goes.
        info: The kernel's description.
        migration: Whether live migration is on, and why not.
        ram_discard_allowed: True if memory may be taken from under it (balloon), since its driver
            pins only what it uses at the time.
    """

    id: str
    config: DeviceConfig = field(repr=False)
    target: DeviceTarget = field(repr=False)
    access: DeviceAccess
    container: Container = field(repr=False)
    info: DeviceInfo = field(repr=False)
    migration: MigrationFacts = field(repr=False)
    ram_discard_allowed: bool = field(repr=False)
    _regions: dict[int, Region] = field(repr=False)
    _irqs: dict[int, Irq] = field(repr=False)
    _exports_dmabufs: bool | None = field(repr=False)

    #: The byte order of the device's registers.
    byteorder: ClassVar[ByteOrder] = sys.byteorder

    def __init__(self, setup: DeviceSetup) -> None:
        """Ask the kernel about the open device; nothing of it changes."""
        self.config = setup.config
        self.id = setup.config.id or setup.target.name
        self.target = setup.target
        self.access = setup.access
        self.container = setup.container
        self.ram_discard_allowed = setup.ram_discard_allowed
        self._regions = {}
        self._irqs = {}
        self._exports_dmabufs = None
        self.info = setup.access.info()
        wish = setup.config.properties.get("enable-migration", OnOffAuto.AUTO)
        self.migration = decide_migration(wish, setup.access, setup.container)

    @property
    def name(self) -> str:
        """The kernel's name for it: ``0000:02:00.0``, a UUID; ``VFIO_FD9`` for a passed fd."""
        return self.target.name

    @property
    def host(self) -> Host:
        """The host that it lives on."""
        return self.access.host

    @property
    def reaches_peers(self) -> bool:
        """True if its container can show it other devices' BARs (peer-to-peer DMA).

        Where they are mapped as files this takes a kernel that makes files of them (Linux 6.19),
        which is asked through this device. A mediated device reaches memory only.
        """
        if self.target.is_mdev:
            return False
        capabilities = self.container.capabilities
        if Capability.BAR_BY_ADDRESS in capabilities:
            return True
        return Capability.MAP_FILE in capabilities and self.exports_dmabufs

    @property
    def exports_dmabufs(self) -> bool:
        """True if its BARs can be had as files (`Region.export_dmabuf`); asked once."""
        if self._exports_dmabufs is None:
            self._exports_dmabufs = has_feature(
                self.access, vfio.VFIO_DEVICE_FEATURE_DMA_BUF, vfio.VFIO_DEVICE_FEATURE_GET
            )
        return self._exports_dmabufs

    # -- regions and interrupts --------------------------------------------------------------
    def region(self, index: int) -> Region:
        """The region with this index; the same object each time.

        Raises:
            DeviceAccessError: EINVAL, the device has no such region.
        """
        if index not in self._regions:
            info = self.access.region_info(index)
            self._regions[index] = Region(
                self.access,
                info,
                f"{self.name} {self.region_name(index)}",
                self.byteorder,
                self.mappable_areas(info),
            )
        return self._regions[index]

    def find_region(self, kind: int, subtype: int) -> Region | None:
        """The device-specific region of this type and subtype, or None if it is not offered."""
        for index in range(self.info.num_regions):
            try:
                region = self.region(index)
            except DeviceAccessError as error:
                if error.errno != errno.EINVAL:
                    raise
                continue  # vfio_pci_core.c answers it for the VGA region of most devices
            if region_type(region.info) == (kind, subtype):
                return region
        return None

    def irq(self, index: int) -> Irq:
        """The interrupt with this index; the same object each time.

        Raises:
            DeviceAccessError: EINVAL, the device has no such index.
        """
        if index not in self._irqs:
            info = self.access.irq_info(index)
            name = f"{self.name} {self.irq_name(index)}"
            self._irqs[index] = self.make_irq(info, name)
        return self._irqs[index]

    # -- may be overridden -------------------------------------------------------------------
    def region_name(self, index: int) -> str:
        """What messages call a region."""
        return f"region {index}"

    def irq_name(self, index: int) -> str:
        """What messages call an interrupt index."""
        return f"irq {index}"

    def make_irq(self, info: IrqInfo, name: str) -> Irq:
        """The object for an interrupt index; frontends have kinds of their own."""
        return Irq(self.access, info, name)

    def mappable_areas(self, info: RegionInfo) -> tuple[Area, ...]:
        """What of a region may be mapped; frontends cut out what must not be."""
        return mappable_areas(info)

    def request_irq(self) -> Irq | None:
        """Signalled, again and again, while the host wants the device back: close it soon.

        None if the device's driver cannot ask for it.
        """
        return None

    def reset(self) -> None:
        """Reset the device with VFIO_DEVICE_RESET.

        Interrupts stay wired; everything else has to be programmed again.

        Raises:
            DeviceAccessError: EINVAL, it has no reset method; EAGAIN, a competing reset.
        """
        self.access.reset()

    def release(self) -> None:
        """Turn interrupts off and unmap regions, in this order; the fd stays open. Idempotent.

        Every step is tried; the first error is raised.
        """
        irqs = [irq.disable for irq in reversed(self._irqs.values())]
        regions = [region.unmap for region in reversed(self._regions.values())]
        run_all([*irqs, *regions])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
