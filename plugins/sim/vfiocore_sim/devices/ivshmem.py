"""A PCI device with the memory of QEMU's ``ivshmem-plain`` (``docs/specs/ivshmem-spec.rst``)."""

from __future__ import annotations

import mmap

from vfiocore_sim.vfio.pci import Bar, PciDevice
from vfiocore_sim.vfio.ram import RamArea

_REGISTERS = 0
_REGISTERS_SIZE = 256
_MEMORY = 2

_REG_INTR_MASK = 0x00
_REG_INTR_STATUS = 0x04


class IvshmemDevice(PciDevice):
    """QEMU's shared memory card without interrupts: BAR 2 is RAM, all of it can be mapped.

    BAR 0 has the registers of the variants that interrupt: IntrMask (0x0) keeps what is written,
    IntrStatus (0x4) until it is read, IVPosition (0x8) is zero, Doorbell (0xc) rings nobody's
    bell. The memory belongs to whoever shares it, so a reset leaves it as it is.

    Args:
        size: Of the memory, in bytes: a power of two, at least a page.

    Raises:
        ValueError: `size` is something else.
    """

    vendor_id = 0x1AF4
    device_id = 0x1110
    class_code = 0x050000
    revision = 1
    subsystem_vendor_id = 0x1AF4
    subsystem_id = 0x1100
    power_management = False
    spare_bytes = True
    reset_methods: tuple[str, ...] = ("bus",)
    reset_keeps_ram = True

    def __init__(self, *, size: int = 1 << 20) -> None:
        if size < mmap.PAGESIZE:
            msg = f"{size:#x} bytes are less than a page"
            raise ValueError(msg)
        self.bars: tuple[Bar, ...] = (
            Bar(index=_REGISTERS, size=_REGISTERS_SIZE),
            Bar(index=_MEMORY, size=size, wide=True, prefetchable=True, ram=((0, size),)),
        )
        super().__init__()
        self.power_on_reset()

    @property
    def memory(self) -> RamArea:
        """The memory, as the others who share it see it."""
        return self.ram(_MEMORY)

    def power_on_reset(self) -> None:
        """The registers to zero."""
        self._intr_mask = 0
        self._intr_status = 0

    def read(self, bar: int, offset: int, size: int) -> int:
        """A register, in words of 4 bytes; reading IntrStatus clears it."""
        if size > 4:
            return self.read(bar, offset, 4) | self.read(bar, offset + 4, 4) << 32
        if offset == _REG_INTR_MASK:
            return self._intr_mask
        if offset == _REG_INTR_STATUS:
            status, self._intr_status = self._intr_status, 0
            return status
        return 0

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        """Store to a register, in words of 4 bytes."""
        if size > 4:
            self.write(bar, offset, value & 0xFFFF_FFFF, 4)
            self.write(bar, offset + 4, value >> 32, 4)
        elif offset == _REG_INTR_MASK:
            self._intr_mask = value
        elif offset == _REG_INTR_STATUS:
            self._intr_status = value
