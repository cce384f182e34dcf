"""An open device: the operations that VFIO defines on a device fd."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from vfiocore import capabilities
from vfiocore.capabilities import Capability
from vfiocore.errors import (
    ClosedError,
    DeviceAccessError,
    KernelError,
    MalformedReplyError,
    kernel_error,
)
from vfiocore.host import MAP_SHARED, PROT_READ, PROT_WRITE
from vfiocore.log import Log
from vfiocore.uapi import vfio

if TYPE_CHECKING:
    import mmap

    from vfiocore.host import Host

REPLY_LIMIT = 1 << 20
"""No info struct is larger than this (bytes); a kernel that says so is not believed."""

GROWTH_LIMIT = 8
"""Nor is one that asks for more room more often: capabilities come with devices, now and then."""

INDEX_LIMIT = 1 << 10
"""More regions, or interrupt indexes, than any device has."""

OPEN_READ_WRITE = os.O_RDWR | os.O_CLOEXEC

ACCESS_KINDS = {
    errno.EINVAL: DeviceAccessError,
    errno.EIO: DeviceAccessError,
    errno.EFAULT: DeviceAccessError,
    errno.EAGAIN: DeviceAccessError,
}


@frozen
class DeviceInfo:
    """What VFIO_DEVICE_GET_INFO says: flags, the number of region and irq indexes, capabilities."""

    flags: int
    num_regions: int
    num_irqs: int
    capabilities: tuple[Capability, ...] = ()


@frozen
class RegionInfo:
    """What VFIO_DEVICE_GET_REGION_INFO says; `size` in bytes, `offset` in the device file."""

    index: int
    flags: int
    size: int
    offset: int
    capabilities: tuple[Capability, ...] = ()


@frozen
class IrqInfo:
    """What VFIO_DEVICE_GET_IRQ_INFO says; `count` vectors."""

    index: int
    flags: int
    count: int


@define(eq=False, kw_only=True)
class DeviceAccess:
    """A device as an open file. A backend over something else overrides the operations.

    Attributes:
        host: The host that the fd belongs to.
        fd: The device fd.
        name: The device's name in messages.
        owned: False if the fd was passed in; then close() leaves it open.
        log: Where events of the device go; the session sets it.
    """

    host: Host = field(repr=False)
    fd: int
    name: str
    owned: bool = True
    closed: bool = False
    log: Log = field(factory=Log, repr=False)

    # -- facts -------------------------------------------------------------------------------
    def info(self) -> DeviceInfo:
        """VFIO_DEVICE_GET_INFO, with every capability (Linux 5.11)."""
        reply = self._grown(
            "VFIO_DEVICE_GET_INFO", vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info
        )
        head = vfio.vfio_device_info.from_buffer_copy(reply)
        has_caps = head.flags & vfio.VFIO_DEVICE_FLAGS_CAPS
        if max(head.num_regions, head.num_irqs) > INDEX_LIMIT:
            raise MalformedReplyError(
                f"{self.name}: VFIO_DEVICE_GET_INFO tells of {head.num_regions} regions and"
                f" {head.num_irqs} interrupt indexes"
            )
        return DeviceInfo(
            head.flags,
            head.num_regions,
            head.num_irqs,
            tuple(capabilities.walk(reply, head.cap_offset)) if has_caps else (),
        )

    def region_info(self, index: int) -> RegionInfo:
        """VFIO_DEVICE_GET_REGION_INFO; DeviceAccessError (EINVAL) for an index that is not there."""
        reply = self._grown(
            "VFIO_DEVICE_GET_REGION_INFO",
            vfio.VFIO_DEVICE_GET_REGION_INFO,
            vfio.vfio_region_info,
            index=index,
        )
        head = vfio.vfio_region_info.from_buffer_copy(reply)
        has_caps = head.flags & vfio.VFIO_REGION_INFO_FLAG_CAPS
        return RegionInfo(
            index,
            head.flags,
            head.size,
            head.offset,
            tuple(capabilities.walk(reply, head.cap_offset)) if has_caps else (),
        )

    def irq_info(self, index: int) -> IrqInfo:
        """VFIO_DEVICE_GET_IRQ_INFO; DeviceAccessError (EINVAL) for an index that is not there."""
        info = vfio.vfio_irq_info(argsz=ctypes.sizeof(vfio.vfio_irq_info), index=index)
        self._ioctl("VFIO_DEVICE_GET_IRQ_INFO", vfio.VFIO_DEVICE_GET_IRQ_INFO, info)
        return IrqInfo(index, info.flags, info.count)

    # -- interrupts, reset, features ---------------------------------------------------------
    def set_irqs(
        self, index: int, action: int, *, start: int = 0, count: int = 1, data: bytes = b""
    ) -> int:
        """VFIO_DEVICE_SET_IRQS.

        Args:
            index: The interrupt index.
            action: ``VFIO_IRQ_SET_DATA_* | VFIO_IRQ_SET_ACTION_*``.
            start: The first vector.
            count: How many vectors.
            data: One element a vector: an int8 or, for eventfds, an int32.

        Returns:
            0; a positive number is how many vectors could have been allocated, and none was.
        """
        header = vfio.vfio_irq_set(
            argsz=ctypes.sizeof(vfio.vfio_irq_set) + len(data),
            flags=action,
            index=index,
            start=start,
            count=count,
        )
        return self._ioctl(
            "VFIO_DEVICE_SET_IRQS", vfio.VFIO_DEVICE_SET_IRQS, bytearray(bytes(header) + data)
        )

    def set_eventfds(self, index: int, action: int, start: int, fds: Sequence[int]) -> int:
        """`set_irqs` with one eventfd a vector; -1 takes a vector's eventfd away."""
        return self.set_irqs(
            index,
            action | vfio.VFIO_IRQ_SET_DATA_EVENTFD,
            start=start,
            count=len(fds),
            data=struct.pack(f"={len(fds)}i", *fds),
        )

    def reset(self) -> None:
        """VFIO_DEVICE_RESET; DeviceAccessError (EINVAL) without a reset method."""
        self._ioctl("VFIO_DEVICE_RESET", vfio.VFIO_DEVICE_RESET, 0)

    def feature(self, feature: int, operation: int, payload: bytes = b"") -> bytes:
        """VFIO_DEVICE_FEATURE (Linux 5.7).

        Args:
            feature: ``VFIO_DEVICE_FEATURE_*`` number.
            operation: ``VFIO_DEVICE_FEATURE_GET``, ``_SET`` or ``_PROBE`` with one of these.
            payload: The data of a SET, or as many zero bytes as a GET returns.

        Returns:
            The payload as the kernel left it.

        Raises:
            UnsupportedError: ENOTTY, the kernel or the driver lacks the feature.
        """
        size = ctypes.sizeof(vfio.vfio_device_feature)
        head = vfio.vfio_device_feature(argsz=size + len(payload), flags=feature | operation)
        buffer = bytearray(bytes(head) + payload)
        self._ioctl("VFIO_DEVICE_FEATURE", vfio.VFIO_DEVICE_FEATURE, buffer)
        return bytes(buffer[size:])

    def export_dmabuf(self, index: int, offset: int, size: int) -> int:
        """VFIO_DEVICE_FEATURE_DMA_BUF (Linux 6.19) of one range of a region, in bytes.

        Returns:
            A new fd, close-on-exec; the caller closes it.

        Raises:
            UnsupportedError: ENOTTY, the kernel lacks the feature, or it is no PCI device;
                EOPNOTSUPP, its driver does.
            KernelError: ENODEV, no such BAR; EINVAL, not whole pages of it.
        """
        wanted = vfio.vfio_device_feature_dma_buf(
            region_index=index, open_flags=OPEN_READ_WRITE, nr_ranges=1
        )
        payload = bytes(wanted) + bytes(vfio.vfio_region_dma_range(offset=offset, length=size))
        head = vfio.vfio_device_feature(
            argsz=ctypes.sizeof(vfio.vfio_device_feature) + len(payload),
            flags=vfio.VFIO_DEVICE_FEATURE_DMA_BUF | vfio.VFIO_DEVICE_FEATURE_GET,
        )
        buffer = bytearray(bytes(head) + payload)
        return self._ioctl("VFIO_DEVICE_FEATURE", vfio.VFIO_DEVICE_FEATURE, buffer)

    # -- regions -----------------------------------------------------------------------------
    def pread(self, size: int, offset: int) -> bytes:
        """Read exactly `size` bytes at a file offset; DeviceAccessError if the device gives less."""
        self._check_open()
        try:
            data = self.host.pread(self.fd, size, offset)
        except OSError as error:
            raise self._failed(error, "pread", f"offset {offset:#x} size {size:#x}") from error
        if len(data) != size:
            raise self._short("pread", offset, size, len(data))
        return data

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of `data` at a file offset; DeviceAccessError if the device takes less."""
        self._check_open()
        size = memoryview(data).nbytes
        try:
            taken = self.host.pwrite(self.fd, data, offset)
        except OSError as error:
            detail = f"offset {offset:#x} size {size:#x}"
            raise self._failed(error, "pwrite", detail) from error
        if taken != size:
            raise self._short("pwrite", offset, size, taken)

    def mmap(self, length: int, offset: int, *, writable: bool) -> mmap.mmap:
        """Map `length` bytes of the device file at `offset`, shared."""
        self._check_open()
        prot = PROT_READ | PROT_WRITE if writable else PROT_READ
        try:
            return self.host.mmap(self.fd, length, prot=prot, flags=MAP_SHARED, offset=offset)
        except OSError as error:
            raise self._failed(error, "mmap", f"offset {offset:#x} size {length:#x}") from error

    def close(self) -> None:
        """Close the fd, unless it was passed in. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if not self.owned:
            return
        try:
            self.host.close(self.fd)
        except OSError as error:
            raise self._failed(error, "close", "") from error

    # ----------------------------------------------------------------------------------------
    def _grown(
        self, name: str, request: int, layout: type[ctypes.Structure], **fields: int
    ) -> bytes:
        """Issue an info ioctl, again with the size that the kernel asked for if that is more."""
        size = ctypes.sizeof(layout)
        for _ in range(GROWTH_LIMIT):
            buffer = bytearray(bytes(layout(argsz=size, **fields)).ljust(size, b"\0"))
            self._ioctl(name, request, buffer)
            wanted = int(layout.from_buffer_copy(buffer).argsz)
            if wanted <= size:
                return bytes(buffer)
            if wanted > REPLY_LIMIT:
                break
            size = wanted
        raise MalformedReplyError(f"{self.name}: {name} asks for {wanted} bytes")

    def _ioctl(self, name: str, request: int, arg: ctypes.Structure | bytearray | int) -> int:
        self._check_open()
        try:
            return self.host.ioctl(self.fd, request, arg)
        except OSError as error:
            raise self._failed(error, name, "") from error

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"{self.name} is closed")

    def _failed(self, error: OSError, operation: str, detail: str) -> KernelError:
        return kernel_error(error, operation, self.name, kinds=ACCESS_KINDS, detail=detail)

    def _short(self, operation: str, offset: int, wanted: int, got: int) -> DeviceAccessError:
        return DeviceAccessError(
            errno.EIO,
            operation,
            self.name,
            f"offset {offset:#x}: {got} of {wanted} bytes were transferred",
        )
