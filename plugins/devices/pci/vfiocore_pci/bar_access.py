"""Whether the BARs of a function answer, so that those who show them to others can follow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from vfiocore.region import Region
from vfiocore.uapi import pci_regs as pci
from vfiocore.undo import run_all
from vfiocore_pci.config_space import ConfigSpace


class BarAccess:
    """The BARs of one function, and the registers that switch them on and off.

    The kernel takes a BAR that was exported as a dma-buf from its importers at just these writes
    (vfio_pci_config.c: vfio_basic_config_write, vfio_pm_config_write, vfio_exp_config_write,
    vfio_af_config_write), and at every reset.
    """

    def __init__(self, config: ConfigSpace, bars: Sequence[Region | None]) -> None:
        self._config = config
        self._bars = [bar for bar in bars if bar is not None]

    @property
    def answers(self) -> bool:
        """True if the memory BARs answer: memory decode is on, in D0."""
        if not self._config.command & pci.PCI_COMMAND_MEMORY:
            return False
        power = self._power_state
        return power is None or not self._config.read16(power) & pci.PCI_PM_CTRL_STATE_MASK

    def follow(self, offset: int, data: bytes) -> None:
        """After a write to configuration space: BARs may have gone, or come, or both.

        Raises:
            DmaError: a container does not take a BAR again.
        """
        if not self._shown:
            return
        written = range(offset, offset + len(data))
        if any(data[at - offset] & bit for at, bit in self._resets if at in written):
            self.renew()
        elif pci.PCI_COMMAND in written or self._power_state in written:
            self._match()

    def renew(self) -> None:
        """After a reset: what others had of the BARs is gone, even if they answer as before."""
        run_all([bar.suspend for bar in self._shown])
        self._match()

    def _match(self) -> None:
        shown = self._shown
        if not shown:
            return
        answers = self.answers
        run_all([bar.resume if answers else bar.suspend for bar in shown])

    @property
    def _shown(self) -> list[Region]:
        return [bar for bar in self._bars if bar.users]

    @cached_property
    def _power_state(self) -> int | None:
        return self._register(pci.PCI_CAP_ID_PM, pci.PCI_PM_CTRL)

    @cached_property
    def _resets(self) -> tuple[tuple[int, int], ...]:
        """The bytes that reset the function, each with the bit that does."""
        express = self._register(pci.PCI_CAP_ID_EXP, pci.PCI_EXP_DEVCTL + 1)
        advanced = self._register(pci.PCI_CAP_ID_AF, pci.PCI_AF_CTRL)
        bits = ((express, pci.PCI_EXP_DEVCTL_BCR_FLR >> 8), (advanced, pci.PCI_AF_CTRL_FLR))
        return tuple((at, bit) for at, bit in bits if at is not None)

    def _register(self, capability: int, offset: int) -> int | None:
        found = self._config.find_capability(capability)
        return None if found is None else found.offset + offset
