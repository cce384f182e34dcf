"""A region of a device: registers, memory, config space, or a mailbox of its driver."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import define, field, frozen

from vfiocore.errors import ClosedError, DeviceAccessError, UnsupportedError
from vfiocore.uapi import vfio
from vfiocore.undo import run_all

if TYPE_CHECKING:
    import mmap

    from vfiocore.access import DeviceAccess, RegionInfo

ByteOrder: TypeAlias = Literal["little", "big"]

FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


@frozen
class Area:
    """A part of a region that may be mapped; `offset` from the region's start, both in bytes."""

    offset: int
    size: int


@define(eq=False)
class _Mapping:
    """A mapped area and its view."""

    area: Area
    memory: mmap.mmap
    view: memoryview


@define(eq=False)
class Region:
    """One region.

    Register accesses go through the device file until `map` is called, then through memory
    where it is mapped. The file is the safe way: an access that the device cannot answer
    (memory decode off, D3) is a `DeviceAccessError` there, but SIGBUS through a mapping.

    Attributes:
        access: The device that it belongs to.
        info: The kernel's description.
        name: What messages call it: ``0000:02:00.0 BAR 0``.
        byteorder: The byte order of its registers.
        areas: What may be mapped.
    """

    access: DeviceAccess = field(repr=False)
    info: RegionInfo
    name: str
    byteorder: ByteOrder
    areas: tuple[Area, ...]
    _mappings: list[_Mapping] = field(factory=list, init=False, repr=False)
    _users: list[Callable[[], object]] = field(factory=list, init=False, repr=False)
    _words: memoryview | None = field(default=None, init=False, repr=False)
    _bad_word: int = field(default=3, init=False, repr=False)

    @property
    def index(self) -> int:
        """The region's index."""
        return self.info.index

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.info.size

    @property
    def readable(self) -> bool:
        """True if it can be read."""
        return bool(self.info.flags & vfio.VFIO_REGION_INFO_FLAG_READ)

    @property
    def writable(self) -> bool:
        """True if it can be written."""
        return bool(self.info.flags & vfio.VFIO_REGION_INFO_FLAG_WRITE)

    @property
    def is_mapped(self) -> bool:
        """True between `map` and `unmap`."""
        return bool(self._mappings)

    # -- mapping -----------------------------------------------------------------------------
    def map(self) -> None:
        """Map every area that may be mapped; again is fine.

        Raises:
            UnsupportedError: EINVAL, no part of the region can be mapped.
            DeviceAccessError: the kernel refused; what was mapped before is unmapped again.
        """
        if self._mappings:
            return
        if not self.areas:
            raise UnsupportedError(
                errno.EINVAL, "mmap", self.name, "no part of this region can be mapped"
            )
        try:
            for area in self.areas:
                offset = self.info.offset + area.offset
                memory = self.access.mmap(area.size, offset, writable=self.writable)
                self._mappings.append(_Mapping(area, memory, memoryview(memory)))
        except BaseException:
            self.unmap()
            raise
        self._take_shortcut()

    def unmap(self) -> None:
        """Unmap; idempotent. A `view` that is still alive keeps its pages until it is released."""
        users, self._users = self._users, []
        try:
            run_all(reversed(users))
        finally:
            self._words = None
            while self._mappings:
                _unmap(self._mappings.pop())

    def before_unmap(self, step: Callable[[], object]) -> None:
        """Run `step` before the next `unmap`: whoever shows the mapping to others has to stop."""
        self._users.append(step)

    def view(self, offset: int = 0, size: int | None = None) -> memoryview:
        """A memoryview of mapped bytes, from `offset`, `size` of them or all the rest.

        Raises:
            UnsupportedError: EINVAL, they are not mapped (call `map`).
            DeviceAccessError: EINVAL, they are outside of the region.
        """
        size = self.size - offset if size is None else size
        self._check(offset, size)
        mapping = self._mapping_at(offset, size)
        if mapping is None:
            raise UnsupportedError(
                errno.EINVAL, "view", self.name, f"offset {offset:#x} size {size:#x} is not mapped"
            )
        start = offset - mapping.area.offset
        return mapping.view[start : start + size]

    # -- access ------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes; the kernel cuts a transfer into aligned pieces of at most 8 bytes."""
        self._check(offset, size)
        mapping = self._mapping_at(offset, size)
        if mapping is None:
            return self.access.pread(size, self.info.offset + offset)
        start = offset - mapping.area.offset
        return bytes(mapping.view[start : start + size])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data`; the same rules as `read`."""
        source = memoryview(data).cast("B")
        self._check(offset, len(source))
        mapping = self._mapping_at(offset, len(source))
        if mapping is None or mapping.view.readonly:
            self.access.pwrite(source, self.info.offset + offset)  # which says why not
            return
        start = offset - mapping.area.offset
        mapping.view[start : start + len(source)] = source

    def read8(self, offset: int) -> int:
        """Read an 8-bit register."""
        return self._load(offset, 1)

    def read16(self, offset: int) -> int:
        """Read a 16-bit register at an even offset."""
        return self._load(offset, 2)

    def read32(self, offset: int) -> int:
        """Read a 32-bit register at a multiple of 4."""
        words = self._words
        # One test catches what is misaligned, negative or past the end (see _take_shortcut).
        if words is not None and not offset & self._bad_word:
            return words[offset >> 2]
        return self._load(offset, 4)

    def read64(self, offset: int) -> int:
        """Read a 64-bit register at a multiple of 8."""
        return self._load(offset, 8)

    def write8(self, offset: int, value: int) -> None:
        """Write an 8-bit register."""
        self._store(offset, 1, value)

    def write16(self, offset: int, value: int) -> None:
        """Write a 16-bit register at an even offset."""
        self._store(offset, 2, value)

    def write32(self, offset: int, value: int) -> None:
        """Write a 32-bit register at a multiple of 4."""
        words = self._words
        if words is not None and not offset & self._bad_word:
            words[offset >> 2] = value
            return
        self._store(offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        """Write a 64-bit register at a multiple of 8."""
        self._store(offset, 8, value)

    # ----------------------------------------------------------------------------------------
    def _load(self, offset: int, width: int) -> int:
        self._check_register(offset, width)
        mapping = self._mapping_at(offset, width)
        if mapping is None:
            data = self.access.pread(width, self.info.offset + offset)
            return int.from_bytes(data, self.byteorder)
        # A cast item is one load of that width; slicing would copy byte by byte.
        start = offset - mapping.area.offset
        value: int = mapping.view[start : start + width].cast(FORMATS[width])[0]
        return value if self.byteorder == sys.byteorder else _swapped(value, width)

    def _store(self, offset: int, width: int, value: int) -> None:
        self._check_register(offset, width)
        if not 0 <= value < 1 << 8 * width:
            raise ValueError(f"{self.name}: {value:#x} does not fit {8 * width} bits")
        mapping = self._mapping_at(offset, width)
        if mapping is None or mapping.view.readonly:
            self.access.pwrite(value.to_bytes(width, self.byteorder), self.info.offset + offset)
            return
        start = offset - mapping.area.offset
        native = value if self.byteorder == sys.byteorder else _swapped(value, width)
        mapping.view[start : start + width].cast(FORMATS[width])[0] = native

    def _check_register(self, offset: int, width: int) -> None:
        if offset % width:
            raise ValueError(f"{self.name}: offset {offset:#x} is not a multiple of {width}")
        self._check(offset, width)

    def _check(self, offset: int, size: int) -> None:
        if self.access.closed:
            raise ClosedError(f"{self.name} is closed")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise DeviceAccessError(
                errno.EINVAL,
                "access",
                self.name,
                f"offset {offset:#x} size {size:#x} is outside its {self.size:#x} bytes",
            )

    def _mapping_at(self, offset: int, size: int) -> _Mapping | None:
        for mapping in self._mappings:
            area = mapping.area
            if area.offset <= offset and offset + size <= area.offset + area.size:
                return mapping
        return None

    def _take_shortcut(self) -> None:
        """Give 32-bit registers a direct way if the whole region is mapped in native order.

        Sizes of BARs are powers of two, so an offset is good exactly if it has no bit outside
        ``size - 1`` and none of the two lowest.
        """
        whole = self._mapping_at(0, self.size)
        native = self.byteorder == sys.byteorder and self.writable
        if whole is None or not native or self.size & (self.size - 1) or self.size < 4:
            return
        self._bad_word = ~(self.size - 1) | 3
        self._words = whole.view.cast("I")


def _unmap(mapping: _Mapping) -> None:
    try:
        mapping.view.release()
        mapping.memory.close()
    except BufferError:
        # Somebody holds a view; the pages go with it. Closing the rest matters more.
        return


def _swapped(value: int, width: int) -> int:
    return int.from_bytes(value.to_bytes(width, "little"), "big")


def mappable_areas(info: RegionInfo) -> tuple[Area, ...]:
    """What of a region may be mapped: its sparse areas, all of it, or nothing.

    Source: VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_CAP_SPARSE_MMAP (Linux 4.6).
    """
    if not info.flags & vfio.VFIO_REGION_INFO_FLAG_MMAP or not info.size:
        return ()
    for capability in info.capabilities:
        if capability.id != vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
            continue
        layout = vfio.vfio_region_info_cap_sparse_mmap
        count = capability.as_struct(layout).nr_areas
        found = capability.array_after(layout, vfio.vfio_region_sparse_mmap_area, count)
        return tuple(Area(area.offset, area.size) for area in found if area.size)
    return (Area(0, info.size),)


def region_type(info: RegionInfo) -> tuple[int, int] | None:
    """The (type, subtype) of a device-specific region, or None.

    Source: VFIO_REGION_INFO_CAP_TYPE (Linux 4.6).
    """
    for capability in info.capabilities:
        if capability.id == vfio.VFIO_REGION_INFO_CAP_TYPE:
            found = capability.as_struct(vfio.vfio_region_info_cap_type)
            return found.type, found.subtype
    return None
