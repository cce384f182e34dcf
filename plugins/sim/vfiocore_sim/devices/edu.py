"""A PCI device with the registers of QEMU's ``edu`` (``docs/specs/edu.rst``)."""

from __future__ import annotations

import contextlib
import math

from vfiocore_sim.device import DmaFault
from vfiocore_sim.vfio.pci import Bar, PciDevice

_BAR_SIZE = 1 << 20
_IDENTIFICATION = 0x010000ED
BUFFER_OFFSET = 0x40000
BUFFER_SIZE = 4096

_SMALLEST_ACCESS = 4
_REG_ID = 0x00
_REG_LIVENESS = 0x04
_REG_FACTORIAL = 0x08
_REG_STATUS = 0x20
_REG_IRQ_STATUS = 0x24
_REG_IRQ_RAISE = 0x60
_REG_IRQ_ACK = 0x64
_REG_DMA_SOURCE = 0x80
_REG_DMA_DESTINATION = 0x88
_REG_DMA_COUNT = 0x90
_REG_DMA_COMMAND = 0x98

_STATUS_IRQ_FACTORIAL = 0x80
_IRQ_FACTORIAL = 0x001
_IRQ_DMA = 0x100
_DMA_RUN = 0x1
_DMA_TO_RAM = 0x2
_DMA_IRQ = 0x4
_U32 = 0xFFFF_FFFF
_U64 = 0xFFFF_FFFF_FFFF_FFFF


class EduDevice(PciDevice):
    """QEMU's educational device: liveness check, factorials, interrupts, and a DMA engine.

    A factorial or a transfer is done when the register write that starts it returns. One end of
    each transfer is the card's 4 KiB buffer, which has the addresses from 0x40000 there and is out
    of the driver's reach: in BAR 0 there are only registers, so nothing of it can be mapped.

    A transfer that the IOMMU refuses, or that starts with bus mastering off, completes all the
    same: memory stays as it was, and the part of the buffer that was to be filled has zeros, as on
    the original. One that leaves the buffer moves nothing (QEMU 7.2 ends with an error).

    Registers below 0x80 are 4 bytes wide, the others 4 or 8. An access of 1 or 2 bytes reads as
    zero, since QEMU's memory core refuses it; any other that is no register's reads as all ones.
    Writes of these kinds are dropped. (``hw/misc/edu.c``, tried on QEMU 7.2.)

    Args:
        dma_mask: Width of the addresses that the DMA engine drives, in bits; higher bits are cut
            off (28 on the original by default).
        available_vectors: See `PciDevice`.
        dynamic_msix: See `PciDevice`.
    """

    vendor_id = 0x1234
    device_id = 0x11E8
    class_code = 0x00FF00
    revision = 0x10
    subsystem_vendor_id = 0x1AF4
    subsystem_id = 0x1100
    interrupt_pin = 1
    bars: tuple[Bar, ...] = (Bar(index=0, size=_BAR_SIZE),)
    msi_vectors = 1
    power_management = False
    spare_bytes = True
    reset_methods: tuple[str, ...] = ("bus",)

    def __init__(
        self,
        *,
        dma_mask: int = 28,
        available_vectors: int | None = None,
        dynamic_msix: bool = True,
    ) -> None:
        super().__init__(available_vectors=available_vectors, dynamic_msix=dynamic_msix)
        self._dma_mask = (1 << dma_mask) - 1
        self.power_on_reset()

    def power_on_reset(self) -> None:
        """All registers and the buffer to zero."""
        self._buffer = bytearray(BUFFER_SIZE)
        self._liveness = 0
        self._factorial = 0
        self._status = 0
        self._irq_status = 0
        self._dma = dict.fromkeys(
            (_REG_DMA_SOURCE, _REG_DMA_DESTINATION, _REG_DMA_COUNT, _REG_DMA_COMMAND), 0
        )

    def read(self, bar: int, offset: int, size: int) -> int:
        """A register; what there is instead says the class."""
        if size < _SMALLEST_ACCESS:
            return 0
        if not _width_fits(offset, size):
            return _U64
        registers = {
            _REG_ID: _IDENTIFICATION,
            _REG_LIVENESS: self._liveness,
            _REG_FACTORIAL: self._factorial,
            _REG_STATUS: self._status,
            _REG_IRQ_STATUS: self._irq_status,
            **self._dma,
        }
        return registers.get(offset, _U64)

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        """Store to a register; an access of the wrong width is dropped."""
        if not _width_fits(offset, size):
            return
        if offset == _REG_LIVENESS:
            self._liveness = ~value & _U32
        elif offset == _REG_FACTORIAL:
            self._compute(value)
        elif offset == _REG_STATUS:
            self._status = value & _STATUS_IRQ_FACTORIAL
        elif offset == _REG_IRQ_RAISE:
            self._interrupt(value)
        elif offset == _REG_IRQ_ACK:
            self._acknowledge(value)
        elif offset == _REG_DMA_COMMAND:
            self._start_dma(value)
        elif offset in self._dma:
            self._dma[offset] = value

    def _compute(self, value: int) -> None:
        # Modulo 2**32 every factorial from 34! on is zero: 2**32 divides it.
        self._factorial = math.factorial(value) & _U32 if value < 34 else 0
        if self._status & _STATUS_IRQ_FACTORIAL:
            self._interrupt(_IRQ_FACTORIAL)

    def _interrupt(self, cause: int) -> None:
        self._irq_status |= cause
        if self._irq_status:
            self.raise_irq()

    def _acknowledge(self, cause: int) -> None:
        self._irq_status &= ~cause
        if not self._irq_status:
            self.lower_irq()

    def _start_dma(self, command: int) -> None:
        if not command & _DMA_RUN:
            return
        self._transfer(to_ram=bool(command & _DMA_TO_RAM))
        self._dma[_REG_DMA_COMMAND] = command & ~_DMA_RUN
        if command & _DMA_IRQ:
            self._interrupt(_IRQ_DMA)

    def _transfer(self, *, to_ram: bool) -> None:
        source, destination = self._dma[_REG_DMA_SOURCE], self._dma[_REG_DMA_DESTINATION]
        count = self._dma[_REG_DMA_COUNT]
        start = (source if to_ram else destination) - BUFFER_OFFSET
        if start < 0 or start + count > BUFFER_SIZE:
            return
        window = slice(start, start + count)
        if to_ram:
            with contextlib.suppress(DmaFault):
                self.dma_write(destination & self._dma_mask, bytes(self._buffer[window]))
            return
        self._buffer[window] = self._fetch(source & self._dma_mask, count)

    def _fetch(self, iova: int, count: int) -> bytes:
        try:
            return self.dma_read(iova, count)
        except DmaFault:
            return bytes(count)  # pci_dma_read fills in zeros where nobody answers


def _width_fits(offset: int, size: int) -> bool:
    return size == 4 or (size == 8 and offset >= _REG_DMA_SOURCE)
