"""Configuration space as vfio-pci shows it: the header, COMMAND, and the capability lists.

Contents are little-endian by definition. Most of what a driver must not touch is the kernel's own
copy (vfio_pci_config.c): BARs, MSI address and data, capabilities it does not know are hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import define, field, frozen

from vfiocore.errors import MalformedReplyError
from vfiocore.region import Region
from vfiocore.uapi import pci_regs as pci

ALL_ONES = 0xFFFF_FFFF
POINTER_MASK = 0xFC
"""The two lowest bits of a capability pointer are reserved and have to be masked."""


def _nobody(offset: int, data: bytes) -> None:
    """Nobody follows."""


@frozen
class PciCapability:
    """One capability of a PCI function.

    Attributes:
        id: ``PCI_CAP_ID_*``, or ``PCI_EXT_CAP_ID_*`` if `extended`: two number spaces.
        offset: Where it begins in configuration space, in bytes.
        extended: True if it is in the list that begins at 0x100.
        version: The version of an extended capability; 0 for a standard one, which has none.
    """

    id: int
    offset: int
    extended: bool = False
    version: int = 0


@define(eq=False)
class ConfigSpace:
    """Configuration space; offsets in bytes.

    An access past its end is a DeviceAccessError (EINVAL, before it reaches the kernel).

    Attributes:
        region: The region that it is read through.
        on_write: Called after each write, with its offset and its bytes.
    """

    region: Region = field(repr=False)
    on_write: Callable[[int, bytes], object] = field(default=_nobody, repr=False)

    @property
    def size(self) -> int:
        """256 bytes, or 4096 with PCI Express."""
        return self.region.size

    # -- access ------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes; the kernel cuts them into aligned pieces of at most 4."""
        return self.region.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write `data`; the kernel drops in silence what it does not let a user write."""
        self.region.write(offset, data)
        self.on_write(offset, bytes(data))

    def read8(self, offset: int) -> int:
        """Read an 8-bit register."""
        return self.region.read8(offset)

    def read16(self, offset: int) -> int:
        """Read a 16-bit register at an even offset."""
        return self.region.read16(offset)

    def read32(self, offset: int) -> int:
        """Read a 32-bit register at a multiple of 4."""
        return self.region.read32(offset)

    def write8(self, offset: int, value: int) -> None:
        """Write an 8-bit register."""
        self.region.write8(offset, value)
        self.on_write(offset, value.to_bytes(1, "little"))

    def write16(self, offset: int, value: int) -> None:
        """Write a 16-bit register at an even offset."""
        self.region.write16(offset, value)
        self.on_write(offset, value.to_bytes(2, "little"))

    def write32(self, offset: int, value: int) -> None:
        """Write a 32-bit register at a multiple of 4."""
        self.region.write32(offset, value)
        self.on_write(offset, value.to_bytes(4, "little"))

    # -- header ------------------------------------------------------------------------------
    @property
    def vendor_id(self) -> int:
        """16 bits."""
        return self.read16(pci.PCI_VENDOR_ID)

    @property
    def device_id(self) -> int:
        """16 bits."""
        return self.read16(pci.PCI_DEVICE_ID)

    @property
    def subsystem_vendor_id(self) -> int:
        """16 bits."""
        return self.read16(pci.PCI_SUBSYSTEM_VENDOR_ID)

    @property
    def subsystem_id(self) -> int:
        """16 bits."""
        return self.read16(pci.PCI_SUBSYSTEM_ID)

    @property
    def class_code(self) -> int:
        """24 bits: base class, subclass, programming interface."""
        return self.read32(pci.PCI_CLASS_REVISION) >> 8

    @property
    def revision(self) -> int:
        """8 bits."""
        return self.read8(pci.PCI_REVISION_ID)

    @property
    def command(self) -> int:
        """The COMMAND register."""
        return self.read16(pci.PCI_COMMAND)

    @command.setter
    def command(self, value: int) -> None:
        self.write16(pci.PCI_COMMAND, value)

    @property
    def status(self) -> int:
        """The STATUS register."""
        return self.read16(pci.PCI_STATUS)

    # -- capabilities ------------------------------------------------------------------------
    def capabilities(self) -> tuple[PciCapability, ...]:
        """Every capability that the kernel shows: the standard ones, then the extended ones.

        Raises:
            MalformedReplyError: a list loops, or points into the header.
        """
        return (*self._standard(), *self._extended())

    def find_capability(self, number: int) -> PciCapability | None:
        """The first standard capability with this id (``PCI_CAP_ID_*``), or None."""
        return next((cap for cap in self._standard() if cap.id == number), None)

    def find_extended_capability(self, number: int) -> PciCapability | None:
        """The first extended capability with this id (``PCI_EXT_CAP_ID_*``), or None."""
        return next((cap for cap in self._extended() if cap.id == number), None)

    def _standard(self) -> Iterator[PciCapability]:
        if not self.status & pci.PCI_STATUS_CAP_LIST:
            return
        seen: set[int] = set()
        offset = self.read8(pci.PCI_CAPABILITY_LIST) & POINTER_MASK
        while offset:
            self._check_link(offset, seen, pci.PCI_STD_HEADER_SIZEOF)
            yield PciCapability(self.read8(offset + pci.PCI_CAP_LIST_ID), offset)
            offset = self.read8(offset + pci.PCI_CAP_LIST_NEXT) & POINTER_MASK

    def _extended(self) -> Iterator[PciCapability]:
        if self.size <= pci.PCI_CFG_SPACE_SIZE:
            return
        seen: set[int] = set()
        offset = pci.PCI_CFG_SPACE_SIZE
        while offset:
            self._check_link(offset, seen, pci.PCI_CFG_SPACE_SIZE)
            header = self.read32(offset)
            if header == ALL_ONES:  # nobody answers there: no list
                return
            number = pci.PCI_EXT_CAP_ID(header)
            # vfio_pci_config.c:vfio_ecap_init: a hidden first capability keeps its place with id 0.
            if number:
                version = pci.PCI_EXT_CAP_VER(header)
                yield PciCapability(number, offset, extended=True, version=version)
            offset = pci.PCI_EXT_CAP_NEXT(header)

    def _check_link(self, offset: int, seen: set[int], first: int) -> None:
        if offset < first:
            raise MalformedReplyError(
                f"{self.region.name}: a capability at {offset:#x} would be below {first:#x}"
            )
        if offset in seen:
            raise MalformedReplyError(
                f"{self.region.name}: the capability list loops at {offset:#x}"
            )
        seen.add(offset)
