"""The driver. Source of the registers: QEMU, ``docs/specs/edu.rst``."""

from __future__ import annotations

import errno
import time

from vfiocore.device import Device
from vfiocore.errors import UnsupportedError
from vfiocore.registration import DeviceSetup
from vfiocore.uapi import pci_regs, vfio
from vfiocore.undo import run_all

IDENTITY, LIVENESS, FACTORIAL, STATUS = 0x00, 0x04, 0x08, 0x20
IRQ_STATUS, IRQ_ACKNOWLEDGE = 0x24, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98

KIND, KIND_MASK = 0xED, 0xFFFF
INTERRUPT_WHEN_DONE = 0x80
START, TO_MEMORY, INTERRUPT = 0x1, 0x2, 0x4

BUFFER, BUFFER_SIZE = 0x40000, 4096
"""The card's own memory, in bytes; one end of every transfer is there."""

ADDRESS_LIMIT = 1 << 28
"""The card drives 28 address bits: allocate with ``session.dma_alloc(…, below=ADDRESS_LIMIT)``."""


class EduCard(Device):
    """The card, with memory decode, bus mastering and its interrupt on."""

    byteorder = "little"

    def __init__(self, setup: DeviceSetup) -> None:
        """Look whether it is one, and turn it on.

        Raises:
            UnsupportedError: EINVAL, it is another kind of device.
        """
        super().__init__(setup)
        self._config = self.region(vfio.VFIO_PCI_CONFIG_REGION_INDEX)
        self._registers = self.region(vfio.VFIO_PCI_BAR0_REGION_INDEX)
        self._done = self.irq(vfio.VFIO_PCI_MSI_IRQ_INDEX)
        self._set_command(pci_regs.PCI_COMMAND_MEMORY | pci_regs.PCI_COMMAND_MASTER)
        if self._registers.read32(IDENTITY) & KIND_MASK != KIND:
            self._set_command(0)
            raise UnsupportedError(errno.EINVAL, "open", self.name, "this is not an edu card")
        self._done.enable()

    def is_alive(self) -> bool:
        """True if it answers: the liveness register gives the complement of what was written."""
        self._registers.write32(LIVENESS, 0x5A5A_0000)
        return self._registers.read32(LIVENESS) == 0xA5A5_FFFF

    def factorial(self, number: int, timeout: float = 5.0) -> int:
        """`number`! modulo 2^32.

        Raises:
            InterruptTimeout: the card took longer than `timeout` seconds.
        """
        self._registers.write32(STATUS, INTERRUPT_WHEN_DONE)
        self._registers.write32(FACTORIAL, number)
        self._wait(timeout)
        return self._registers.read32(FACTORIAL)

    def copy(self, source: int, destination: int, size: int, timeout: float = 5.0) -> None:
        """Copy `size` bytes from one iova to another, through the card's buffer.

        Raises:
            ValueError: an address is beyond `ADDRESS_LIMIT`.
            InterruptTimeout: a transfer took longer than `timeout` seconds.
        """
        if max(source, destination) + size > ADDRESS_LIMIT:
            raise ValueError(f"{self.name} reaches addresses below {ADDRESS_LIMIT:#x} only")
        for done in range(0, size, BUFFER_SIZE):
            part = min(BUFFER_SIZE, size - done)
            self._transfer(source + done, BUFFER, part, START | INTERRUPT, timeout)
            command = START | TO_MEMORY | INTERRUPT
            self._transfer(BUFFER, destination + done, part, command, timeout)

    def release(self) -> None:
        """No DMA first, then what every device does. Idempotent."""
        run_all([self._stop, super().release])

    # ----------------------------------------------------------------------------------------
    def _transfer(
        self, source: int, destination: int, size: int, command: int, timeout: float
    ) -> None:
        self._registers.write64(DMA_SOURCE, source)
        self._registers.write64(DMA_DESTINATION, destination)
        self._registers.write64(DMA_COUNT, size)
        self._registers.write64(DMA_COMMAND, command)
        self._wait(timeout)

    def _wait(self, timeout: float) -> None:
        """Wait for the card's interrupt, and take its causes back."""
        deadline = time.monotonic() + timeout
        while not (causes := self._registers.read32(IRQ_STATUS)):
            self._done.vectors[0].wait(max(0.0, deadline - time.monotonic()))
        self._registers.write32(IRQ_ACKNOWLEDGE, causes)

    def _stop(self) -> None:
        if not self.access.closed:
            self._set_command(0)

    def _set_command(self, bits: int) -> None:
        self._config.write16(pci_regs.PCI_COMMAND, bits)
