"""A PCI function: configuration space, BARs, interrupts, reset."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

from vfiocore.device import Device
from vfiocore.errors import DeviceAccessError, KernelError, UnsupportedError
from vfiocore.irq import Irq, Vector
from vfiocore.region import Area, ByteOrder, Region, mappable_areas
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import vfio
from vfiocore.undo import run_all
from vfiocore_pci.bar_access import BarAccess
from vfiocore_pci.config_space import ConfigSpace
from vfiocore_pci.irq import PciIrq
from vfiocore_pci.msix import MsixTable, find_msix_table, without_table

if TYPE_CHECKING:
    from vfiocore.access import IrqInfo, RegionInfo
    from vfiocore.registration import DeviceSetup

BARS = range(vfio.VFIO_PCI_BAR0_REGION_INDEX, vfio.VFIO_PCI_BAR5_REGION_INDEX + 1)

EXCLUSIVE_IRQS = (
    vfio.VFIO_PCI_MSIX_IRQ_INDEX,
    vfio.VFIO_PCI_MSI_IRQ_INDEX,
    vfio.VFIO_PCI_INTX_IRQ_INDEX,
)
"""Only one of them at a time; best first."""

REGION_NAMES = {
    **{index: f"BAR {index}" for index in BARS},
    vfio.VFIO_PCI_ROM_REGION_INDEX: "ROM",
    vfio.VFIO_PCI_CONFIG_REGION_INDEX: "config",
    vfio.VFIO_PCI_VGA_REGION_INDEX: "VGA",
}

NO_ANSWER = frozenset({errno.ENODEV, errno.EIO})
"""What configuration space says of a device that went into error, or is gone.

On s390 a function is isolated after a transfer to where nothing is mapped, until the kernel has
recovered it (arch/s390/pci/pci_event.c). The rest of what was opened has to be let go of all the same.
"""

IRQ_NAMES = {
    vfio.VFIO_PCI_INTX_IRQ_INDEX: "INTx",
    vfio.VFIO_PCI_MSI_IRQ_INDEX: "MSI",
    vfio.VFIO_PCI_MSIX_IRQ_INDEX: "MSI-X",
    vfio.VFIO_PCI_ERR_IRQ_INDEX: "error",
    vfio.VFIO_PCI_REQ_IRQ_INDEX: "request",
}


class PciDevice(Device):
    """A PCI function behind vfio-pci, a variant driver of it, or an mdev of that shape.

    Registers are little-endian. When a device is opened the kernel turns bus mastering off and
    memory decode on; `enable` turns both on. Without memory decode an access to a BAR is a
    DeviceAccessError (EIO), and SIGBUS through a mapping.

    Attributes:
        config_space: Configuration space.
        msix_table: Where the MSI-X table is, or None without MSI-X.
        bars: The six BARs; None where there is none, or where a 64-bit BAR has its upper half.
    """

    config_space: ConfigSpace
    msix_table: MsixTable | None
    bars: tuple[Region | None, ...]
    _bar_access: BarAccess

    byteorder: ClassVar[ByteOrder] = "little"

    def __init__(self, setup: DeviceSetup) -> None:
        """Look at the open device; nothing of it changes.

        Raises:
            UnsupportedError: EINVAL, it is not a PCI device.
        """
        super().__init__(setup)
        self._check_kind()
        self.config_space = ConfigSpace(self.region(vfio.VFIO_PCI_CONFIG_REGION_INDEX))
        self.msix_table = find_msix_table(self.config_space)
        self.bars = tuple(self._region_or_none(index) for index in BARS)
        self._bar_access = BarAccess(self.config_space, self.bars)
        self.config_space.on_write = self._bar_access.follow

    # -- regions -----------------------------------------------------------------------------
    @property
    def rom(self) -> Region | None:
        """The expansion ROM, read-only; None if there is none, or its content is not valid."""
        return self._region_or_none(vfio.VFIO_PCI_ROM_REGION_INDEX)

    @property
    def vga(self) -> Region | None:
        """The legacy VGA ranges, each at its legacy address; None if it is no VGA device."""
        return self._region_or_none(vfio.VFIO_PCI_VGA_REGION_INDEX)

    def region_name(self, index: int) -> str:
        """``BAR 0``, ``ROM``, ``config``, ``VGA``."""
        return REGION_NAMES.get(index) or super().region_name(index)

    def mappable_areas(self, info: RegionInfo) -> tuple[Area, ...]:
        """What of a region may be mapped: not the pages of the MSI-X table, unless allowed.

        Nothing of a BAR on s390: the kernel maps it, and touching it kills the process, since only
        PCI instructions reach it.

        Source: VFIO_REGION_INFO_CAP_MSIX_MAPPABLE (Linux 4.16), VFIO_DEVICE_INFO_CAP_ZPCI_BASE (5.11).
        """
        areas = mappable_areas(info)
        if info.index not in BARS or not areas:
            return areas
        if any(cap.id == vfio.VFIO_DEVICE_INFO_CAP_ZPCI_BASE for cap in self.info.capabilities):
            return ()
        table = self.msix_table
        if table is None or table.bar != info.index or _table_mappable(info):
            return areas
        return tuple(without_table(areas, table, self.host.page_size))

    # -- interrupts --------------------------------------------------------------------------
    @property
    def intx(self) -> Irq | None:
        """The INTx line, level-triggered and `automasked`; None without an interrupt pin."""
        return self._irq_or_none(vfio.VFIO_PCI_INTX_IRQ_INDEX)

    @property
    def msi(self) -> Irq | None:
        """MSI, or None."""
        return self._irq_or_none(vfio.VFIO_PCI_MSI_IRQ_INDEX)

    @property
    def msix(self) -> Irq | None:
        """MSI-X, or None."""
        return self._irq_or_none(vfio.VFIO_PCI_MSIX_IRQ_INDEX)

    @property
    def error(self) -> Irq | None:
        """Signalled on an uncorrectable error; None if it is no PCI Express device."""
        return self._irq_or_none(vfio.VFIO_PCI_ERR_IRQ_INDEX)

    @property
    def request(self) -> Irq | None:
        """Signalled when the host wants the device back: close it soon; None on Linux < 4.0."""
        return self._irq_or_none(vfio.VFIO_PCI_REQ_IRQ_INDEX)

    def request_irq(self) -> Irq | None:
        """The same as `request`."""
        return self.request

    @property
    def active_irq(self) -> Irq | None:
        """The one of INTx, MSI and MSI-X that is enabled."""
        known = (self._irqs.get(index) for index in EXCLUSIVE_IRQS)
        return next((irq for irq in known if irq is not None and irq.vectors), None)

    def interrupts(self, vectors: int = 1, *, minimum: int | None = None) -> tuple[Vector, ...]:
        """Enable the best kind of interrupt that does: MSI-X, else MSI, else INTx.

        Args:
            vectors: How many are wanted.
            minimum: How few will do; as many as wanted if None.

        Returns:
            The vectors, at least `minimum`. ``vectors[0].irq`` tells which kind they are; if it is
            `automasked` (INTx), `unmask` it after each interrupt.

        Raises:
            DeviceAccessError: EINVAL, interrupts are enabled already; ENOSPC, no kind has
                `minimum` vectors.
        """
        least = vectors if minimum is None else minimum
        if not 1 <= least <= vectors:
            raise ValueError(f"{self.name}: {least} of {vectors} vectors cannot be a minimum")
        refused: list[str] = []
        for index in EXCLUSIVE_IRQS:
            irq = self._irq_or_none(index)
            if irq is None or irq.count < least:
                refused.append(f"{IRQ_NAMES[index]} has {0 if irq is None else irq.count}")
                continue
            try:
                return irq.enable(min(vectors, irq.count), minimum=least)
            except KernelError as error:
                if error.errno != errno.ENOSPC:
                    raise
                refused.append(f"{IRQ_NAMES[index]}: {error.detail or error.strerror}")
        raise DeviceAccessError(
            errno.ENOSPC,
            "VFIO_DEVICE_SET_IRQS",
            self.name,
            f"no kind of interrupt has {least} vectors: {', '.join(refused)}",
        )

    def make_irq(self, info: IrqInfo, name: str) -> Irq:
        """INTx, MSI and MSI-X exclude each other; the others stand alone."""
        if info.index in EXCLUSIVE_IRQS:
            return PciIrq(self.access, info, name, lambda: self.active_irq)
        return super().make_irq(info, name)

    def irq_name(self, index: int) -> str:
        """``INTx``, ``MSI``, ``MSI-X``, ``error``, ``request``."""
        return IRQ_NAMES.get(index) or super().irq_name(index)

    # -- COMMAND -----------------------------------------------------------------------------
    @property
    def bus_master(self) -> bool:
        """True if the device may do DMA and send MSI; assign to change it."""
        return bool(self.config_space.command & pci.PCI_COMMAND_MASTER)

    @bus_master.setter
    def bus_master(self, on: bool) -> None:
        self._set_command(pci.PCI_COMMAND_MASTER, pci.PCI_COMMAND_MASTER if on else 0)

    @property
    def memory_decode(self) -> bool:
        """True if the device answers at its memory BARs; assign to change it.

        Turning it off takes the pages away from mapped BARs: touching them is SIGBUS. It takes
        BARs from other devices that were shown them, until it is on again.
        """
        return bool(self.config_space.command & pci.PCI_COMMAND_MEMORY)

    @memory_decode.setter
    def memory_decode(self, on: bool) -> None:
        self._set_command(pci.PCI_COMMAND_MEMORY, pci.PCI_COMMAND_MEMORY if on else 0)

    @contextmanager
    def enable(self) -> Iterator[Self]:
        """Memory decode and bus mastering on, for the length of a ``with`` block.

        Afterwards both are what they were before; if the device was closed, nothing is done. A
        device that does not answer any more is left as it is, with a warning.
        """
        bits = pci.PCI_COMMAND_MEMORY | pci.PCI_COMMAND_MASTER
        before = self._set_command(bits, bits)
        try:
            yield self
        finally:
            self._leave_command(bits, before)

    # -- reset and release -------------------------------------------------------------------
    def reset(self) -> None:
        """Reset the function with VFIO_DEVICE_RESET.

        The device's own registers are as after power-on. What stays: eventfds
        (the kernel keeps the SET_IRQS configuration), mapped BARs (their pages come back by
        fault), and COMMAND, so memory decode and bus mastering. BARs that others were shown are
        mapped again for them.

        Raises:
            DeviceAccessError: EINVAL, the function cannot be reset by itself; EAGAIN, a competing
                reset is under way.
        """
        with self.container.lock:
            command = self.config_space.command
            try:
                super().reset()
            except DeviceAccessError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise _no_reset(error) from error
            finally:
                # The kernel takes BARs from their peers before it tries.
                self._bar_access.renew()
            # The PCI core saves and restores COMMAND around a reset (pci.c:pci_dev_restore). A
            # variant driver or mdev that does not must not leave a driver with BARs that fault.
            if self.config_space.command != command:
                self.config_space.command = command

    def release(self) -> None:
        """Stop DMA, turn interrupts off and unmap regions, in this order. Idempotent.

        Bus mastering goes first, since memory may be unmapped before the fd is closed, and a
        passed fd stays open. Every step is tried; the first error is raised. That a device does not
        answer any more is a warning: its driver turns bus mastering off when the fd is closed.
        """
        stop_dma = partial(self._leave_command, pci.PCI_COMMAND_MASTER, 0)
        run_all([stop_dma, super().release])

    # ----------------------------------------------------------------------------------------
    def _check_kind(self) -> None:
        if not self.info.flags & vfio.VFIO_DEVICE_FLAGS_PCI:
            reason = "it is not a PCI device"
        elif self.info.num_regions <= vfio.VFIO_PCI_CONFIG_REGION_INDEX:
            reason = f"it has {self.info.num_regions} regions, and none is configuration space"
        elif self.info.num_irqs <= vfio.VFIO_PCI_MSIX_IRQ_INDEX:
            reason = f"it has {self.info.num_irqs} interrupt indexes, and none is MSI-X"
        else:
            return
        raise UnsupportedError(
            errno.EINVAL,
            "VFIO_DEVICE_GET_INFO",
            self.name,
            reason,
            "another device type fits it, or sysfsdev= or fd= is of another device",
        )

    def _region_or_none(self, index: int) -> Region | None:
        if index >= self.info.num_regions:
            return None
        try:
            region = self.region(index)
        except DeviceAccessError as error:
            if error.errno != errno.EINVAL:
                raise
            return None  # vfio_pci_core.c:vfio_pci_ioctl_get_region_info: no VGA device
        return region if region.size else None

    def _irq_or_none(self, index: int) -> Irq | None:
        if index >= self.info.num_irqs:
            return None
        try:
            irq = self.irq(index)
        except DeviceAccessError as error:
            if error.errno != errno.EINVAL:
                raise
            return None  # vfio_pci_core.c:vfio_pci_ioctl_get_irq_info: ERR without PCI Express
        return irq if irq.count else None

    def _set_command(self, mask: int, bits: int) -> int:
        """Set the masked bits of COMMAND; what it was before."""
        with self.container.lock:
            before = self.config_space.command
            wanted = before & ~mask | bits & mask
            if wanted != before:
                self.config_space.command = wanted
            return before

    def _leave_command(self, mask: int, bits: int) -> None:
        """Set the masked bits of COMMAND at the end of their use, if that can be."""
        if self.access.closed:
            return
        try:
            self._set_command(mask, bits)
        except KernelError as error:
            if error.errno not in NO_ANSWER:
                raise
            self.access.log.warn_of(
                "pci.command_not_restored",
                f"{self.name} does not answer, so bus mastering and memory decode are left as they"
                f" are until it is closed: {error}",
                device=self.name,
                errno=error.errno,
            )


def _table_mappable(info: RegionInfo) -> bool:
    return any(cap.id == vfio.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE for cap in info.capabilities)


def _no_reset(error: DeviceAccessError) -> DeviceAccessError:
    return DeviceAccessError(
        errno.EINVAL,
        error.operation,
        error.subject,
        "the function cannot be reset by itself",
        "reset_method in its sysfs directory lists what the kernel can do",
    )
