"""vfio-platform, and the base for authors of simulated platform devices.

A device is a subclass of `PlatformDevice` that declares regions and interrupts and implements
registers; values are in the byte order of the machine, as ``ioread32`` and the kernel hand them on.
"""

from __future__ import annotations

import errno
import mmap
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar

from attrs import frozen

from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FLAGS_PLATFORM,
    VFIO_IRQ_INFO_AUTOMASKED,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_MASKABLE,
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
)
from vfiocore_sim.device import SysfsEntry
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.base import IrqDescription, RegionDescription, VfioDevice
from vfiocore_sim.vfio.eventfd import EventHook, EventWatcher
from vfiocore_sim.vfio.irqset import IrqRequest
from vfiocore_sim.vfio.ram import RamArea
from vfiocore_sim.vfio.region import access_widths, locate, map_area, region_offset
from vfiocore_sim.vfio.trigger import Trigger

_WIDEST = 4


@frozen(kw_only=True)
class MmioRegion:
    """One memory region.

    Attributes:
        size: In bytes.
        ram: Plain memory instead of registers: `size` is a whole number of pages, and the region
            can be mapped. Registers with side effects cannot, so the size of a register region
            should not be a multiple of the page size, where the kernel would offer a mapping.
        read_only: Writes are refused with EINVAL.
    """

    size: int
    ram: bool = False
    read_only: bool = False

    @property
    def flags(self) -> int:
        """VFIO_REGION_INFO_FLAG_* (``vfio_platform_common.c:vfio_platform_regions_init``)."""
        flags = VFIO_REGION_INFO_FLAG_READ
        if not self.read_only:
            flags |= VFIO_REGION_INFO_FLAG_WRITE
        return flags | (VFIO_REGION_INFO_FLAG_MMAP if self.ram else 0)


@frozen(kw_only=True)
class PlatformIrq:
    """One interrupt: level-triggered (masked by each delivery) or edge-triggered."""

    level: bool


class PlatformDevice(VfioDevice):
    """Base of simulated platform devices.

    A subclass declares the class attributes below and implements `read`, `write` and
    `power_on_reset`; it interrupts with `set_line` (level) and `pulse` (edge), and does DMA with
    ``self.dma.read`` and ``self.dma.write``. A thread of its own takes ``self.kernel.lock``.
    """

    bus = "platform"
    device_flags: ClassVar[int] = VFIO_DEVICE_FLAGS_PLATFORM

    #: Compatible strings of the device tree node, most specific first.
    compatible: tuple[str, ...] = ()
    regions: tuple[MmioRegion, ...] = ()
    irqs: tuple[PlatformIrq, ...] = ()
    #: Whether the kernel has a reset function for the compatible string.
    has_reset: bool = True

    def __init__(self) -> None:
        self.num_regions: int = len(self.regions)
        self.num_irqs: int = len(self.irqs)
        self._ram = {
            index: RamArea(0, region.size)
            for index, region in enumerate(self.regions)
            if region.ram
        }

    # -- what an author implements --------------------------------------------------------------
    def read(self, region: int, offset: int, size: int) -> int:
        """A register read of 1, 2 or 4 bytes at an aligned `offset`."""
        return 0

    def write(self, region: int, offset: int, value: int, size: int) -> None:
        """A register write of 1, 2 or 4 bytes at an aligned `offset`."""

    def power_on_reset(self) -> None:
        """Bring the device's own state to what it is after power-on."""

    # -- what an author uses --------------------------------------------------------------------
    def set_line(self, irq: int, *, asserted: bool) -> None:
        """Drive a level-triggered interrupt."""
        self._lines[irq].set_level(asserted=asserted)

    def pulse(self, irq: int) -> None:
        """Fire an edge-triggered interrupt; without a listener it is lost."""
        self._lines[irq].pulse()

    # -- the driver -----------------------------------------------------------------------------
    @cached_property
    def _lines(self) -> list[_Line]:
        return [_Line(irq.level, self.watcher) for irq in self.irqs]

    @property
    def can_reset(self) -> bool:
        """True with a reset function."""
        return self.has_reset

    def open_device(self) -> None:
        """``vfio_platform_common.c:vfio_platform_open_device``: reset if there is a function."""
        if self.has_reset:
            self.reset()

    def close_device(self) -> None:
        """``vfio_platform_common.c:vfio_platform_close_device``: reset, then interrupts off."""
        if self.has_reset:
            self.reset()
        for line in self._lines:
            line.close()
        super().close_device()

    def reset(self) -> None:
        """``vfio_platform_common.c:vfio_platform_call_reset``; EINVAL without a function."""
        if not self.has_reset:
            fail(errno.EINVAL)
        self.power_on_reset()
        for area in self._ram.values():
            area.clear()
        for line in self._lines:
            line.set_level(asserted=False)

    def describe_region(self, index: int) -> RegionDescription:
        """``vfio_platform_common.c:vfio_platform_ioctl_get_region_info``."""
        region = self.regions[index]
        return RegionDescription(region.flags, region.size, region_offset(index))

    def describe_irq(self, index: int) -> IrqDescription:
        """``vfio_platform_irq.c:vfio_platform_irq_init``."""
        flags = VFIO_IRQ_INFO_EVENTFD
        if self.irqs[index].level:
            flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED
        return IrqDescription(flags, 1)

    def irq_vectors(self, index: int) -> int:
        """The driver passes the number of irqs here, and refuses all but vector 0 later on."""
        return self.num_irqs

    def set_irqs(self, request: IrqRequest) -> int:
        """``vfio_platform_irq.c:vfio_platform_set_irqs_ioctl``."""
        line = self._lines[request.index]
        handlers: dict[int, Callable[[IrqRequest], None]] = {
            VFIO_IRQ_SET_ACTION_MASK: line.set_mask,
            VFIO_IRQ_SET_ACTION_UNMASK: line.set_unmask,
            VFIO_IRQ_SET_ACTION_TRIGGER: line.set_trigger,
        }
        handler = handlers.get(request.action)
        if handler is None:
            fail(errno.ENOTTY)
        handler(request)
        return 0

    def pread(self, size: int, offset: int) -> bytes:
        """``vfio_platform_common.c:vfio_platform_read``."""
        index, position, size = self._access(size, offset, VFIO_REGION_INFO_FLAG_READ)
        area = self._ram.get(index)
        if area is not None:
            return area.read(position, size)
        return b"".join(
            self._read_piece(index, piece, width)
            for piece, width in access_widths(position, size, range(0), _WIDEST)
        )

    def pwrite(self, data: bytes, offset: int) -> int:
        """``vfio_platform_common.c:vfio_platform_write``."""
        index, position, size = self._access(len(data), offset, VFIO_REGION_INFO_FLAG_WRITE)
        area = self._ram.get(index)
        if area is not None:
            area.write(position, data[:size])
            return size
        for piece, width in access_widths(position, size, range(0), _WIDEST):
            start = piece - position
            value = int.from_bytes(data[start : start + width], sys.byteorder)
            self.write(index, piece, value, width)
        return size

    def _access(self, size: int, offset: int, flag: int) -> tuple[int, int, int]:
        index, position = locate(offset)
        if index >= self.num_regions or not self.regions[index].flags & flag:
            fail(errno.EINVAL)
        region = self.regions[index]
        if position >= region.size:
            fail(errno.EINVAL)
        return index, position, min(size, region.size - position)

    def _read_piece(self, index: int, offset: int, width: int) -> bytes:
        value = self.read(index, offset, width) & ((1 << 8 * width) - 1)
        return value.to_bytes(width, sys.byteorder)

    def mmap(self, length: int, prot: int, flags: int, offset: int) -> mmap.mmap:
        """``vfio_platform_common.c:vfio_platform_mmap``."""
        index, position = locate(offset)
        if not flags & mmap.MAP_SHARED or index not in self._ram:
            fail(errno.EINVAL)
        if prot & mmap.PROT_WRITE and self.regions[index].read_only:
            fail(errno.EINVAL)
        return map_area([self._ram[index]], length, prot, flags, position)

    def sysfs_files(self) -> Mapping[str, SysfsEntry]:
        """The device tree node's compatible strings, and the modalias made of them."""
        compatible = b"".join(name.encode() + b"\0" for name in self.compatible)
        node = self.name.rpartition(".")[2]
        modalias = f"of:N{node}T(null)" + "".join(f"C{name}" for name in self.compatible) + "\n"
        return {"of_node/compatible": compatible, "modalias": modalias.encode()}


class _Line:
    """One interrupt as ``vfio_platform_irq.c`` keeps it."""

    def __init__(self, level: bool, watcher: EventWatcher) -> None:  # noqa: FBT001
        self._level = level
        self._watcher = watcher
        self._asserted = False
        self._masked = False
        self._trigger = Trigger()
        self._mask_hook: EventHook | None = None
        self._unmask_hook: EventHook | None = None

    # -- the device -----------------------------------------------------------------------------
    def set_level(self, *, asserted: bool) -> None:
        self._asserted = asserted
        self._deliver()

    def pulse(self) -> None:
        self._trigger.signal()

    def _deliver(self) -> None:
        """``vfio_automasked_irq_handler``; without a trigger the interrupt is disabled."""
        if self._asserted and not self._masked and self._trigger:
            self._masked = True
            self._trigger.signal()

    # -- SET_IRQS -------------------------------------------------------------------------------
    def set_trigger(self, request: IrqRequest) -> None:
        """``vfio_platform_set_irq_trigger``."""
        if not request.count and request.is_data(VFIO_IRQ_SET_DATA_NONE):
            self._trigger.clear()
            return
        _check_only_vector(request)
        if request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            self._trigger.attach(request.eventfds[0])
            self._deliver()
        elif request.selected:
            self._loopback()

    def _loopback(self) -> None:
        if not self._level:
            self._trigger.signal()
        elif not self._masked:
            self._masked = True
            self._trigger.signal()

    def set_mask(self, request: IrqRequest) -> None:
        """``vfio_platform_set_irq_mask``."""
        self._check_maskable(request)
        if request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            self._mask_hook = self._hook(self._mask_hook, request.eventfds[0], self._mask)
        elif request.selected:
            self._mask()

    def set_unmask(self, request: IrqRequest) -> None:
        """``vfio_platform_set_irq_unmask``."""
        self._check_maskable(request)
        if request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            self._unmask_hook = self._hook(self._unmask_hook, request.eventfds[0], self._unmask)
        elif request.selected:
            self._unmask()

    def _check_maskable(self, request: IrqRequest) -> None:
        _check_only_vector(request)
        if not self._level:
            fail(errno.EINVAL)

    def _mask(self) -> None:
        self._masked = True

    def _unmask(self) -> None:
        self._masked = False
        self._deliver()

    def _hook(
        self, present: EventHook | None, fd: int, callback: Callable[[], None]
    ) -> EventHook | None:
        if fd < 0:
            self._unhook(present)
            return None
        if present is not None:
            fail(errno.EBUSY)
        return self._watcher.add(fd, callback)

    def _unhook(self, hook: EventHook | None) -> None:
        if hook is not None:
            self._watcher.remove(hook)

    def close(self) -> None:
        """``vfio_platform_irq_cleanup``."""
        self._unhook(self._mask_hook)
        self._unhook(self._unmask_hook)
        self._mask_hook = self._unmask_hook = None
        self._trigger.clear()
        self._masked = False


def _check_only_vector(request: IrqRequest) -> None:
    if (request.start, request.count) != (0, 1):
        fail(errno.EINVAL)
