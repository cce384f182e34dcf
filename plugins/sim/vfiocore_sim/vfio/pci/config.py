"""A PCI function's configuration space as vfio-pci shows it: values, writable bits, capabilities.

Every register that vfio-pci virtualises (identification, BARs, capability pointers, MSI) and every
register it passes through to a device that has nothing else behind it behave the same to a reader:
a value of which some bits can be written. The rest is what `written` callbacks do.
Follows ``vfio_pci_config.c``.
"""

from __future__ import annotations

import errno

from vfiocore.uapi.pci_regs import (
    PCI_CAP_LIST_NEXT,
    PCI_CAPABILITY_LIST,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
)
from vfiocore_sim.refusal import fail

CONFIG_SIZE = 256
EXTENDED_SIZE = 4096
_FIRST_CAPABILITY = 0x40
_FIRST_EXTENDED = 0x100


class ConfigSpace:
    """The bytes of configuration space, little-endian by definition of PCI."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values = bytearray(size)
        self._writable = bytearray(size)
        self._free = _FIRST_CAPABILITY
        self._last = PCI_CAPABILITY_LIST - PCI_CAP_LIST_NEXT
        self._taken: set[int] = set()
        self._free_extended = _FIRST_EXTENDED
        self._last_extended: int | None = None

    # -- declaring ------------------------------------------------------------------------------
    def define(self, offset: int, value: int, size: int, writable: int = 0) -> None:
        """Give a register its value and the bits of it that the user can write."""
        self.set(offset, value, size)
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")

    def add_capability(self, ident: int, size: int) -> int:
        """Append a standard capability of `size` bytes, header included; its offset."""
        offset = self._free
        if offset + size > CONFIG_SIZE:
            msg = f"capability {ident:#x} does not fit into configuration space"
            raise ValueError(msg)
        self._free = (offset + size + 3) & ~3
        self._taken.update(range(offset, offset + size))
        self.set(offset, ident, 1)
        self.set(self._last + PCI_CAP_LIST_NEXT, offset, 1)
        self._last = offset
        self.set(PCI_STATUS, self.get(PCI_STATUS, 2) | PCI_STATUS_CAP_LIST, 2)
        return offset

    def add_extended(self, ident: int, version: int, size: int) -> int:
        """Append an extended capability of `size` bytes, header included; its offset."""
        offset = self._free_extended
        if offset + size > self.size:
            msg = f"extended capability {ident:#x} does not fit into configuration space"
            raise ValueError(msg)
        self._free_extended = (offset + size + 3) & ~3
        self.set(offset, ident | version << 16, 4)
        if self._last_extended is not None:
            header = self.get(self._last_extended, 4)
            self.set(self._last_extended, header | offset << 20, 4)
        self._last_extended = offset
        return offset

    def open_spare_bytes(self) -> None:
        """Let the user write what no standard capability has; nothing is added after that."""
        for start in range(_FIRST_CAPABILITY, CONFIG_SIZE):
            if start not in self._taken:
                self._writable[start] = 0xFF

    # -- the device's own access ----------------------------------------------------------------
    def get(self, offset: int, size: int) -> int:
        """A register's value."""
        return int.from_bytes(self._values[offset : offset + size], "little")

    def set(self, offset: int, value: int, size: int) -> None:
        """Set a register, whatever the user may write of it."""
        self._values[offset : offset + size] = value.to_bytes(size, "little")

    # -- the user's access ----------------------------------------------------------------------
    def check(self, offset: int, size: int) -> None:
        """``vfio_pci_config_rw``: beyond the end nothing is transferred at all.

        Raises:
            OSError: EFAULT.
        """
        if offset + size > self.size:
            fail(errno.EFAULT)

    def read(self, offset: int, size: int) -> bytes:
        """What the user reads."""
        return bytes(self._values[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """What the user writes: the writable bits of each byte."""
        for position, byte in enumerate(data, offset):
            mask = self._writable[position]
            self._values[position] = (self._values[position] & ~mask) | (byte & mask)
