"""The type1 backend of a legacy container (drivers/vfio/vfio_iommu_type1.c)."""

from __future__ import annotations

import ctypes
import errno
from collections import Counter
from collections.abc import Iterator
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from attrs import define, field

from vfiocore.uapi.vfio import (
    VFIO_DMA_CC_IOMMU,
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_VADDR,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    VFIO_DMA_UNMAP_FLAG_VADDR,
    VFIO_IOMMU_DIRTY_PAGES,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_IOMMU_UNMAP_DMA,
    VFIO_TYPE1_IOMMU,
    VFIO_UNMAP_ALL,
    VFIO_UPDATE_VADDR,
    VFIO_TYPE1v2_IOMMU,
    vfio_bitmap,
    vfio_info_cap_header,
    vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info,
    vfio_iommu_type1_info_cap_iova_range,
    vfio_iommu_type1_info_cap_migration,
    vfio_iommu_type1_info_dma_avail,
    vfio_iova_range,
)
from vfiocore_sim.capchain import chained
from vfiocore_sim.kernel import dirty
from vfiocore_sim.kernel.accounting import Charge
from vfiocore_sim.kernel.intervals import EVERYTHING, U64_MAX, IntervalMap, Span, without
from vfiocore_sim.kernel.memory import Chunk
from vfiocore_sim.kernel.translation import Translated, Untranslatable
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.group import Group
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.kernel.node import Node
    from vfiocore_sim.user import UserArg

_INFO_MINIMUM = 16
_MAP_FLAGS = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE | VFIO_DMA_MAP_FLAG_VADDR
_UNMAP_FLAGS = (
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR
)
_UNMAP_RETRIES = 10


@define(eq=False)
class Mapping:
    """A ``struct vfio_dma``: one MAP_DMA, never merged with its neighbours."""

    iova: int
    size: int
    vaddr: int
    read: bool
    write: bool
    vaddr_valid: bool = True
    #: Bytes that are pinned because an IOMMU maps them; 0 while only emulated devices are there.
    pinned: int = 0
    #: The part of `pinned` that counts as locked memory: none of it for device registers.
    charged: int = 0
    #: Pages pinned by drivers of emulated devices: iova of the page, by device.
    driver_pins: dict[Node, Counter[int]] = field(factory=dict)
    #: Pages written since the last report (iovas of the pages), for emulated devices.
    dirty: set[int] = field(factory=set)

    @property
    def span(self) -> Span:
        """The IOVAs."""
        return Span(self.iova, self.iova + self.size - 1)

    def pinned_pages(self) -> set[int]:
        """The pages that some driver holds."""
        return {page for pins in self.driver_pins.values() for page in pins}


class Type1:
    """An address space of the IOMMU, in one container."""

    def __init__(self, machine: Machine, *, v2: bool) -> None:
        self.machine = machine
        self.v2 = v2
        self.groups: list[Group] = []
        self.maps: IntervalMap[Mapping] = IntervalMap()
        self.available: int = machine.dma_entry_limit
        self.logging = False
        #: Whether an IOMMU has ever set limits; until then there are none to be told.
        self._limited = False
        self._limits_changed()

    @property
    def translation(self) -> Type1:
        """Where the DMA of the container's devices goes."""
        return self

    @property
    def translated(self) -> list[Group]:
        """The groups with an IOMMU; the others are emulated."""
        return [group for group in self.groups if group.translated]

    @property
    def _has_emulated(self) -> bool:
        return len(self.translated) < len(self.groups)

    # -- ioctls ------------------------------------------------------------------------------
    def check_extension(self, extension: int) -> int:
        """``vfio_iommu_type1_check_extension``."""
        if extension == VFIO_UPDATE_VADDR:
            # Emulated devices reach memory through the vaddr, which may not go away under them.
            return int(not self._has_emulated)
        if extension == VFIO_DMA_CC_IOMMU:
            return int(all(group.iommu.enforces_coherency for group in self.translated))
        return int(extension in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL))

    def ioctl(self, request: int, arg: UserArg) -> int:
        """``vfio_iommu_type1_ioctl``."""
        if request == VFIO_IOMMU_GET_INFO:
            return self._get_info(arg)
        if request == VFIO_IOMMU_MAP_DMA:
            return self._map(arg)
        if request == VFIO_IOMMU_UNMAP_DMA:
            return self._unmap(arg)
        if request == VFIO_IOMMU_DIRTY_PAGES:
            return dirty.dirty_pages(self, arg)
        raise refused(errno.ENOTTY)

    # -- groups ------------------------------------------------------------------------------
    def attach(self, group: Group) -> None:
        """``vfio_iommu_type1_attach_group``."""
        if any(not mapping.vaddr_valid for mapping in self.maps):
            raise refused(errno.EBUSY)
        if group in self.groups:
            raise refused(errno.EINVAL)
        if group.translated:
            self._check_fits(group)
            self._replay(group)
            self._limited = True
        self.groups.append(group)
        self._limits_changed()

    def _check_fits(self, group: Group) -> None:
        """``vfio_iommu_aper_conflict``, ``vfio_iommu_resv_conflict``, then the interrupts."""
        if not self._usable([*self.translated, group]):
            raise refused(errno.EINVAL)
        # A list of ranges that is still empty has no conflict with an aperture.
        beyond = group.iommu.unreachable if self._limited else []
        for hole in (*beyond, *group.iommu.reserved_spans):
            if self.maps.meeting(hole):
                raise refused(errno.EINVAL)
        if not group.iommu.msi_isolated and not self.machine.allow_unsafe_interrupts:
            raise refused(errno.EPERM)

    def _replay(self, group: Group) -> None:
        """``vfio_iommu_replay``: a new domain gets what is mapped already."""
        done: list[Mapping] = []
        try:
            for mapping in self.maps:
                if not mapping.pinned:
                    self._pin(mapping)
                    done.append(mapping)
                if any(mapping.span.meets(hole) for hole in group.iommu.unreachable):
                    raise refused(errno.ERANGE)  # generic_pt: pt_iommu_map_pages
        except OSError:
            for mapping in done:
                self._unpin(mapping)
            raise

    def detach(self, group: Group) -> None:
        """``vfio_iommu_type1_detach_group``."""
        self.groups.remove(group)
        self._limits_changed()
        if not self.groups:
            for mapping in self.maps:
                self._remove(mapping)
        elif not self.translated:
            for mapping in self.maps:
                self._unpin(mapping)

    # -- limits ------------------------------------------------------------------------------
    @staticmethod
    def _usable(groups: list[Group]) -> list[Span]:
        """IOVAs that each group's IOMMU reaches and none reserves."""
        holes = [
            span
            for group in groups
            for span in (*group.iommu.unreachable, *group.iommu.reserved_spans)
        ]
        return without([EVERYTHING], holes) if groups else []

    def _limits_changed(self) -> None:
        """``vfio_iommu_iova_insert_copy`` and ``vfio_update_pgsize_bitmap``."""
        self.usable: list[Span] = self._usable(self.translated)
        if self._limited and not self.translated:
            self.usable = [EVERYTHING]  # vfio_iommu_aper_expand
        self.page_sizes: int = self._common_page_sizes()
        #: The unit of every map and unmap, in bytes.
        self.smallest_page: int = self.page_sizes & -self.page_sizes

    def _common_page_sizes(self) -> int:
        page = self.machine.page_size
        bitmaps = [group.iommu.page_size_bitmap(page) for group in self.translated]
        common = reduce(and_, bitmaps, U64_MAX)
        if not bitmaps:
            return U64_MAX & ~(page - 1)
        # Smaller pages than the CPU's are dropped and the CPU's put in their place.
        return (common & ~(page - 1)) | page if common & (page - 1) else common

    # -- GET_INFO ----------------------------------------------------------------------------
    def _get_info(self, arg: UserArg) -> int:
        """``vfio_iommu_type1_get_info``."""
        info = arg.struct(vfio_iommu_type1_info, _INFO_MINIMUM)
        size = min(info.argsz, ctypes.sizeof(info))
        info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS
        info.iova_pgsizes = self.page_sizes
        info.cap_offset = 0
        chain = chained(self._capabilities(), ctypes.sizeof(info))
        total = ctypes.sizeof(info) + len(chain)
        if info.argsz < total:
            info.argsz = total
        else:
            arg.write(chain, ctypes.sizeof(info))
            info.cap_offset = ctypes.sizeof(info)
        arg.answer(info, size)
        return 0

    def _capabilities(self) -> list[ctypes.Structure | bytes]:
        migration = vfio_iommu_type1_info_cap_migration(
            header=vfio_info_cap_header(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1),
            pgsize_bitmap=self.smallest_page,
            max_dirty_bitmap_size=dirty.MAXIMUM_BITMAP,
        )
        available = vfio_iommu_type1_info_dma_avail(
            header=vfio_info_cap_header(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1), avail=self.available
        )
        usable = self.usable
        if not usable:
            return [migration, available]
        ranges = vfio_iommu_type1_info_cap_iova_range(
            header=vfio_info_cap_header(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1),
            nr_iovas=len(usable),
        )
        spans = b"".join(bytes(vfio_iova_range(span.first, span.last)) for span in usable)
        return [migration, available, bytes(ranges) + spans]

    # -- MAP_DMA -----------------------------------------------------------------------------
    def _map(self, arg: UserArg) -> int:
        """``vfio_iommu_type1_map_dma`` and ``vfio_dma_do_map``, checks in their order."""
        wanted = arg.struct(vfio_iommu_type1_dma_map)
        iova, vaddr, size, flags = wanted.iova, wanted.vaddr, wanted.size, wanted.flags
        if flags & ~_MAP_FLAGS or not size:
            raise refused(errno.EINVAL)
        if iova + size - 1 > U64_MAX or vaddr + size - 1 > U64_MAX:
            raise refused(errno.EOVERFLOW)
        access = bool(flags & (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE))
        if access == bool(flags & VFIO_DMA_MAP_FLAG_VADDR):
            raise refused(errno.EINVAL)
        if (iova | vaddr | size) & (self.smallest_page - 1):
            raise refused(errno.EINVAL)
        if flags & VFIO_DMA_MAP_FLAG_VADDR:
            return self._update_vaddr(iova, size, vaddr)
        span = Span(iova, iova + size - 1)
        if self.maps.meeting(span):
            raise refused(errno.EEXIST)
        if not self.available:
            raise refused(errno.ENOSPC)
        if self.usable and not any(piece.covers(span) for piece in self.usable):
            raise refused(errno.EINVAL)
        read, write = flags & VFIO_DMA_MAP_FLAG_READ, flags & VFIO_DMA_MAP_FLAG_WRITE
        mapping = Mapping(iova, size, vaddr, bool(read), bool(write))
        if self.translated:
            self._pin(mapping)
        self.maps.insert(mapping)
        self.available -= 1
        return 0

    def _update_vaddr(self, iova: int, size: int, vaddr: int) -> int:
        """The VADDR part of ``vfio_dma_do_map``: the same memory at a new address."""
        met = self.maps.meeting(Span(iova, iova + size - 1))
        if not met:
            raise refused(errno.ENOENT)
        mapping = met[0]
        if mapping.vaddr_valid or (mapping.iova, mapping.size) != (iova, size):
            raise refused(errno.EINVAL)
        mapping.vaddr = vaddr
        mapping.vaddr_valid = True
        return 0

    def _pin(self, mapping: Mapping) -> None:
        """``vfio_pin_map_dma``: EFAULT for what cannot be pinned, ENOMEM beyond the limit."""
        memory = self.machine.memory
        memory.check(mapping.vaddr, mapping.size, write=mapping.write)
        registers = memory.is_registers(mapping.vaddr, mapping.size)
        size = 0 if registers else mapping.size
        locked = self.machine.locked
        locked.pin(size, Charge.MM, limited=not locked.cap_ipc_lock)
        locked.unpin(self._driver_pinned(mapping), Charge.MM)
        mapping.pinned = mapping.size
        mapping.charged = size

    def _unpin(self, mapping: Mapping) -> None:
        """Drop the IOMMU's pins; what drivers hold is theirs again (``..._unpin_reaccount``)."""
        if not mapping.pinned:
            return
        locked = self.machine.locked
        locked.unpin(mapping.charged, Charge.MM)
        locked.pin(self._driver_pinned(mapping), Charge.MM, limited=False)
        mapping.pinned = mapping.charged = 0

    def _driver_pinned(self, mapping: Mapping) -> int:
        return len(mapping.pinned_pages()) * self.machine.page_size

    # -- UNMAP_DMA ---------------------------------------------------------------------------
    def _unmap(self, arg: UserArg) -> int:
        """``vfio_iommu_type1_unmap_dma`` and ``vfio_dma_do_unmap``, checks in their order."""
        wanted = arg.struct(vfio_iommu_type1_dma_unmap)
        flags = wanted.flags
        everything = bool(flags & VFIO_DMA_UNMAP_FLAG_ALL)
        invalidate = bool(flags & VFIO_DMA_UNMAP_FLAG_VADDR)
        report = bool(flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP)
        if flags & ~_UNMAP_FLAGS or (report and (everything or invalidate)):
            raise refused(errno.EINVAL)
        bitmap = self._unmap_bitmap(arg, wanted) if report else None
        if invalidate and self._has_emulated:
            raise refused(errno.EBUSY)
        span = self._unmap_span(wanted.iova, wanted.size, everything=everything)
        if bitmap is not None and (not self.logging or bitmap.pgsize != self.smallest_page):
            raise refused(errno.EINVAL)
        mappings = self._unmappable(span) if span else []
        if invalidate:
            wanted.size = self._invalidate(mappings)
        else:
            wanted.size = self._unmap_all(mappings, span, bitmap)
        arg.answer(wanted)
        return 0

    def _unmap_bitmap(self, arg: UserArg, wanted: vfio_iommu_type1_dma_unmap) -> vfio_bitmap:
        header = ctypes.sizeof(wanted)
        if wanted.argsz < header + ctypes.sizeof(vfio_bitmap):
            raise refused(errno.EINVAL)
        raw = arg.read(ctypes.sizeof(vfio_bitmap), header)
        bitmap = vfio_bitmap.from_buffer_copy(raw)
        dirty.check_bitmap(bitmap, wanted.size)
        return bitmap

    def _unmap_span(self, iova: int, size: int, *, everything: bool) -> Span | None:
        """The range asked for; ALL is any that is mapped."""
        mask = self.smallest_page - 1
        if iova & mask:
            raise refused(errno.EINVAL)
        if everything:
            if iova or size:
                raise refused(errno.EINVAL)
            return EVERYTHING
        if not size or size & mask:
            raise refused(errno.EINVAL)
        if iova + size - 1 > U64_MAX:
            raise refused(errno.EOVERFLOW)
        return Span(iova, iova + size - 1)

    def _unmappable(self, span: Span) -> list[Mapping]:
        """What an unmap of `span` takes away: whole mappings only."""
        met = self.maps.meeting(span)
        if self.v2:
            if any(not span.covers(mapping.span) for mapping in met):
                raise refused(errno.EINVAL)
            return met
        # Version 1: a start inside a mapping removes nothing, and a mapping whose first address
        # is in the range goes whole.
        if met and met[0].iova < span.first:
            return []
        return met

    def _invalidate(self, mappings: list[Mapping]) -> int:
        done: list[Mapping] = []
        for mapping in mappings:
            if not mapping.vaddr_valid:
                for earlier in done:
                    earlier.vaddr_valid = True
                raise refused(errno.EINVAL)
            mapping.vaddr_valid = False
            done.append(mapping)
        return sum(mapping.size for mapping in done)

    def _unmap_all(
        self, mappings: list[Mapping], span: Span | None, bitmap: vfio_bitmap | None
    ) -> int:
        removed = 0
        for mapping in mappings:
            self._ask_drivers_to_unpin(mapping)
            if bitmap is not None and span is not None:
                dirty.report(self, mapping, span.first, bitmap)
            self._remove(mapping)
            removed += mapping.size
        return removed

    def _ask_drivers_to_unpin(self, mapping: Mapping) -> None:
        """``vfio_notify_dma_unmap``: drivers must let go; the kernel asks ten times, then BUGs."""
        for _attempt in range(_UNMAP_RETRIES):
            holders = [node for node, pins in mapping.driver_pins.items() if pins]
            if not holders:
                return
            for node in holders:
                node.vfio_program().dma_unmapped(mapping.iova, mapping.size)
        text = f"a driver keeps pages of iova {mapping.iova:#x} pinned that are being unmapped"
        raise AssertionError(text)

    def _remove(self, mapping: Mapping) -> None:
        self._unpin(mapping)
        # A driver that did not unpin at close loses its pages: the kernel warns and drops them.
        self.machine.locked.unpin(self._driver_pinned(mapping), Charge.MM)
        mapping.driver_pins.clear()
        self.maps.remove(mapping)
        self.available += 1

    # -- DMA ---------------------------------------------------------------------------------
    def entries(self) -> Iterator[Translated]:
        """The mappings."""
        for mapping in self.maps:
            yield Translated(mapping.iova, mapping.size, mapping.read, mapping.write)

    def translate(self, iova: int, size: int, *, write: bool) -> list[Chunk]:
        """Walk the page table; for an emulated device ``vfio_iommu_type1_dma_rw``."""
        chunks = []
        for mapping, first, length in self._pieces(iova, size):
            if not mapping.vaddr_valid and not mapping.pinned:
                raise Untranslatable(f"the vaddr of iova {first:#x} is invalidated")
            if not (mapping.write if write else mapping.read):
                access = "write" if write else "read"
                raise Untranslatable(f"no {access} permission at {first:#x}")
            address = mapping.vaddr + first - mapping.iova
            chunks.append(Chunk(self.machine.memory, address, length))
        return chunks

    def _pieces(self, iova: int, size: int) -> list[tuple[Mapping, int, int]]:
        """The mappings behind a range: each with the first IOVA and the bytes of its part."""
        pieces = []
        end = iova + size
        while iova < end:
            mapping = self.maps.at(iova)
            if mapping is None:
                raise Untranslatable(f"iova {iova:#x} is not mapped")
            length = min(end, mapping.span.last + 1) - iova
            pieces.append((mapping, iova, length))
            iova += length
        return pieces

    def written(self, iova: int, size: int) -> None:
        """``vfio_iommu_type1_dma_rw_chunk``: what a driver writes is dirty."""
        if not self.logging:
            return
        page = self.machine.page_size
        for mapping, first, length in self._pieces(iova, size):
            mapping.dirty.update(range(first & ~(page - 1), first + length, page))

    def pin(self, node: Node, iova: int, size: int, *, write: bool) -> None:
        """``vfio_iommu_type1_pin_pages``; before it ``vfio_main.c:vfio_pin_pages`` has its say."""
        if not node.emulated:
            raise refused(errno.EINVAL)
        if not self.v2:
            raise refused(errno.EACCES)
        page = self.machine.page_size
        first = iova & ~(page - 1)
        pages = range(first, iova + size, page)
        pinned: list[int] = []
        try:
            for address in pages:
                self._pin_page(node, address, write=write)
                pinned.append(address)
        except OSError:
            for address in pinned:
                self._unpin_page(node, address)
            raise

    def _pin_page(self, node: Node, iova: int, *, write: bool) -> None:
        mapping = self.maps.at(iova)
        if mapping is None:
            raise refused(errno.EINVAL)
        if not mapping.vaddr_valid:
            raise refused(errno.EBUSY)
        if not (mapping.read and (mapping.write or not write)):
            raise refused(errno.EPERM)
        page = self.machine.page_size
        if iova not in mapping.pinned_pages():
            self.machine.memory.check(mapping.vaddr + iova - mapping.iova, page, write=write)
            locked = self.machine.locked
            # Pages that the IOMMU has pinned are counted already.
            size = 0 if mapping.pinned else page
            locked.pin(size, Charge.MM, limited=not locked.cap_ipc_lock)
        pins = mapping.driver_pins.setdefault(node, Counter())
        pins[iova] += 1
        if self.logging:
            mapping.dirty.add(iova)

    def unpin(self, node: Node, iova: int, size: int) -> None:
        """``vfio_iommu_type1_unpin_pages``."""
        page = self.machine.page_size
        for address in range(iova & ~(page - 1), iova + size, page):
            self._unpin_page(node, address)

    def _unpin_page(self, node: Node, iova: int) -> None:
        mapping = self.maps.at(iova)
        pins = mapping.driver_pins.get(node) if mapping else None
        if mapping is None or not pins or iova not in pins:
            return
        pins[iova] -= 1
        if not pins[iova]:
            del pins[iova]
            counted = mapping.pinned or iova in mapping.pinned_pages()
            self.machine.locked.unpin(0 if counted else self.machine.page_size, Charge.MM)
        if not pins:
            del mapping.driver_pins[node]
