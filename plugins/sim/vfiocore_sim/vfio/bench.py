"""A simulated device on its own, without the simulated kernel: for the tests of device authors.

`Bench` opens a device, stands in for the kernel behind it with a flat memory, and speaks the raw
ioctls. What it does not model (groups, IOMMU page tables, faults on record) needs a `SimHost`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic, TypeVar

from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FEATURE,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_RESET,
    VFIO_DEVICE_SET_IRQS,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    vfio_device_feature,
    vfio_device_info,
    vfio_irq_info,
    vfio_irq_set,
    vfio_region_info,
)
from vfiocore_sim.device import DmaBuf, DmaFault, HotResetPeer, SimDevice
from vfiocore_sim.refusal import fail
from vfiocore_sim.user import UserArg

DeviceT = TypeVar("DeviceT", bound=SimDevice)


class FlatMemory:
    """A `DmaPort` whose IOVAs below `size` are all mapped, and none above."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.memory: bytearray = bytearray(size)
        #: Ranges that the device holds pinned: ``(iova, size)`` in bytes.
        self.pinned: list[tuple[int, int]] = []

    def read(self, iova: int, size: int) -> bytes:
        """See `DmaPort`."""
        self._check(iova, size)
        return bytes(self.memory[iova : iova + size])

    def write(self, iova: int, data: bytes) -> None:
        """See `DmaPort`."""
        self._check(iova, len(data))
        self.memory[iova : iova + len(data)] = data

    def pin(self, iova: int, size: int, *, write: bool) -> None:
        """See `DmaPort`."""
        if iova + size > len(self.memory):
            fail(errno.EINVAL)
        self.pinned.append((iova, size))

    def unpin(self, iova: int, size: int) -> None:
        """See `DmaPort`."""
        self.pinned.remove((iova, size))

    def _check(self, iova: int, size: int) -> None:
        if iova + size > len(self.memory):
            msg = f"iova {iova:#x}: {size} bytes are not all mapped"
            raise DmaFault(msg)


class LoneKernel:
    """A `KernelPort` for one device on a bus of its own, opened through its group."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.machine: object | None = None

    @property
    def lock(self) -> AbstractContextManager[object]:
        """See `KernelPort`."""
        return self._lock

    def cdev(self) -> bool:
        """Opened through its group."""
        return False

    def kvm(self) -> object | None:
        """What a test stored in `machine`."""
        return self.machine

    def hot_reset_peers(self) -> list[HotResetPeer]:
        """ENODEV, as on a root bus."""
        fail(errno.ENODEV)

    def alone_on_bus(self) -> bool:
        """See `KernelPort`."""
        return True

    def has(self, name: str) -> bool:
        """Nothing is missing."""
        return True

    def export(self, buffer: DmaBuf, open_flags: int) -> int:
        """EMFILE: there are no files."""
        fail(errno.EMFILE)

    def check_hot_reset(self, group_fds: Sequence[int]) -> None:
        """ENODEV, as on a root bus."""
        fail(errno.ENODEV)


class Bench(Generic[DeviceT]):
    """A device that is open for as long as the ``with`` block runs.

    Example:
        with Bench(EduDevice()) as bench:
            assert bench.read(0, 0, 4) == 0x010000ed

    Attributes:
        device: The device.
        memory: What it reaches by DMA, from IOVA 0.
        kernel: The stand-in for the kernel.
    """

    def __init__(
        self, device: DeviceT, *, name: str = "0000:02:00.0", memory_size: int = 1 << 20
    ) -> None:
        self.device = device
        self.memory: FlatMemory = FlatMemory(memory_size)
        self.kernel: LoneKernel = LoneKernel()
        device.name = name
        device.dma = self.memory
        device.kernel = self.kernel
        self._eventfds: list[int] = []

    def __enter__(self) -> Bench[DeviceT]:
        with self.kernel.lock:
            self.device.open_device()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self.kernel.lock:
            self.device.close_device()
        for fd in self._eventfds:
            os.close(fd)

    # -- ioctls ---------------------------------------------------------------------------------
    def ioctl(self, request: int, arg: ctypes.Structure | bytearray | int = 0) -> int:
        """A device ioctl; `arg` is updated in place."""
        with self.kernel.lock:
            return self.device.ioctl(request, UserArg(arg))

    def info(self) -> vfio_device_info:
        """VFIO_DEVICE_GET_INFO."""
        info = vfio_device_info(argsz=ctypes.sizeof(vfio_device_info))
        self.ioctl(VFIO_DEVICE_GET_INFO, info)
        return info

    def region(self, index: int, *, argsz: int = 32) -> tuple[vfio_region_info, bytes]:
        """VFIO_DEVICE_GET_REGION_INFO with a buffer of `argsz` bytes: the struct and all of it."""
        buffer = bytearray(argsz)
        header = vfio_region_info.from_buffer(buffer)
        header.argsz, header.index = argsz, index
        self.ioctl(VFIO_DEVICE_GET_REGION_INFO, buffer)
        return vfio_region_info.from_buffer_copy(buffer), bytes(buffer)

    def irq(self, index: int) -> vfio_irq_info:
        """VFIO_DEVICE_GET_IRQ_INFO."""
        info = vfio_irq_info(argsz=ctypes.sizeof(vfio_irq_info), index=index)
        self.ioctl(VFIO_DEVICE_GET_IRQ_INFO, info)
        return info

    def set_irqs(
        self, index: int, flags: int, data: bytes = b"", *, start: int = 0, count: int = 0
    ) -> int:
        """VFIO_DEVICE_SET_IRQS from its raw parts."""
        size = ctypes.sizeof(vfio_irq_set) + len(data)
        header = vfio_irq_set(argsz=size, flags=flags, index=index, start=start, count=count)
        return self.ioctl(VFIO_DEVICE_SET_IRQS, bytearray(bytes(header) + data))

    def listen(self, index: int, vectors: int = 1, *, start: int = 0) -> list[int]:
        """Attach a new eventfd to each of `vectors`; the eventfds, closed with the bench."""
        fds = [self.eventfd() for _ in range(vectors)]
        self.attach(index, fds, start=start)
        return fds

    def attach(self, index: int, fds: Sequence[int], *, start: int = 0) -> int:
        """Attach the given eventfds; -1 takes one away."""
        flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER
        data = struct.pack(f"={len(fds)}i", *fds)
        return self.set_irqs(index, flags, data, start=start, count=len(fds))

    def irq_action(self, index: int, action: int, *, on: bool | None = None) -> int:
        """Mask, unmask or trigger vector 0, with DATA_NONE or, given `on`, with DATA_BOOL."""
        if on is None:
            return self.set_irqs(index, VFIO_IRQ_SET_DATA_NONE | action, count=1)
        return self.set_irqs(index, VFIO_IRQ_SET_DATA_BOOL | action, bytes([on]), count=1)

    def irqs_off(self, index: int) -> int:
        """Disable an index: DATA_NONE, TRIGGER, count 0."""
        return self.set_irqs(index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER)

    def feature(self, flags: int, data: bytes = b"") -> bytes:
        """VFIO_DEVICE_FEATURE; the data afterwards."""
        size = ctypes.sizeof(vfio_device_feature)
        buffer = bytearray(bytes(vfio_device_feature(argsz=size + len(data), flags=flags)) + data)
        self.ioctl(VFIO_DEVICE_FEATURE, buffer)
        return bytes(buffer[size:])

    def reset(self) -> int:
        """VFIO_DEVICE_RESET."""
        return self.ioctl(VFIO_DEVICE_RESET)

    # -- regions --------------------------------------------------------------------------------
    def pread(self, region: int, offset: int, size: int) -> bytes:
        """Read `size` bytes of a region."""
        info, _ = self.region(region)
        with self.kernel.lock:
            return self.device.pread(size, info.offset + offset)

    def pwrite(self, region: int, offset: int, data: bytes) -> int:
        """Write to a region; the number of bytes taken."""
        info, _ = self.region(region)
        with self.kernel.lock:
            return self.device.pwrite(data, info.offset + offset)

    def read(self, region: int, offset: int, size: int) -> int:
        """Read a little-endian register."""
        return int.from_bytes(self.pread(region, offset, size), "little")

    def write(self, region: int, offset: int, value: int, size: int) -> None:
        """Write a little-endian register."""
        self.pwrite(region, offset, value.to_bytes(size, "little"))

    # -- events ---------------------------------------------------------------------------------
    def eventfd(self, initial: int = 0) -> int:
        """A new eventfd, closed with the bench."""
        fd = os.eventfd(initial, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._eventfds.append(fd)
        return fd


def fired(eventfd: int) -> int:
    """How often an eventfd was signalled since it was last asked."""
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0
