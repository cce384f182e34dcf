"""Page tables and devices of an iommufd (drivers/iommu/iommufd/{hw_pagetable,device}.c)."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from vfiocore_sim.kernel.intervals import Span
from vfiocore_sim.kernel.ioas import Area, Ioas
from vfiocore_sim.kernel.memory import Chunk
from vfiocore_sim.kernel.translation import Translated, Translation, Untranslatable
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.faultqueue import FaultQueue
    from vfiocore_sim.kernel.group import Group
    from vfiocore_sim.kernel.iommu import IommuModel
    from vfiocore_sim.kernel.iommufd import Iommufd
    from vfiocore_sim.kernel.node import Node


class Hwpt:
    """A paging HWPT: one page table, filled from its IOAS."""

    def __init__(self, ioas: Ioas, model: IommuModel, page_size: int, *, auto: bool) -> None:
        self.ioas = ioas
        self.model = model
        #: Made by attaching to the IOAS; goes with its last device.
        self.auto = auto
        self.devices: list[BoundDevice] = []
        self.unreachable: list[Span] = model.unreachable
        self.page_sizes: int = model.page_size_bitmap(page_size)
        self.smallest_page: int = self.page_sizes & -self.page_sizes
        self.faults: FaultQueue | None = None
        self.for_pasids = False
        self.tracks_dirty = False
        self.tracking = False
        #: Numbers of the pages that were written while tracking.
        self.dirty: set[int] = set()

    def entries(self) -> Iterable[Translated]:
        """Those of the IOAS."""
        return self.ioas.entries()

    def translate(self, iova: int, size: int, *, write: bool) -> list[Chunk]:
        """Walk the page table."""
        return self.ioas.translate(iova, size, write=write)

    def written(self, iova: int, size: int) -> None:
        """The IOMMU sets the dirty bit of each page."""
        if self.tracking:
            page = self.smallest_page
            self.dirty.update(range(iova // page, (iova + size - 1) // page + 1))

    def pin(self, node: Node, iova: int, size: int, *, write: bool) -> None:
        """Only emulated devices pin."""
        raise refused(errno.EINVAL)

    def unpin(self, node: Node, iova: int, size: int) -> None:
        """Nothing was pinned."""


class BoundDevice:
    """A device with an IOMMU, bound to an iommufd (``struct iommufd_device``)."""

    def __init__(self, iommufd: Iommufd, node: Node, group: Group) -> None:
        """``device.c:iommufd_device_bind``, checks in their order."""
        if not group.iommu.cache_coherent:
            raise refused(errno.EINVAL)
        if not group.iommu.msi_isolated and not iommufd.machine.iommufd_allow_unsafe_interrupts:
            raise refused(errno.EPERM)
        group.claim(iommufd, shared=True)
        iommufd.hold()
        self.context = iommufd
        self.node = node
        self.group = group
        self.hwpt: Hwpt | None = None
        self.pasids: dict[int, Hwpt] = {}
        self.ident: int = iommufd.add(self)

    @property
    def translation(self) -> Translation | None:
        """Where its DMA goes."""
        return self.hwpt

    def attach_pasid(self, pasid: int, pt_id: int) -> int:
        """``hw_pagetable.h:iommufd_hwpt_pasid_compat``; a device without PASIDs uses none of it."""
        target = self.context.get(pt_id)
        if not (isinstance(target, Hwpt) and target.for_pasids):
            raise refused(errno.EINVAL)
        if self.hwpt is not None and not self.hwpt.for_pasids:
            raise refused(errno.EINVAL)
        if not pasid:
            raise refused(errno.EBUSY)  # it stands for the device without a PASID
        self.pasids[pasid] = target
        return pt_id

    def detach_pasid(self, pasid: int) -> None:
        """``device.c:iommufd_device_detach``."""
        self.pasids.pop(pasid, None)

    @property
    def _siblings(self) -> list[BoundDevice]:
        """The attached devices of its group in this iommufd, itself included."""
        return [
            device
            for device in self.context.of_type(BoundDevice)
            if device.group is self.group and device.hwpt is not None
        ]

    def attach(self, pt_id: int) -> int:
        """``device.c:iommufd_device_attach`` and ``_replace``: the id of the HWPT in use."""
        target = self.context.get(pt_id)
        if isinstance(target, Hwpt):
            self._use(target)
        elif isinstance(target, Ioas):
            self._use_auto(target)
        else:
            raise refused(errno.EINVAL)
        return self.context.ident_of(self.hwpt)

    def _use_auto(self, ioas: Ioas) -> None:
        """``device.c:iommufd_device_auto_get_domain``: a compatible one that exists, else new."""
        for hwpt in ioas.hwpts:
            if hwpt.auto and hwpt.model == self.group.iommu:
                self._use(hwpt)
                return
        hwpt = Hwpt(ioas, self.group.iommu, self.context.machine.page_size, auto=True)
        self.context.add(hwpt)
        try:
            self._use(hwpt)
        except OSError:
            self.context.forget(hwpt)
            raise

    def _use(self, hwpt: Hwpt) -> None:
        if hwpt is self.hwpt:
            return
        if hwpt.model != self.group.iommu:
            raise refused(errno.EINVAL)
        if hwpt.faults is not None:
            raise refused(hwpt.model.no_page_requests)
        moved = self._siblings
        if self.hwpt is None and moved and moved[0].hwpt is not hwpt:
            raise refused(errno.EINVAL)
        self._reserve(hwpt.ioas)
        try:
            if hwpt not in hwpt.ioas.hwpts:
                hwpt.ioas.add_hwpt(hwpt)
        except OSError:
            self._unreserve(hwpt.ioas)
            raise
        # A replacement moves every attached device of the group.
        for device in moved if self.hwpt is not None else [self]:
            left = device._leave_table()
            device.hwpt = hwpt
            hwpt.devices.append(device)
            if left is not None:
                device._unreserve(left.ioas)

    def _reserve(self, ioas: Ioas) -> None:
        """``iopt_table_enforce_dev_resv_regions``."""
        if self.group not in ioas.reserved:
            ioas.reserve(self.group, self.group.iommu.reserved_spans)

    def _unreserve(self, ioas: Ioas) -> None:
        if not any(device.hwpt and device.hwpt.ioas is ioas for device in self._siblings):
            ioas.unreserve(self.group)

    def leave(self) -> None:
        """Stop using the page table; an automatic one goes with its last device."""
        left = self._leave_table()
        if left is not None:
            self._unreserve(left.ioas)

    def _leave_table(self) -> Hwpt | None:
        hwpt, self.hwpt = self.hwpt, None
        if hwpt is None:
            return None
        hwpt.devices.remove(self)
        if hwpt.auto and not hwpt.devices:
            hwpt.ioas.remove_hwpt(hwpt)
            self.context.forget(hwpt)
        return hwpt

    def detach(self) -> None:
        """``device.c:iommufd_device_detach``; nothing happens when not attached."""
        self.leave()

    def unbind(self) -> None:
        """``device.c:iommufd_device_unbind``."""
        self.context.forget(self)
        self.group.disclaim()
        self.context.drop()


class Access:
    """An emulated device bound to an iommufd: its driver asks for pages (``iommufd_access``)."""

    def __init__(self, iommufd: Iommufd, node: Node) -> None:
        """``device.c:iommufd_access_create``."""
        iommufd.hold()
        self.context = iommufd
        self.node = node
        self.ioas: Ioas | None = None
        self._pins: Counter[int] = Counter()
        self.ident: int = iommufd.add(self)

    @property
    def translation(self) -> Translation | None:
        """Where its DMA goes."""
        return self if self.ioas is not None else None

    def attach(self, pt_id: int) -> int:
        """``device.c:iommufd_access_attach`` and ``_replace``: takes an IOAS only."""
        ioas = self.context.get(pt_id)
        if not isinstance(ioas, Ioas):
            raise refused(errno.ENOENT)
        if ioas is not self.ioas:
            if self.ioas is not None:
                self.detach()
            ioas.add_access(self)
            self.ioas = ioas
        return pt_id

    def detach(self) -> None:
        """``device.c:iommufd_access_detach``: the driver is told to drop all its pins first."""
        ioas = self.ioas
        if ioas is None:
            return
        if self._pins:
            self.notify(0, (1 << 64) - 1)
        for page in list(self._pins):
            self._release(page)
        ioas.remove_access(self)
        self.ioas = None

    def unbind(self) -> None:
        """``device.c:iommufd_access_destroy``."""
        self.context.forget(self)
        self.context.drop()

    def pins(self, area: Area) -> bool:
        """True while the driver holds a page of the area."""
        return any(area.span.first <= page <= area.span.last for page in self._pins)

    def notify(self, iova: int, length: int) -> None:
        """``iommufd_access_ops.unmap``."""
        self.node.vfio_program().dma_unmapped(iova, length)

    def entries(self) -> Iterable[Translated]:
        """Those of the IOAS."""
        return self._attached().entries()

    def translate(self, iova: int, size: int, *, write: bool) -> list[Chunk]:
        """``device.c:iommufd_access_rw``; a CPU does not copy from or to a dma-buf."""
        ioas = self._attached()
        chunks = ioas.translate(iova, size, write=write)
        if any(area.pages.of_device for area, _offset, _size in ioas.pieces(iova, size)):
            raise Untranslatable(f"another device's memory is at {iova:#x}")
        return chunks

    def written(self, iova: int, size: int) -> None:
        """An access tracks nothing."""

    def pin(self, node: Node, iova: int, size: int, *, write: bool) -> None:
        """``device.c:iommufd_access_pin_pages``."""
        page_size = self.context.machine.page_size
        ioas = self._attached()
        ioas.pieces(iova, size)
        done: list[int] = []
        try:
            for page in range(iova & ~(page_size - 1), iova + size, page_size):
                self._pin_page(ioas, page, write=write)
                done.append(page)
        except OSError:
            for page in done:
                self.unpin(node, page, page_size)
            raise

    def _pin_page(self, ioas: Ioas, page: int, *, write: bool) -> None:
        area = ioas.areas.at(page)
        assert area is not None  # whole pages are mapped where a driver may pin
        if write and not area.write:
            raise refused(errno.EPERM)
        if area.pages.of_device:
            raise refused(errno.EINVAL)  # io_pagetable.c:iommufd_access_pin_pages
        if page not in self._pins:
            size = self.context.machine.page_size
            area.pages.pin((self, page), area.offset + page - area.iova, size)
        self._pins[page] += 1

    def unpin(self, node: Node, iova: int, size: int) -> None:
        """``device.c:iommufd_access_unpin_pages``."""
        page_size = self.context.machine.page_size
        for page in range(iova & ~(page_size - 1), iova + size, page_size):
            if page in self._pins:
                self._pins[page] -= 1
                if not self._pins[page]:
                    self._release(page)

    def _release(self, page: int) -> None:
        del self._pins[page]
        area = self._attached().areas.at(page)
        assert area is not None  # it cannot go while its pages are held
        area.pages.unpin((self, page))

    def _attached(self) -> Ioas:
        assert self.ioas is not None  # else `translation` leads nowhere
        return self.ioas


Attachment: TypeAlias = BoundDevice | Access


def dirty_bitmap(hwpt: Hwpt, span: Span, page_size: int, *, clear: bool) -> dict[int, int]:
    """``io_pagetable.c:iopt_read_and_clear_dirty_data``: byte offsets with the bits to set there.

    Bit n stands for the page of `page_size` bytes at ``span.first + n * page_size``.
    """
    found: dict[int, int] = {}
    size = hwpt.smallest_page
    for page in sorted(hwpt.dirty):
        first, last = page * size, page * size + size - 1
        if last < span.first or first > span.last:
            continue
        low = max(first, span.first) - span.first
        high = min(last, span.last) - span.first
        for bit in range(low // page_size, high // page_size + 1):
            found[bit // 8] = found.get(bit // 8, 0) | 1 << bit % 8
        if clear:
            hwpt.dirty.discard(page)
    return found
