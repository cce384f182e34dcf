"""The card, which copies memory, and its driver."""

from __future__ import annotations

import ctypes
import errno
import struct

from attrs import define

from vfiocore.access import DeviceAccess, DeviceInfo, IrqInfo, RegionInfo
from vfiocore.device import Device
from vfiocore.errors import ClosedError, DeviceAccessError, UnsupportedError
from vfiocore.host import EVENTFD_ONE
from vfiocore.memory import Access, MappingTable
from vfiocore.uapi import vfio

SOURCE, DESTINATION, SIZE, STATUS = 0x00, 0x08, 0x10, 0x18
"""Registers of 8 bytes; writing SIZE starts a copy, STATUS tells how it went."""
DONE, FAULT, REGISTERS = 1, 2, 0x20


class UnitFault(Exception):  # noqa: N818 - it is what an IOMMU calls it
    """The isolation unit does not let an access through."""


@define(eq=False, kw_only=True)
class Card(DeviceAccess):
    """The hardware: what VFIO asks a device file for is answered here."""

    table: MappingTable
    signal: int = -1

    def info(self) -> DeviceInfo:
        """One region, one interrupt."""
        if self.closed:
            raise ClosedError(f"{self.name} is closed")
        return DeviceInfo(vfio.VFIO_DEVICE_FLAGS_RESET, num_regions=1, num_irqs=1)

    def region_info(self, index: int) -> RegionInfo:
        """The registers; nothing of them can be mapped."""
        self._check(index)
        flags = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
        return RegionInfo(index, flags, REGISTERS, offset=0)

    def irq_info(self, index: int) -> IrqInfo:
        """A copy is over."""
        self._check(index)
        return IrqInfo(index, vfio.VFIO_IRQ_INFO_EVENTFD, count=1)

    def set_irqs(
        self, index: int, action: int, *, start: int = 0, count: int = 1, data: bytes = b""
    ) -> int:
        """Attach an eventfd, or take it away."""
        if not action & vfio.VFIO_IRQ_SET_ACTION_TRIGGER:
            raise DeviceAccessError(errno.EINVAL, "set_irqs", self.name, "there is no mask")
        self.signal = struct.unpack("=i", data)[0] if data else -1
        return 0

    def feature(self, feature: int, operation: int, payload: bytes = b"") -> bytes:
        """There is none."""
        raise UnsupportedError(errno.ENOTTY, "feature", self.name)

    def reset(self) -> None:
        """All registers to zero."""
        super().pwrite(bytes(REGISTERS), 0)

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write registers; a copy begins and ends within the write."""
        super().pwrite(data, offset)
        if offset == SIZE:
            status = self._copy(*struct.unpack("=3Q", self.pread(STATUS, 0)))
            super().pwrite(struct.pack("=Q", status), STATUS)
            if self.signal >= 0:
                self.host.write(self.signal, EVENTFD_ONE)

    def reach(self, iova: int, size: int, access: Access) -> int:
        """The process address behind `size` bytes at `iova`; UnitFault."""
        mapping = self.table.overlapping(iova, 1)
        if mapping is None or iova + size - 1 > mapping.last or access not in mapping.access:
            raise UnitFault(f"{access.name} of {size} bytes at {iova:#x}")
        return mapping.vaddr + iova - mapping.iova

    def _copy(self, source: int, destination: int, size: int) -> int:
        try:
            data = ctypes.string_at(self.reach(source, size, Access.READ), size)
            ctypes.memmove(self.reach(destination, size, Access.WRITE), data, size)
        except UnitFault:
            return FAULT
        return DONE

    def _check(self, index: int) -> None:
        if index:
            raise DeviceAccessError(errno.EINVAL, "info", self.name, f"there is no index {index}")


class LoopbackCard(Device):
    """The driver."""

    def copy(self, source: int, destination: int, size: int) -> bool:
        """Copy `size` bytes of memory by DMA; False if the card may not reach them."""
        registers = self.region(0)
        registers.write64(SOURCE, source)
        registers.write64(DESTINATION, destination)
        registers.write64(SIZE, size)
        return registers.read64(STATUS) == DONE
