"""What a simulated device is: the driver and the hardware, seen from the kernel's VFIO core.

The simulated kernel (groups, containers, cdevs, iommufd) owns open files, IOMMU page tables and
sysfs; a `SimDevice` owns what lies behind a *device* fd. The two meet in this module only.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from vfiocore_sim.refusal import fail

if TYPE_CHECKING:
    from vfiocore_sim.user import UserArg


class DmaFault(Exception):  # noqa: N818 - it is what the IOMMU calls it
    """A device access that the IOMMU refused; it has been recorded by the simulated kernel."""


class DmaPort(Protocol):
    """A device's way to memory: through the IOMMU domain that it is attached to *now*.

    Every access is translated page by page. An access to an unmapped address or without the
    permission is recorded as a fault of the device and raises `DmaFault`; nothing is transferred.
    """

    def read(self, iova: int, size: int) -> bytes:
        """Read `size` bytes of memory at `iova`."""

    def write(self, iova: int, data: bytes) -> None:
        """Write `data` to memory at `iova`."""

    def pin(self, iova: int, size: int, *, write: bool) -> None:
        """Pin pages as an mdev driver does; OSError with the kernel's errno (EINVAL, EPERM...)."""

    def unpin(self, iova: int, size: int) -> None:
        """Give back what `pin` took."""


class Store(Protocol):
    """Bytes behind addresses: a process's memory, a file's, a device's."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`; OSError(EFAULT) when they are gone."""

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`; OSError(EFAULT) when it cannot be."""


class DmaBuf:
    """Ranges of a device's memory that it exported, ``(offset, length)`` in bytes.

    A device revokes it while its memory does not answer: what was mapped of it until then is gone
    for good, and nothing can be mapped until `revoked` is false again.
    """

    def __init__(self, memory: Store, ranges: tuple[tuple[int, int], ...]) -> None:
        self.ranges = ranges
        self.revoked: bool = False
        #: Who mapped it; called when it is revoked (``move_notify``).
        self.importers: list[Callable[[], None]] = []
        self._memory = memory

    @property
    def size(self) -> int:
        """In bytes, all ranges together."""
        return sum(length for _offset, length in self.ranges)

    def revoke(self) -> None:
        """Take it away from everybody."""
        self.revoked = True
        for tell in self.importers:
            tell()

    def read(self, address: int, size: int) -> bytes:
        """Read from its only range; `address` is an offset in that."""
        return self._memory.read(self.ranges[0][0] + address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write to its only range."""
        self._memory.write(self.ranges[0][0] + address, data)


class HotResetPeer(NamedTuple):
    """A device that a bus reset touches: itself and the others on its bus."""

    name: str
    group_id: int
    #: What HOT_RESET_INFO reports to a cdev: the iommufd id, VFIO_PCI_DEVID_OWNED or _NOT_OWNED.
    devid: int
    program: SimDevice


class KernelPort(Protocol):
    """What a device asks of the simulated kernel; `SimDevice.kernel` is set before any call."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """The one lock of the simulated kernel (re-entrant); a timer thread takes it first."""

    def cdev(self) -> bool:
        """True when the device was opened through its character device, not through its group."""

    def kvm(self) -> object | None:
        """The virtual machine linked to the device's file, an identity to compare; None without."""

    def hot_reset_peers(self) -> list[HotResetPeer]:
        """The devices that a bus reset of this one touches, itself included.

        Raises:
            OSError: ENODEV on a root bus; EPERM when a device in the way has no group.
        """

    def alone_on_bus(self) -> bool:
        """True if a reset of the device's bus touches nothing else: a port has it to itself."""

    def has(self, name: str) -> bool:
        """False for what this kernel lacks (`KernelOptions.without`), by its uAPI name."""

    def export(self, buffer: DmaBuf, open_flags: int) -> int:
        """A new fd of a dma-buf; of the flags O_CLOEXEC is looked at."""

    def check_hot_reset(self, group_fds: Sequence[int]) -> None:
        """Refuse a bus reset unless the caller owns every affected device.

        `group_fds` are the groups given by the caller, none for a cdev.

        Raises:
            OSError: EBADF for a closed fd; EINVAL for an fd that is no group, or an affected
                device that the caller does not own.
        """


class SysfsFile(NamedTuple):
    """An attribute whose content is computed, or that can be stored to.

    A callable raises OSError with the errno of the driver's show or store function. A file
    without `read` is write-only (EACCES when opened for reading), and the other way round.
    """

    read: Callable[[], bytes] | None = None
    write: Callable[[bytes], None] | None = None


SysfsEntry: TypeAlias = bytes | SysfsFile


class DeviceMapping(mmap.mmap):
    """An mmap of a device region: what `SimDevice.mmap` returns, so that munmap is noticed.

    The kernel keeps a device open while it is mapped; `on_unmap` is called once, after the
    mapping is gone. Constructed like `mmap.mmap`.
    """

    on_unmap: Callable[[], None] | None = None

    def close(self) -> None:
        """Unmap; BufferError while a memoryview is exported."""
        super().close()
        self._report()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._report()

    def _report(self) -> None:
        callback, self.on_unmap = self.on_unmap, None
        if callback is not None:
            callback()


class SimDevice:
    """Base of every simulated device. The kernel side calls these; a device overrides them.

    `name`, `bus`, `dma` and `kernel` are set by the kernel when the machine is built, before
    anything else is called. Calls come under the simulated kernel's lock.
    """

    #: Name under its bus: ``0000:02:00.0``, ``10000000.timer``, a UUID.
    name: str
    #: ``pci``, ``platform``, ``mdev``.
    bus: str
    #: True for mdev-style devices, which have no IOMMU domain of their own.
    emulated: bool = False
    #: True for a driver that can attach PASIDs (``vfio_device_ops.pasid_attach_ioas``).
    attaches_pasids: bool = False
    #: The device's way to memory; the device itself limits by its DMA address width.
    dma: DmaPort
    #: The simulated kernel.
    kernel: KernelPort

    def open_device(self) -> None:
        """First open (``vfio_device_ops.open_device``); OSError fails the open or bind."""

    def close_device(self) -> None:
        """Last close: interrupts off, state reset."""

    def ioctl(self, request: int, arg: UserArg) -> int:
        """A device-level ioctl; the kernel's return value or OSError.

        A driver without this, or one of the next three, answers EINVAL
        (``vfio_main.c:vfio_device_fops_unl_ioctl``, ``_read``, ``_write``, ``_mmap``).
        """
        fail(errno.EINVAL)

    def pread(self, size: int, offset: int) -> bytes:
        """Read from the device file."""
        fail(errno.EINVAL)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Write to the device file."""
        fail(errno.EINVAL)

    def mmap(self, length: int, prot: int, flags: int, offset: int) -> mmap.mmap:
        """Map part of a region as a `DeviceMapping`; OSError(EINVAL) where the kernel refuses."""
        fail(errno.EINVAL)

    def dma_unmapped(self, iova: int, size: int) -> None:
        """A range that this (emulated) device pinned is being unmapped; it must unpin it now."""

    def needs_kvm(self) -> bool:
        """True when the driver insists on a KVM that was linked to the file (vfio-ap)."""
        return False

    def request(self, count: int) -> None:
        """The kernel wants the device back (``vfio_device_ops.request``), for the n-th time."""

    def token_check(self, name_options: str | None, token: bytes | None) -> None:
        """Match the VF token given in GET_DEVICE_FD's string or with BIND; OSError if it fails.

        `name_options` is what follows the device's name in the string, with the leading space.
        """
        if name_options or token is not None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def sysfs_files(self) -> Mapping[str, SysfsEntry]:
        """The attribute files of the device's directory that describe the hardware or its driver.

        Keys are names relative to the directory (``vendor``, ``of_node/compatible``). The kernel
        adds what it owns: links, driver_override, vfio-dev, iommu_group, remove, mdev_type.
        """
        return {}


EventSignal = Callable[[], None]
"""Signals one eventfd that SET_IRQS attached."""
