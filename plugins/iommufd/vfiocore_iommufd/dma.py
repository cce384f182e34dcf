"""Mapping memory into an IOAS."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING, NoReturn

from attrs import define, field

from vfiocore.bulk import BulkIoctl, heads, pairs
from vfiocore.container import for_each
from vfiocore.errors import DmaError, DmaOverlapError
from vfiocore.memory import DmaBatch
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.memory.table import NothingMapped
from vfiocore.uapi import iommufd as uapi
from vfiocore_iommufd.kinds import map_error, unmap_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiocore.container import Batch
    from vfiocore.memory import Columns
    from vfiocore_iommufd.container import IommufdContainer

_FIXED = uapi.IOMMU_IOAS_MAP_FIXED_IOVA
_READ_WRITE = _FIXED | uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE
_ANYWHERE = uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE
_FLAGS = {
    Access.READ: _FIXED | uapi.IOMMU_IOAS_MAP_READABLE,
    Access.WRITE: _FIXED | uapi.IOMMU_IOAS_MAP_WRITEABLE,
    Access.READ_WRITE: _READ_WRITE,
    Access(0): _FIXED,
}
_EVERYTHING = 2**64 - 1
_IOAS_MAP = uapi.IOMMU_IOAS_MAP
_IOAS_UNMAP = uapi.IOMMU_IOAS_UNMAP

# struct is twice as fast as ctypes here. The simulated host reads the bytes as the layout.
_MAP_SIZE = ctypes.sizeof(uapi.iommu_ioas_map)
_pack_map = struct.Struct("=4I3Q").pack_into
_UNMAP_SIZE = ctypes.sizeof(uapi.iommu_ioas_unmap)
_UNMAPPED = uapi.iommu_ioas_unmap.length.offset
_UNMAPPED_WORD = _UNMAPPED // 8
_pack_unmap = struct.Struct("=2I2Q").pack_into
_unpack_length = struct.Struct("=Q").unpack_from


@define(eq=False)
class IoasMapper:
    """The map and unmap ioctls of one IOAS, through structs that are made once.

    The session's lock lets one caller in at a time.
    """

    container: IommufdContainer
    _ioctl: Callable[[int, int, ctypes.Structure | bytearray], int] = field(init=False, repr=False)
    _fd: int = field(init=False)
    _ioas_id: int = field(init=False)
    _bulk_map: BulkIoctl | None = field(default=None, init=False, repr=False)
    _bulk_unmap: BulkIoctl | None = field(default=None, init=False, repr=False)
    _map: bytearray = field(init=False, repr=False)
    _map_file: uapi.iommu_ioas_map_file = field(init=False, repr=False)
    _copy: uapi.iommu_ioas_copy = field(init=False, repr=False)
    _unmap: bytearray = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        ioas_id = self.container.ioas_id
        self._ioctl = self.container.host.ioctl
        self._fd = self.container.iommufd.fd
        self._ioas_id = ioas_id
        self._map = bytearray(_MAP_SIZE)
        self._map_file = uapi.iommu_ioas_map_file(
            size=ctypes.sizeof(uapi.iommu_ioas_map_file), ioas_id=ioas_id
        )
        self._copy = uapi.iommu_ioas_copy(
            size=ctypes.sizeof(uapi.iommu_ioas_copy), dst_ioas_id=ioas_id
        )
        self._unmap = bytearray(_UNMAP_SIZE)

    # -- batches -----------------------------------------------------------------------------
    def map(self, batch: Batch) -> None:
        """Map a batch, all or none."""
        if len(batch) == 1:
            self.map_one(batch[0])
        elif isinstance(batch, DmaBatch) and self._goes_by_address(batch):
            self._map_columns(batch)
        else:
            for_each(batch, self.map_one, self.unmap_one)

    def unmap(self, batch: Batch) -> None:
        """Unmap a batch, all or none; with one ioctl if it is all there is."""
        if len(batch) == 1:
            self.unmap_one(batch[0])
        elif 1 < len(batch) == len(self.container.mappings):
            self._unmap_everything(batch)
        elif isinstance(batch, DmaBatch) and batch.columns is not None:
            self._unmap_columns(batch, batch.columns)
        else:
            for_each(batch, self.unmap_one, self.map_one)

    # -- one mapping -------------------------------------------------------------------------
    def map_one(self, mapping: DmaMapping) -> None:
        """Show the pages that another IOAS has pinned, or map by file, or by address."""
        container = self.container
        iommufd = container.iommufd
        if len(iommufd.containers) > 1:
            source = self._shared_source(mapping)
            if source is not None:
                self._copy_from(*source, mapping)
                return
        if mapping.fd is not None and iommufd.maps_files:
            self._map_by_file(mapping, mapping.fd)
            return
        access = mapping.access
        # Identity first: hashing an enum costs as much as the rest.
        flags = _READ_WRITE if access is Access.READ_WRITE else _FLAGS[access]
        arg, iova = self._map, mapping.iova
        _pack_map(arg, 0, _MAP_SIZE, flags, self._ioas_id, 0, mapping.vaddr, mapping.size, iova)
        try:
            self._ioctl(self._fd, _IOAS_MAP, arg)
        except OSError as error:
            self._refused(error, mapping)

    def unmap_one(self, mapping: DmaMapping) -> None:
        """IOMMU_IOAS_UNMAP of exactly one mapping, so that it happens whole or not at all.

        A range that cuts a mapping would leave those before it unmapped
        (iommufd/io_pagetable.c: iopt_unmap_iova_range); the container never passes one.
        """
        self._unmap_range(mapping.iova, mapping.size, mapping.size)

    def choose(self, size: int, vaddr: int) -> int:
        """Where the kernel maps memory when it is not told where; it is unmapped again."""
        arg = self._map
        _pack_map(arg, 0, _MAP_SIZE, _ANYWHERE, self._ioas_id, 0, vaddr, size, 0)
        try:
            self._ioctl(self._fd, _IOAS_MAP, arg)
        except OSError as error:
            self._refused(error, DmaMapping(0, size, vaddr))
        iova = int(uapi.iommu_ioas_map.from_buffer_copy(arg).iova)
        self._unmap_range(iova, size, size)
        return iova

    # -- by address --------------------------------------------------------------------------
    def _goes_by_address(self, batch: DmaBatch) -> bool:
        """True if IOMMU_IOAS_MAP is the way for all of a batch."""
        iommufd = self.container.iommufd
        if len(iommufd.containers) > 1 or batch.columns is None:
            return False
        return not (batch.has_files and iommufd.maps_files)

    def _map_columns(self, batch: DmaBatch) -> None:
        if self._bulk_map is None:
            host = self.container.host
            self._bulk_map = BulkIoctl(host, self._fd, _IOAS_MAP, _MAP_SIZE)
        columns = batch.columns
        assert columns is not None
        head = heads(batch, _MAP_SIZE, _FLAGS.__getitem__)
        ids = pairs(self._ioas_id, 0, len(batch))
        words = (head, ids, columns.vaddrs, columns.sizes, columns.iovas)
        self._bulk_map.issue(batch, words, self._refused, self.unmap_one)

    def _refused(self, error: OSError, mapping: DmaMapping) -> NoReturn:
        raise map_error(error, "IOMMU_IOAS_MAP", self.container, mapping) from error

    # -- by file -----------------------------------------------------------------------------
    def _map_by_file(self, mapping: DmaMapping, fd: int) -> None:
        arg = self._map_file
        arg.flags = _flags(mapping)
        arg.fd = fd
        arg.start = mapping.fd_offset
        arg.length = mapping.size
        arg.iova = mapping.iova
        try:
            self._ioctl(self._fd, uapi.IOMMU_IOAS_MAP_FILE, arg)
        except OSError as error:
            raise map_error(error, "IOMMU_IOAS_MAP_FILE", self.container, mapping) from error

    # -- pinned once -------------------------------------------------------------------------
    def _shared_source(self, mapping: DmaMapping) -> tuple[int, int] | None:
        """Where another IOAS of this iommufd has the memory: its id, and the IOVA there."""
        for other in self.container.iommufd.containers:
            if other is self.container:
                continue
            iova = _iova_in(other, mapping)
            if iova is not None:
                return other.ioas_id, iova
        return None

    def _copy_from(self, ioas_id: int, iova: int, mapping: DmaMapping) -> None:
        arg = self._copy
        arg.flags = _flags(mapping)
        arg.src_ioas_id = ioas_id
        arg.src_iova = iova
        arg.length = mapping.size
        arg.dst_iova = mapping.iova
        try:
            self._ioctl(self._fd, uapi.IOMMU_IOAS_COPY, arg)
        except OSError as error:
            raise map_error(error, "IOMMU_IOAS_COPY", self.container, mapping) from error

    # -- unmapping ---------------------------------------------------------------------------
    def _unmap_everything(self, batch: Batch) -> None:
        """Unmap with one ioctl; if it fails half-way, map again what is gone."""
        try:
            self._unmap_range(0, _EVERYTHING, self.container.mappings.bytes)
        except DmaError as error:
            self._restore(batch, error)
            raise

    def _unmap_range(self, iova: int, length: int, expected: int) -> None:
        arg = self._unmap
        _pack_unmap(arg, 0, _UNMAP_SIZE, self._ioas_id, iova, length)
        try:
            self._ioctl(self._fd, _IOAS_UNMAP, arg)
        except OSError as error:
            where = (self.container, iova, length)
            raise unmap_error(error, "IOMMU_IOAS_UNMAP", *where) from error
        (done,) = _unpack_length(arg, _UNMAPPED)
        if done != expected:
            raise self._unmapped_other(iova, length, done, expected)

    def _unmap_columns(self, batch: DmaBatch, columns: Columns) -> None:
        if self._bulk_unmap is None:
            host = self.container.host
            self._bulk_unmap = BulkIoctl(host, self._fd, _IOAS_UNMAP, _UNMAP_SIZE)
        head = pairs(_UNMAP_SIZE, self._ioas_id, len(batch))
        words = (head, columns.iovas, columns.sizes)
        self._bulk_unmap.issue_confirmed(
            batch, words, _UNMAPPED_WORD, self._unmap_refused, self._unmap_differs, self.map_one
        )

    def _unmap_refused(self, error: OSError, mapping: DmaMapping) -> NoReturn:
        iova, size = mapping.iova, mapping.size
        raise unmap_error(error, "IOMMU_IOAS_UNMAP", self.container, iova, size) from error

    def _unmap_differs(self, mapping: DmaMapping, done: int) -> NoReturn:
        raise self._unmapped_other(mapping.iova, mapping.size, done, mapping.size)

    def _unmapped_other(self, iova: int, length: int, done: int, expected: int) -> DmaError:
        return DmaError(
            errno.EIO,
            "IOMMU_IOAS_UNMAP",
            self.container.label,
            f"iova {iova:#x} size {length:#x}: {done:#x} of {expected:#x} bytes unmapped",
        )

    def _restore(self, batch: Batch, error: DmaError) -> None:
        for mapping in batch:
            try:
                self.map_one(mapping)
            except DmaOverlapError:
                continue  # it is still there
            except DmaError as second:
                error.add_note(f"while undoing the batch: {second}")


def _flags(mapping: DmaMapping) -> int:
    return _FLAGS[mapping.access]


def _iova_in(other: IommufdContainer, mapping: DmaMapping) -> int | None:
    """Where `other` has all of the mapping's memory with at least its access rights."""
    table = other.mappings
    try:
        iova = table.find_iova(mapping.vaddr)
    except NothingMapped:
        return None
    there = table.overlapping(iova, 1)
    assert there is not None
    offset = iova - there.iova
    same_file = there.fd == mapping.fd and (
        mapping.fd is None or there.fd_offset + offset == mapping.fd_offset
    )
    covered = offset + mapping.size <= there.size and mapping.access in there.access
    return iova if same_file and covered else None
