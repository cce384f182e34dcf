"""A PCI function behind vfio-pci: the driver's answers, and the base for device programs."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar

from vfiocore.uapi.pci_regs import (
    PCI_AF_CTRL,
    PCI_AF_CTRL_FLR,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_EXP_DEVCTL,
    PCI_EXP_DEVCTL_BCR_FLR,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_ENABLE,
    PCI_MSI_FLAGS_QSIZE,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_PM_CTRL,
    PCI_PM_CTRL_STATE_MASK,
    PCI_STATUS,
    PCI_STATUS_INTERRUPT,
)
from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FEATURE_DMA_BUF,
    VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    VFIO_DEVICE_IOEVENTFD,
    VFIO_DEVICE_PCI_HOT_RESET,
    VFIO_PCI_BAR5_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS,
    VFIO_PCI_NUM_REGIONS,
    VFIO_PCI_ROM_REGION_INDEX,
    VFIO_PCI_VGA_REGION_INDEX,
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
    VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
    vfio_device_info,
)
from vfiocore_sim.capchain import Capability
from vfiocore_sim.device import DmaFault, SimDevice, SysfsEntry
from vfiocore_sim.refusal import fail
from vfiocore_sim.user import UserArg
from vfiocore_sim.vfio.base import (
    Feature,
    IrqDescription,
    RegionDescription,
    VfioDevice,
    sparse_mmap,
)
from vfiocore_sim.vfio.irqset import IrqRequest
from vfiocore_sim.vfio.pci.dmabuf import DmaBufs
from vfiocore_sim.vfio.pci.function import Function, FunctionLayout, Identity
from vfiocore_sim.vfio.pci.hotreset import hot_reset, hot_reset_info
from vfiocore_sim.vfio.pci.ioeventfd import IoEventFds, Store
from vfiocore_sim.vfio.pci.irqs import IrqWiring, PciIrqs
from vfiocore_sim.vfio.pci.layout import Bar, MsixTable
from vfiocore_sim.vfio.pci.power import LowPower
from vfiocore_sim.vfio.pci.sysfs import pci_sysfs_files
from vfiocore_sim.vfio.ram import RamArea
from vfiocore_sim.vfio.region import access_widths, locate, map_area, region_offset

_READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE


class PciDevice(VfioDevice):
    """Base of simulated PCI devices.

    A subclass declares the class attributes below and implements `read`, `write` and
    `power_on_reset`; it reaches memory with `dma_read` and `dma_write` and interrupts with
    `raise_irq`. Everything runs in the caller's thread under the simulated kernel's lock, so a
    register write returns when the work it started is done. A subclass's own constructor calls
    ``super().__init__(...)``.

    Args:
        available_vectors: How many MSI or MSI-X vectors the simulated host can allocate; None for
            no limit. Asking for more gets a positive return of SET_IRQS.
        dynamic_msix: Whether MSI-X vectors can be added while MSI-X is on (no NORESIZE flag).
    """

    bus = "pci"
    attaches_pasids = True
    device_flags: ClassVar[int] = VFIO_DEVICE_FLAGS_PCI
    info_size: ClassVar[int] = ctypes.sizeof(vfio_device_info)
    num_regions = VFIO_PCI_NUM_REGIONS
    num_irqs = VFIO_PCI_NUM_IRQS

    # -- what an author declares ----------------------------------------------------------------
    vendor_id: int
    device_id: int
    #: 24 bits: base class, subclass, programming interface.
    class_code: int
    revision: int = 0
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    #: 1 for INTA; 0 for a device without INTx.
    interrupt_pin: int = 0
    bars: tuple[Bar, ...] = ()
    #: A power of two up to 32; 0 without the MSI capability.
    msi_vectors: int = 0
    msix: MsixTable | None = None
    #: PCI Express: 4096 bytes of configuration space, AER, the ERR irq.
    express: bool = False
    power_management: bool = True
    #: Bytes of a vendor-specific capability, readable and writable.
    vendor_data: bytes = b""
    #: Whether the bytes behind the header that no capability has keep what is written to them.
    spare_bytes: bool = False
    #: Device serial number capability (PCI Express only).
    serial: int | None = None
    #: Expansion ROM content; it must begin with the signature 55 aa to be shown.
    rom: bytes = b""
    #: Kernel names; empty for a device that cannot be reset. ``flr`` adds the capability for it;
    #: ``bus`` works for a function that is alone on its bus.
    reset_methods: tuple[str, ...] = ("pm",)
    #: True if a reset leaves RAM areas as they are: memory that is not the function's own.
    reset_keeps_ram: bool = False
    #: What firmware left in COMMAND. The kernel lets BARs be decoded when it opens the device.
    firmware_command: int = 0

    def __init__(self, *, available_vectors: int | None = None, dynamic_msix: bool = True) -> None:
        self._available_vectors = available_vectors
        self._dynamic_msix = dynamic_msix
        self._bars = {bar.index: bar for bar in self.bars}
        self._ram = {
            bar.index: [RamArea(offset, size) for offset, size in bar.ram] for bar in self.bars
        }
        self._low_power = LowPower(self._follow_access)
        self._reset_works = bool(self.reset_methods)
        self._opened: Function | None = None

    # -- what an author implements --------------------------------------------------------------
    def read(self, bar: int, offset: int, size: int) -> int:
        """A register read of 1, 2, 4 or 8 bytes at an aligned `offset` of `bar`."""
        return 0

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        """A register write of 1, 2, 4 or 8 bytes at an aligned `offset` of `bar`."""

    def power_on_reset(self) -> None:
        """Bring the device's own state to what it is after power-on."""

    # -- what an author uses --------------------------------------------------------------------
    @property
    def bus_master(self) -> bool:
        """True while the user lets the device send requests (COMMAND, and D0)."""
        return bool(self._command & PCI_COMMAND_MASTER) and self._powered

    @property
    def sends_messages(self) -> bool:
        """True while MSI or MSI-X is on, so that INTx is not."""
        return self.irqs.mode in (VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX)

    def dma_read(self, iova: int, size: int) -> bytes:
        """Read memory through the IOMMU.

        Raises:
            DmaFault: The IOMMU refused, or bus mastering is off.
        """
        self._check_bus_master()
        return self.dma.read(iova, size)

    def dma_write(self, iova: int, data: bytes) -> None:
        """Write memory through the IOMMU; errors as `dma_read`."""
        self._check_bus_master()
        self.dma.write(iova, data)

    def raise_irq(self, vector: int = 0) -> None:
        """Interrupt: a message when MSI or MSI-X is on, else the INTx line goes up.

        A message is a memory write: with bus mastering off it is not sent. INTx stays asserted
        until `lower_irq`.
        """
        if self.sends_messages:
            if self.bus_master:
                self.irqs.message(vector)
        elif self.interrupt_pin:
            self.irqs.intx.set_level(asserted=True)

    def lower_irq(self) -> None:
        """Take the INTx line down."""
        self.irqs.intx.set_level(asserted=False)

    def ram(self, bar: int, number: int = 0) -> RamArea:
        """The `number`-th RAM area declared for `bar`."""
        return self._ram[bar][number]

    def report_error(self) -> None:
        """An uncorrectable error (AER): the ERR eventfd is signalled, the device stays."""
        self.irqs.error.signal()

    # -- state ----------------------------------------------------------------------------------
    @property
    def identity(self) -> Identity:
        """The numbers of the header."""
        return Identity(
            vendor_id=self.vendor_id,
            device_id=self.device_id,
            class_code=self.class_code,
            revision=self.revision,
            subsystem_vendor_id=self.subsystem_vendor_id,
            subsystem_id=self.subsystem_id,
            interrupt_pin=self.interrupt_pin,
            multifunction=not self.kernel.alone_on_bus(),
        )

    @property
    def function(self) -> Function:
        """Configuration space: the one in use, or a fresh one while the device is closed."""
        return self._opened or self._build()

    def _build(self) -> Function:
        return FunctionLayout(
            identity=self.identity,
            bars=self.bars,
            msi_vectors=self.msi_vectors,
            msix=self.msix,
            express=self.express,
            power_management=self.power_management,
            soft_reset="pm" in type(self).reset_methods,
            flr="flr" in type(self).reset_methods or "af_flr" in type(self).reset_methods,
            serial=self.serial,
            vendor_data=self.vendor_data,
            spare_bytes=self.spare_bytes,
        ).build(self.name)

    @cached_property
    def irqs(self) -> PciIrqs:
        """The function's interrupts."""
        wiring = IrqWiring(
            intx=bool(self.interrupt_pin),
            msi=self.msi_vectors,
            msix=self.msix.vectors if self.msix else 0,
            express=self.express,
            dynamic_msix=self._dynamic_msix and self.msix is not None,
            available=self._available_vectors,
        )
        return PciIrqs(wiring, self.watcher, self._irq_mode_changed)

    @cached_property
    def _ioeventfds(self) -> IoEventFds:
        return IoEventFds(self.watcher, self._ioeventfd_allowed, self._store)

    @cached_property
    def _dmabufs(self) -> DmaBufs:
        return DmaBufs(
            self._bars.get, lambda bar: BarMemory(self, bar), self.kernel.export, self._answers
        )

    @property
    def _command(self) -> int:
        return self._opened.space.get(PCI_COMMAND, 2) if self._opened else 0

    @property
    def _powered(self) -> bool:
        if self._opened is None or self._opened.pm is None:
            return True
        control = self._opened.space.get(self._opened.pm + PCI_PM_CTRL, 2)
        return not control & PCI_PM_CTRL_STATE_MASK

    def _check_bus_master(self) -> None:
        if not self.bus_master:
            msg = f"{self.name}: bus mastering is off"
            raise DmaFault(msg)

    # -- open, close, reset ---------------------------------------------------------------------
    def open_device(self) -> None:
        """``vfio_pci_core.c:vfio_pci_core_enable``: bus master off, reset if possible."""
        self._reset_works = bool(self.usable_resets)
        self._opened = self._build()
        command = (self.firmware_command | self._decoders) & ~PCI_COMMAND_MASTER
        self._opened.space.set(PCI_COMMAND, command, 2)
        if self._reset_works:
            self.reset_function()

    @property
    def _decoders(self) -> int:
        """``setup-res.c:pci_enable_resources``: what answers at the addresses of the BARs."""
        kinds = {PCI_COMMAND_IO if bar.io else PCI_COMMAND_MEMORY for bar in self.bars}
        return sum(kinds)

    def close_device(self) -> None:
        """``vfio_pci_core.c:vfio_pci_core_disable``."""
        self._low_power.close()
        self._dmabufs.close()
        self.irqs.close()
        self._ioeventfds.close()
        super().close_device()
        self._opened = None
        if self.usable_resets:
            self.reset_function()

    @property
    def usable_resets(self) -> tuple[str, ...]:
        """Those of `reset_methods` that work here (``pci.c:pci_parent_bus_reset``)."""
        return _resets(self.reset_methods, bus=self.kernel.alone_on_bus())

    @property
    def supported_resets(self) -> tuple[str, ...]:
        """What worked when the kernel found the function, which knew of none that come after it."""
        return _resets(type(self).reset_methods, bus=self.name.endswith(".0"))

    @property
    def can_reset(self) -> bool:
        """Whether a reset was possible when the device was opened."""
        return self._reset_works

    def reset(self) -> None:
        """``vfio_pci_core.c:vfio_pci_ioctl_reset``."""
        if not self._reset_works:
            fail(errno.EINVAL)
        if not self.usable_resets:
            fail(errno.ENOTTY)
        self.reset_in_use()

    def reset_in_use(self) -> None:
        """Reset it for a user, who sees BARs go and come: they do not answer meanwhile."""
        self._dmabufs.revoke()
        self.reset_function()
        self._follow_access()

    def reset_function(self) -> None:
        """Reset the hardware; the PCI core restores configuration space afterwards."""
        self.power_on_reset()
        if not self.reset_keeps_ram:
            self._clear_ram()
        self.irqs.reset()
        if self._opened is not None and self._opened.pm is not None:
            register = self._opened.pm + PCI_PM_CTRL
            control = self._opened.space.get(register, 2)
            self._opened.space.set(register, control & ~PCI_PM_CTRL_STATE_MASK, 2)

    def _clear_ram(self) -> None:
        for areas in self._ram.values():
            for area in areas:
                area.clear()

    def request(self, count: int) -> None:
        """``vfio_pci_core.c:vfio_pci_core_request``."""
        self.irqs.request.signal()

    # -- description ----------------------------------------------------------------------------
    def describe_region(self, index: int) -> RegionDescription:
        """``vfio_pci_core.c:vfio_pci_ioctl_get_region_info``."""
        offset = region_offset(index)
        if index == VFIO_PCI_CONFIG_REGION_INDEX:
            return RegionDescription(_READ_WRITE, self.function.space.size, offset)
        if index == VFIO_PCI_VGA_REGION_INDEX:
            fail(errno.EINVAL)
        if index == VFIO_PCI_ROM_REGION_INDEX:
            size = len(self._shown_rom)
            return RegionDescription(VFIO_REGION_INFO_FLAG_READ if size else 0, size, offset)
        bar = self._bars.get(index)
        if bar is None:
            return RegionDescription(0, 0, offset)
        areas = self._ram[index]
        if not areas:
            return RegionDescription(_READ_WRITE, bar.size, offset)
        # vfio_pci_core.c has no sparse areas for a BAR that can be mapped as a whole.
        whole = areas[0].offset == 0 and areas[0].size >= bar.size
        caps = [] if whole else [sparse_mmap(areas)]
        if self.msix is not None and self.msix.bar == index:
            caps.insert(0, Capability(VFIO_REGION_INFO_CAP_MSIX_MAPPABLE))
        flags = _READ_WRITE | VFIO_REGION_INFO_FLAG_MMAP
        return RegionDescription(flags, bar.size, offset, caps)

    @cached_property
    def _shown_rom(self) -> bytes:
        """The ROM padded to a power of two, or nothing when it is not valid."""
        if not self.rom.startswith(b"\x55\xaa"):
            return b""
        return self.rom.ljust(1 << (len(self.rom) - 1).bit_length(), b"\xff")

    def describe_irq(self, index: int) -> IrqDescription:
        """``vfio_pci_core.c:vfio_pci_ioctl_get_irq_info``."""
        return self.irqs.describe(index)

    def irq_vectors(self, index: int) -> int:
        """``vfio_pci_core.c:vfio_pci_get_irq_count``."""
        return self.irqs.count(index)

    def set_irqs(self, request: IrqRequest) -> int:
        """``vfio_pci_intrs.c:vfio_pci_set_irqs_ioctl``."""
        return self.irqs.set(request)

    def features(self) -> Mapping[int, Feature]:
        """Low power and, unless the kernel is too old, dma-bufs; no VF token (not SR-IOV)."""
        features = self._low_power.features()
        if not self.kernel.has("VFIO_DEVICE_FEATURE_DMA_BUF"):
            return features
        return {**features, VFIO_DEVICE_FEATURE_DMA_BUF: self._dmabufs.feature()}

    def sysfs_files(self) -> Mapping[str, SysfsEntry]:
        """The attribute files of the function."""
        return pci_sysfs_files(self)

    def config_bytes(self) -> bytes:
        """All of configuration space, as the sysfs file ``config`` shows it."""
        space = self.function.space
        return space.read(0, space.size)

    # -- ioctls ---------------------------------------------------------------------------------
    def ioctl(self, request: int, arg: UserArg) -> int:
        """Dispatch; any access wakes a sleeping device."""
        self._low_power.resume()
        return super().ioctl(request, arg)

    @cached_property
    def ioctls(self) -> Mapping[int, Callable[[UserArg], int]]:
        """The ioctls of vfio-pci on top of the common ones."""
        return {
            **super().ioctls,
            VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: lambda user: hot_reset_info(user, self.kernel),
            VFIO_DEVICE_PCI_HOT_RESET: lambda user: hot_reset(user, self.kernel, _reset_peer),
            VFIO_DEVICE_IOEVENTFD: lambda user: self._ioeventfds.ioctl(user, locate),
        }

    def _ioeventfd_allowed(self, index: int, offset: int, width: int) -> bool:
        bar = self._bars.get(index)
        if bar is None or offset + width > bar.size:
            return False
        hole = self._msix_hole(index)
        return offset + width <= hole.start or offset >= hole.stop

    def _store(self, store: Store) -> None:
        bar, offset, data, width = store
        # vfio_pci_ioeventfd_do_write: with memory decode off the store is dropped.
        if self._bars[bar].io or self._memory_enabled:
            self._write_piece(bar, offset, data.to_bytes(width, "little"))

    # -- read, write, mmap ----------------------------------------------------------------------
    def peek(self, index: int, offset: int, size: int) -> bytes:
        """What another device reads in a memory BAR."""
        data = bytearray()
        for piece, width in access_widths(offset, size, range(0)):
            data += self._read_piece(index, piece, width)
        return bytes(data)

    def poke(self, index: int, offset: int, data: bytes) -> None:
        """What another device writes to a memory BAR."""
        for piece, width in access_widths(offset, len(data), range(0)):
            self._write_piece(index, piece, data[piece - offset :][:width])

    def pread(self, size: int, offset: int) -> bytes:
        """``vfio_pci_core.c:vfio_pci_core_read``."""
        if not size:
            return b""
        index, position = locate(offset)
        if index == VFIO_PCI_CONFIG_REGION_INDEX:
            return self._read_config(position, size)
        if index == VFIO_PCI_ROM_REGION_INDEX:
            if position >= len(self._shown_rom):
                fail(errno.EINVAL)
            return self._shown_rom[position : position + size]
        bar = self._check_bar(index, position)
        hole = self._msix_hole(index)
        data = bytearray()
        for piece, width in access_widths(position, min(size, bar.size - position), hole):
            self._check_decode(bar)
            if piece in hole:
                data += b"\xff" * width
            else:
                data += self._read_piece(index, piece, width)
        return bytes(data)

    def pwrite(self, data: bytes, offset: int) -> int:
        """``vfio_pci_core.c:vfio_pci_core_write``."""
        if not data:
            return 0
        index, position = locate(offset)
        if index == VFIO_PCI_CONFIG_REGION_INDEX:
            return self._write_config(position, data)
        bar = self._check_bar(index, position)
        hole = self._msix_hole(index)
        size = min(len(data), bar.size - position)
        for piece, width in access_widths(position, size, hole):
            self._check_decode(bar)
            if piece not in hole:
                start = piece - position
                self._write_piece(index, piece, data[start : start + width])
        return size

    def _check_bar(self, index: int, position: int) -> Bar:
        """``vfio_pci_rdwr.c:vfio_pci_bar_rw``; there is no VGA region, and the ROM is read-only."""
        self._low_power.resume()
        bar = self._bars.get(index)
        if bar is None or position >= bar.size:
            fail(errno.EINVAL)
        return bar

    def _check_decode(self, bar: Bar) -> None:
        """``vfio_pci_rdwr.c:vfio_pci_core_iowrite8`` and its like: EIO with decode off."""
        if not (bar.io or self._memory_enabled):
            fail(errno.EIO)

    @property
    def _memory_enabled(self) -> bool:
        """``vfio_pci_config.c:__vfio_pci_memory_enabled``."""
        return bool(self._command & PCI_COMMAND_MEMORY) and self._powered

    def _answers(self) -> bool:
        """Whether other devices find somebody at the memory BARs."""
        return self._memory_enabled and not self._low_power.engaged

    def _follow_access(self) -> None:
        """``vfio_pci_dma_buf_move``, after whatever may have switched memory decode."""
        if self._answers():
            self._dmabufs.restore()
        else:
            self._dmabufs.revoke()

    def _msix_hole(self, index: int) -> range:
        if self.msix is None or self.msix.bar != index:
            return range(0)
        return range(self.msix.table, self.msix.table + self.msix.size)

    def _read_piece(self, bar: int, offset: int, width: int) -> bytes:
        for area in self._ram[bar]:
            if offset in area:
                return area.read(offset - area.offset, width)
        value = self.read(bar, offset, width) & ((1 << 8 * width) - 1)
        return value.to_bytes(width, "little")

    def _write_piece(self, bar: int, offset: int, data: bytes) -> None:
        for area in self._ram[bar]:
            if offset in area:
                area.write(offset - area.offset, data)
                return
        self.write(bar, offset, int.from_bytes(data, "little"), len(data))

    def mmap(self, length: int, prot: int, flags: int, offset: int) -> mmap.mmap:
        """``vfio_pci_core.c:vfio_pci_core_mmap``; only RAM areas can be mapped.

        Unlike on hardware a mapping stays accessible while memory decode is off.
        """
        index, position = locate(offset)
        if not flags & mmap.MAP_SHARED or index > VFIO_PCI_BAR5_REGION_INDEX:
            fail(errno.EINVAL)
        return map_area(self._ram.get(index, ()), length, prot, flags, position)

    # -- configuration space --------------------------------------------------------------------
    @property
    def _in_use(self) -> Function:
        assert self._opened is not None, "the kernel opens a device before it is accessed"
        return self._opened

    def _read_config(self, offset: int, size: int) -> bytes:
        """``vfio_pci_config.c:vfio_pci_config_rw``."""
        space = self._in_use.space
        space.check(offset, size)
        self._low_power.resume()
        status = space.get(PCI_STATUS, 2) & ~PCI_STATUS_INTERRUPT
        if self.irqs.intx.asserted:
            status |= PCI_STATUS_INTERRUPT
        space.set(PCI_STATUS, status, 2)
        return space.read(offset, size)

    def _write_config(self, offset: int, data: bytes) -> int:
        """``vfio_pci_config.c:vfio_pci_config_rw`` and what the writes set off."""
        function = self._in_use
        function.space.check(offset, len(data))
        self._low_power.resume()
        was_powered = self._powered
        function.space.write(offset, data)
        self._check_msi_control(function)
        self.irqs.intx.set_disabled(disabled=bool(self._command & PCI_COMMAND_INTX_DISABLE))
        woke_up = self._powered and not was_powered and "pm" in type(self).reset_methods
        if self._take_flr_bit(function) or woke_up:
            self.reset_in_use()
        self._follow_access()
        return len(data)

    def _check_msi_control(self, function: Function) -> None:
        """``vfio_msi_config_write``: enabled only with SET_IRQS, no more vectors than there are."""
        if function.msi is None:
            return
        register = function.msi + PCI_MSI_FLAGS
        control = function.space.get(register, 2)
        if self.irqs.mode != VFIO_PCI_MSI_IRQ_INDEX:
            control &= ~PCI_MSI_FLAGS_ENABLE
        most = (self.msi_vectors - 1).bit_length() << 4
        if control & PCI_MSI_FLAGS_QSIZE > most:
            control = (control & ~PCI_MSI_FLAGS_QSIZE) | most
        function.space.set(register, control, 2)

    def _take_flr_bit(self, function: Function) -> bool:
        """``vfio_exp_config_write``, ``vfio_af_config_write``: the bit reads as zero."""
        if "flr" not in self.reset_methods and "af_flr" not in self.reset_methods:
            return False
        if function.express is not None:
            return _take_bit(function, function.express + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR)
        if function.af is not None:
            return _take_bit(function, function.af + PCI_AF_CTRL, PCI_AF_CTRL_FLR)
        return False

    def _irq_mode_changed(self, mode: int | None) -> None:
        """MSI-X control is the hardware's own, so the user sees what SET_IRQS did to it."""
        if self._opened is None or self._opened.msix is None:
            return
        register = self._opened.msix + PCI_MSIX_FLAGS
        control = self._opened.space.get(register, 2) & ~PCI_MSIX_FLAGS_ENABLE
        if mode == VFIO_PCI_MSIX_IRQ_INDEX:
            control |= PCI_MSIX_FLAGS_ENABLE
        self._opened.space.set(register, control, 2)


class BarMemory:
    """A BAR as other devices reach it, by their own DMA."""

    def __init__(self, device: PciDevice, index: int) -> None:
        self._device = device
        self._index = index

    def read(self, address: int, size: int) -> bytes:
        """Read at an offset in the BAR."""
        return self._device.peek(self._index, address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write at an offset in the BAR."""
        self._device.poke(self._index, address, data)


def _resets(methods: tuple[str, ...], *, bus: bool) -> tuple[str, ...]:
    return tuple(method for method in methods if method != "bus" or bus)


def _take_bit(function: Function, register: int, bit: int) -> bool:
    value = function.space.get(register, 2)
    function.space.set(register, value & ~bit, 2)
    return bool(value & bit)


def _reset_peer(device: SimDevice) -> None:
    assert isinstance(device, PciDevice), "only PCI functions share a PCI bus"
    device.reset_in_use()
