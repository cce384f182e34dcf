"""A container of this backend: one IOAS of an iommufd, and the devices attached to it."""

from __future__ import annotations

import errno
import time
from functools import partial
from typing import TYPE_CHECKING, Self

from attrs import Factory, define, field

from vfiocore.container import Attachment, Capability, Container
from vfiocore.errors import ClosedError, kernel_error
from vfiocore.uapi import vfio
from vfiocore.undo import UndoStack, run_all
from vfiocore_iommufd.dma import IoasMapper
from vfiocore_iommufd.hwpt import Hwpt, alloc_hwpt
from vfiocore_iommufd.kinds import attach_error
from vfiocore_iommufd.ranges import read_iova_ranges

if TYPE_CHECKING:
    from vfiocore.memory.ranges import IovaRange
    from vfiocore_iommufd.bind import BoundDevice
    from vfiocore_iommufd.iommufd import Iommufd

ATTACH = "VFIO_DEVICE_ATTACH_IOMMUFD_PT"
DETACH = "VFIO_DEVICE_DETACH_IOMMUFD_PT"

# The sizes of Linux 6.6, without the PASID that is not used here.
ATTACH_SIZE = vfio.vfio_device_attach_iommufd_pt.pasid.offset
DETACH_SIZE = vfio.vfio_device_detach_iommufd_pt.pasid.offset

RESET_RETRIES = 40
RESET_PAUSE = 0.05
"""Seconds between attempts to attach while a device of the group resets: two seconds in all, as
a function has a second to come back from FLR or a power cycle."""


@define(eq=False, kw_only=True)
class IommufdContainer(Container):
    """One IOAS.

    Attributes:
        iommufd: The object that it lives in.
        ioas_id: Its id there.
        hwpts: The page tables that were allocated on it, oldest first.
        attached: The devices whose DMA goes through it now.
        mapper: Its map and unmap ioctls.
    """

    iommufd: Iommufd
    ioas_id: int
    hwpts: list[Hwpt] = field(factory=list)
    attached: list[BoundDevice] = field(factory=list)
    mapper: IoasMapper = field(default=Factory(IoasMapper, takes_self=True), init=False, repr=False)

    @classmethod
    def create(cls, iommufd: Iommufd) -> Self:
        """A container around a new IOAS."""
        ioas_id = iommufd.alloc_ioas()
        container = cls(
            host=iommufd.host,
            backend="iommufd",
            label=f"IOAS {ioas_id} of {iommufd.id}",
            backend_object=iommufd,
            iommufd=iommufd,
            ioas_id=ioas_id,
        )
        iommufd.containers.append(container)
        return container

    def destroy(self) -> None:
        """IOMMU_DESTROY of the IOAS; whatever is still mapped goes with it."""
        self.closed = True
        self.iommufd.containers.remove(self)
        tables = [hwpt.id for hwpt in self.hwpts]  # what could not be destroyed at its time
        self.hwpts.clear()
        run_all(partial(self.iommufd.destroy, id_) for id_ in (*tables, self.ioas_id))

    def choose_iova(self, size: int, vaddr: int) -> int:
        """The IOVA that IOMMU_IOAS_MAP gives memory without IOMMU_IOAS_MAP_FIXED_IOVA."""
        with self.lock:
            if self.closed:
                raise ClosedError(f"{self.label} is closed")
            return self.mapper.choose(size, vaddr)

    # -- devices -----------------------------------------------------------------------------
    def attach(self, device: BoundDevice) -> None:
        """Let a device's DMA go through this IOAS.

        A page table that exists is tried first, then one is allocated. Emulated devices, and
        IOMMUs that make no page tables on request, attach to the IOAS itself.

        Raises:
            KernelError: EINVAL, EADDRINUSE, device and IOAS do not go together: the IOMMU is
                another one, or the device reserves addresses that are mapped.
            DmaMemlockError, DmaAddressError: ENOMEM, EFAULT, pinning what is mapped failed.
            BusyError: EBUSY, a device of its group keeps resetting.
        """
        if device.hw is None or not (self._attach_shared(device) or self._attach_new(device)):
            self._attach_to(device, self.ioas_id)
        self.attached.append(device)

    def detach(self, device: BoundDevice) -> None:
        """Undo `attach`; the last device of a page table takes it down.

        A device that does not detach leaves with the close of its file, and a page table that
        cannot go now goes with the IOAS.
        """
        self.attached.remove(device)
        hwpt, device.hwpt = device.hwpt, None
        if hwpt is not None:
            hwpt.users -= 1
        self._detach(device)
        if hwpt is not None and hwpt.users == 0:
            self._drop(hwpt)

    def refresh(self) -> None:
        """Read again what changes with each device that comes or goes.

        With nothing attached nothing limits the IOAS, and nothing is asked.
        """
        self.capabilities: Capability = self._capabilities()
        if not self.attached:
            return
        ranges, alignment = read_iova_ranges(self.iommufd, self.ioas_id, self.label)
        self.iova_ranges: tuple[IovaRange, ...] = ranges
        # The kernel tells the smallest page, not all sizes. It may be smaller than the host's own
        # page, which is what memory is pinned by, and the least that type1 offers.
        self.page_sizes: int = max(alignment, self.host.page_size)

    # ----------------------------------------------------------------------------------------
    def _attach_shared(self, device: BoundDevice) -> bool:
        for hwpt in self.hwpts:
            try:
                self._attach_to(device, hwpt.id)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                continue  # this page table does not suit the device's IOMMU
            device.hwpt = hwpt
            hwpt.users += 1
            return True
        return False

    def _attach_new(self, device: BoundDevice) -> bool:
        assert device.hw is not None
        dirty = device.hw.tracks_dirty
        try:
            hwpt = alloc_hwpt(self.iommufd, self.ioas_id, device.dev_id, dirty=dirty)
        except OSError as error:
            # ENOENT: an emulated device that could not be told from a real one before.
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOENT):
                return False
            raise attach_error(error, "IOMMU_HWPT_ALLOC", device.name, self) from error
        self.hwpts.append(hwpt)
        with UndoStack() as undo:
            undo.push(self._drop, hwpt)
            self._attach_to(device, hwpt.id)
        device.hwpt = hwpt
        hwpt.users += 1
        return True

    def _attach_to(self, device: BoundDevice, pt_id: int) -> None:
        """VFIO_DEVICE_ATTACH_IOMMUFD_PT, again for a while if a device of the group resets."""
        for attempt in range(RESET_RETRIES + 1):
            arg = vfio.vfio_device_attach_iommufd_pt(argsz=ATTACH_SIZE, pt_id=pt_id)
            try:
                self.host.ioctl(device.cdev.fd, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, arg)
            except OSError as error:
                if error.errno != errno.EBUSY or attempt == RESET_RETRIES:
                    raise attach_error(error, ATTACH, device.name, self) from error
                time.sleep(RESET_PAUSE)
            else:
                return

    def _detach(self, device: BoundDevice) -> None:
        arg = vfio.vfio_device_detach_iommufd_pt(argsz=DETACH_SIZE)
        try:
            self.host.ioctl(device.cdev.fd, vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, arg)
        except OSError as error:
            raise kernel_error(error, DETACH, device.name) from error

    def _drop(self, hwpt: Hwpt) -> None:
        self.iommufd.destroy(hwpt.id)
        self.hwpts.remove(hwpt)

    def _capabilities(self) -> Capability:
        """Dirty tracking is only there if no device's writes can be missed."""
        found = Capability.MAP_FILE if self.iommufd.maps_files else Capability(0)
        tables = [device.hwpt for device in self.attached]
        if tables and all(hwpt is not None and hwpt.tracks_dirty for hwpt in tables):
            found |= Capability.DIRTY_TRACKING
        return found


@define(eq=False, kw_only=True)
class IommufdAttachment(Attachment):
    """One device's membership of an IOAS.

    Attributes:
        container: The IOAS.
        device: The bound device.
        undo: How to take the device down: detach, out of KVM, close.
    """

    container: IommufdContainer
    device: BoundDevice
    undo: UndoStack = field(repr=False)
