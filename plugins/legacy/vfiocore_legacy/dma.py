"""Mapping and unmapping in a type1 container: VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from attrs import define, field

from vfiocore.bulk import BulkIoctl, heads, pairs
from vfiocore.container import ADDRESS_LIMIT, for_each, take_back_items
from vfiocore.errors import (
    DmaAddressError,
    DmaAlignmentError,
    DmaError,
    DmaLimitError,
    DmaMemlockError,
    DmaNotMappedError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
    UnsupportedError,
)
from vfiocore.memory import DmaBatch
from vfiocore.uapi import vfio

if TYPE_CHECKING:
    from vfiocore.container import Batch, Container
    from vfiocore.memory import Columns
    from vfiocore.memory.mapping import DmaMapping
    from vfiocore_legacy.container import LegacyContainer

MAP_KINDS: dict[int, type[DmaError]] = {
    errno.EEXIST: DmaOverlapError,
    errno.EINVAL: DmaRangeError,
    errno.EOVERFLOW: DmaRangeError,
    errno.ENOSPC: DmaLimitError,
    errno.ENOMEM: DmaMemlockError,
    errno.EFAULT: DmaAddressError,
}
UNMAP_KINDS: dict[int, type[DmaError]] = {
    errno.EINVAL: DmaSplitError,
    errno.EOVERFLOW: DmaRangeError,
    errno.ENOENT: DmaNotMappedError,
}


# struct is twice as fast as ctypes here. The simulated host reads the bytes as the layouts.
_MAP_DMA = vfio.VFIO_IOMMU_MAP_DMA
_UNMAP_DMA = vfio.VFIO_IOMMU_UNMAP_DMA
_MAP_SIZE = ctypes.sizeof(vfio.vfio_iommu_type1_dma_map)
_UNMAP_SIZE = ctypes.sizeof(vfio.vfio_iommu_type1_dma_unmap)
_UNMAPPED = vfio.vfio_iommu_type1_dma_unmap.size.offset
_UNMAPPED_WORD = _UNMAPPED // 8
_pack_map = struct.Struct("=2I3Q").pack_into
_pack_unmap = struct.Struct("=2I2Q").pack_into
_unpack_size = struct.Struct("=Q").unpack_from


@define(eq=False)
class Type1Dma:
    """The DMA calls of one container. Its structs are reused: callers hold the session's lock.

    Only whole mappings are unmapped, each by a call for exactly its range or all by one call.
    So version 1 of type1, which takes every mapping that *begins* in the range as a whole and
    does nothing for a range that begins inside one, gives the same results as version 2.

    Attributes:
        container: The container; its host, name and account of mappings are used.
        fd: Its fd.
        can_unmap_all: True if one call can unmap everything (Linux 5.12).
    """

    container: LegacyContainer = field(repr=False)
    fd: int
    can_unmap_all: bool = False
    _ioctl: Callable[[int, int, bytearray], int] = field(init=False, repr=False)
    _bulk_map: BulkIoctl | None = field(default=None, init=False, repr=False)
    _bulk_unmap: BulkIoctl | None = field(default=None, init=False, repr=False)
    _map_arg: bytearray = field(factory=lambda: bytearray(_MAP_SIZE), init=False, repr=False)
    _unmap_arg: bytearray = field(factory=lambda: bytearray(_UNMAP_SIZE), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._ioctl = self.container.host.ioctl

    def map_batch(self, batch: Batch) -> None:
        """VFIO_IOMMU_MAP_DMA for each item, all or none; raises DmaError.

        Type1 maps by process address: a mapping's memory file is not looked at.
        """
        if len(batch) > 1 and isinstance(batch, DmaBatch) and batch.columns is not None:
            self._map_columns(batch, batch.columns)
            return
        done = 0
        try:
            for mapping in batch:
                # The values of Access are those of VFIO_DMA_MAP_FLAG_READ and _WRITE; `value` is
                # a property, which costs as much as the rest of this.
                flags, iova, size = mapping.access._value_, mapping.iova, mapping.size
                _pack_map(self._map_arg, 0, _MAP_SIZE, flags, mapping.vaddr, iova, size)
                try:
                    self._ioctl(self.fd, _MAP_DMA, self._map_arg)
                except OSError as error:
                    self._map_refused(error, mapping)
                done += 1
        except BaseException as error:
            take_back_items(batch, done, self.unmap, error)
            raise

    def map(self, mapping: DmaMapping) -> None:
        """Map one range."""
        self.map_batch((mapping,))

    def unmap(self, mapping: DmaMapping) -> None:
        """VFIO_IOMMU_UNMAP_DMA for exactly the range of a mapping; raises DmaError."""
        try:
            done = self._issue_unmap(0, mapping.iova, mapping.size)
        except OSError as error:
            self._unmap_refused(error, mapping)
            return
        if done != mapping.size:
            self._unmapped_differs(mapping, done)

    def unmap_batch(self, batch: Batch) -> None:
        """Unmap a batch, all or none: in one call if it is all there is and the kernel can."""
        if len(batch) == 1:
            self.unmap(batch[0])
        elif self._is_everything(batch):
            self._unmap_everything(batch)
        elif isinstance(batch, DmaBatch) and batch.columns is not None:
            self._unmap_columns(batch, batch.columns)
        else:
            for_each(batch, self.unmap, self.map)

    # ----------------------------------------------------------------------------------------
    def _map_columns(self, batch: DmaBatch, columns: Columns) -> None:
        if self._bulk_map is None:
            self._bulk_map = BulkIoctl(self.container.host, self.fd, _MAP_DMA, _MAP_SIZE)
        head = heads(batch, _MAP_SIZE, lambda access: access.value)
        words = (head, columns.vaddrs, columns.iovas, columns.sizes)
        self._bulk_map.issue(batch, words, self._map_refused, self.unmap)

    def _unmap_columns(self, batch: DmaBatch, columns: Columns) -> None:
        if self._bulk_unmap is None:
            self._bulk_unmap = BulkIoctl(self.container.host, self.fd, _UNMAP_DMA, _UNMAP_SIZE)
        words = (pairs(_UNMAP_SIZE, 0, len(batch)), columns.iovas, columns.sizes)
        self._bulk_unmap.issue_confirmed(
            batch, words, _UNMAPPED_WORD, self._unmap_refused, self._unmapped_differs, self.map
        )

    def _map_refused(self, error: OSError, mapping: DmaMapping) -> None:
        """Raise what a refused map means; EBUSY is tried once more.

        Then the IOMMU driver found something in its page table that type1 does not know of (QEMU
        met it with the VGA ROM), so the range is cleared first.
        """
        if error.errno != errno.EBUSY:
            raise self._map_failed(error, mapping) from error
        try:
            self._issue_unmap(0, mapping.iova, mapping.size)
            self._issue_map(mapping)
        except OSError as again:
            raise self._map_failed(again, mapping) from again

    def _unmap_refused(self, error: OSError, mapping: DmaMapping) -> None:
        """Raise what a refused unmap means; nothing where the kernel has unmapped everything."""
        if self.container.has_groups():
            raise self._unmap_failed(error, mapping) from error

    def _issue_map(self, mapping: DmaMapping) -> None:
        # The values of Access are those of VFIO_DMA_MAP_FLAG_READ and _WRITE; `value` is a
        # property, which costs as much as the rest of this.
        flags, iova, size = mapping.access._value_, mapping.iova, mapping.size
        _pack_map(self._map_arg, 0, _MAP_SIZE, flags, mapping.vaddr, iova, size)
        self._ioctl(self.fd, _MAP_DMA, self._map_arg)

    def _issue_unmap(self, flags: int, iova: int, size: int) -> int:
        """The number of bytes that the kernel unmapped."""
        arg = self._unmap_arg
        _pack_unmap(arg, 0, _UNMAP_SIZE, flags, iova, size)
        self._ioctl(self.fd, _UNMAP_DMA, arg)
        unmapped: int = _unpack_size(arg, _UNMAPPED)[0]
        return unmapped

    def _is_everything(self, batch: Batch) -> bool:
        mappings = self.container.mappings
        if not self.can_unmap_all or not 1 < len(batch) == len(mappings):
            return False
        # A batch that names one mapping twice is not everything, however long it is.
        return len({mapping.iova for mapping in batch}) == len(mappings)

    def _unmap_everything(self, batch: Batch) -> None:
        known = self.container.mappings.bytes
        try:
            done = self._issue_unmap(vfio.VFIO_DMA_UNMAP_FLAG_ALL, 0, 0)
        except OSError as error:
            if not self.container.has_groups():
                return
            raise self._unmap_failed(error, None) from error
        if done == known:
            return
        failure = self._unmapped_other(done, known, "of everything")
        try:
            # Now nothing is mapped, and after an error everything must be.
            for_each(batch, self.map, self.unmap)
        except DmaError as second:
            failure.add_note(f"while mapping everything again: {second}")
        raise failure

    # -- errors ------------------------------------------------------------------------------
    def _map_failed(self, error: OSError, mapping: DmaMapping) -> DmaError:
        number = error.errno or errno.EIO
        kind = MAP_KINDS.get(number, DmaError)
        reason, hint = error.strerror or "", None
        if number == errno.EINVAL:
            kind, reason = self._why_invalid(mapping)
        elif number == errno.ENOMEM:
            reason, hint = "the memory cannot be locked", memlock_hint(self.container)
        elif number == errno.ENOSPC:
            reason = "no mapping entry is left"
            hint = "map fewer, larger ranges, or raise vfio_iommu_type1.dma_entry_limit"
        elif number == errno.EFAULT:
            reason = "the memory cannot be pinned: not mapped, or not writable"
        where = f"iova {mapping.iova:#x} size {mapping.size:#x} vaddr {mapping.vaddr:#x}"
        subject = self.container.label
        return kind(number, "VFIO_IOMMU_MAP_DMA", subject, f"{where}: {reason}", hint)

    def _why_invalid(self, mapping: DmaMapping) -> tuple[type[DmaError], str]:
        """EINVAL has three causes (vfio_iommu_type1.c:vfio_dma_do_map), all of them visible."""
        if not mapping.access.value:
            return DmaError, "the device may neither read nor write"
        if (mapping.iova | mapping.vaddr | mapping.size) & (self.container.page_size - 1):
            return DmaAlignmentError, f"not a multiple of {self.container.page_size:#x} bytes"
        return DmaRangeError, "outside the ranges that the IOMMU can translate"

    def _unmap_failed(self, error: OSError, mapping: DmaMapping | None) -> DmaError:
        number = error.errno or errno.EIO
        where, reason, hint = "everything", error.strerror, None
        if mapping is not None:
            where = f"iova {mapping.iova:#x} size {mapping.size:#x}"
            if number == errno.EINVAL and mapping.iova + mapping.size == ADDRESS_LIMIT:
                # An overflow in vfio_iommu_type1.c:vfio_dma_do_unmap. A second try without the
                # last page, as QEMU makes for ranges larger than what is mapped in them, cannot
                # help: a mapping goes as a whole, and the last page is part of this one.
                hint = (
                    "Linux 4.15 to 4.20 cannot unmap the end of the 64-bit space;"
                    " the mapping goes when the container is closed"
                )
        return UNMAP_KINDS.get(number, DmaError)(
            number, "VFIO_IOMMU_UNMAP_DMA", self.container.label, f"{where}: {reason}", hint
        )

    def _unmapped_differs(self, mapping: DmaMapping, done: int) -> NoReturn:
        raise self._unmapped_other(done, mapping.size, f"at iova {mapping.iova:#x}")

    def _unmapped_other(self, done: int, wanted: int, where: str) -> DmaNotMappedError:
        return DmaNotMappedError(
            errno.ENOENT,
            "VFIO_IOMMU_UNMAP_DMA",
            self.container.label,
            f"the kernel unmapped {done:#x} of {wanted:#x} bytes {where}",
            "somebody else maps and unmaps with the fd of this container",
        )


@define(eq=False)
class NoIommuDma:
    """The DMA calls of a container without an IOMMU: there are none.

    Attributes:
        container: The container.
    """

    container: Container = field(repr=False)

    def map(self, mapping: DmaMapping) -> None:
        """UnsupportedError (ENOTTY, as container.c:vfio_noiommu_ioctl answers)."""
        raise UnsupportedError(
            errno.ENOTTY,
            "VFIO_IOMMU_MAP_DMA",
            self.container.label,
            f"iova {mapping.iova:#x} size {mapping.size:#x}: there is no IOMMU to map it in",
            "without an IOMMU devices see physical addresses; use a group that has one",
        )

    def unmap(self, mapping: DmaMapping) -> None:
        """Nothing is ever mapped."""

    def map_batch(self, batch: Batch) -> None:
        """As `map` for the first of them."""
        for mapping in batch:
            self.map(mapping)

    def unmap_batch(self, batch: Batch) -> None:
        """Nothing is ever mapped."""


def memlock_hint(container: Container) -> str:
    """What ENOMEM means here: the need beside the limit, and how to raise it."""
    need, limit = container.mappings.bytes, container.host.memlock_limit()
    if limit is None:
        return "RLIMIT_MEMLOCK is unlimited: the kernel, or the memory cgroup, is out of memory"
    if need <= limit:
        return (
            f"{need} bytes of this container fit RLIMIT_MEMLOCK ({limit} bytes), but other"
            " containers and locked memory of the process count as well: raise it (ulimit -l,"
            " LimitMEMLOCK= in systemd), or grant CAP_IPC_LOCK"
        )
    return (
        f"{need} bytes have to be locked and RLIMIT_MEMLOCK is {limit} bytes: raise it (ulimit -l,"
        " LimitMEMLOCK= in systemd), or grant CAP_IPC_LOCK"
    )
