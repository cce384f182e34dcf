"""A region of a device: registers, memory, config space, or a mailbox of its driver."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from attrs import define, field, frozen

from vfiocore.dmabuf import DmaBuf, export
from vfiocore.errors import ClosedError, DeviceAccessError, UnsupportedError
from vfiocore.uapi import vfio
from vfiocore.undo import run_all

if TYPE_CHECKING:
    import mmap

    from vfiocore.access import DeviceAccess, RegionInfo

_Cell: TypeAlias = "ctypes._SimpleCData[int]"
ByteOrder: TypeAlias = Literal["little", "big"]

Load: TypeAlias = Callable[[int], int]
Store: TypeAlias = Callable[[int, int], None]

REMEMBERED = 5000
"""How many registers a region keeps at hand, for each width; others are looked for each time."""

KINDS = MappingProxyType(
    {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
)


@frozen
class Area:
    """A part of a region that may be mapped; `offset` from the region's start, both in bytes."""

    offset: int
    size: int


class RegionUser(Protocol):
    """Who shows a region's memory to others, and has to follow what becomes of it."""

    def suspend(self) -> None:
        """The region does not answer: nobody is to reach it."""

    def resume(self) -> None:
        """It answers again."""

    def close(self) -> None:
        """It is about to be unmapped: stop for good."""


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
        users: Who shows its memory to others.
        read8: Called with an offset, reads an 8-bit register.
        read16: The same for 16 bits, at an even offset.
        read32: The same for 32 bits, at a multiple of 4.
        read64: The same for 64 bits, at a multiple of 8.
        write8: Called with an offset and a value, writes an 8-bit register.
        write16: The same for 16 bits, at an even offset.
        write32: The same for 32 bits, at a multiple of 4.
        write64: The same for 64 bits, at a multiple of 8.

    `read8` to `write64` raise ValueError for an offset that is misaligned or a value that does not
    fit, DeviceAccessError (EINVAL) outside of the region, ClosedError once the device is closed.
    In mapped memory each is one load or store of its width.
    """

    access: DeviceAccess = field(repr=False)
    info: RegionInfo
    name: str
    byteorder: ByteOrder
    areas: tuple[Area, ...]
    _mappings: list[_Mapping] = field(factory=list, init=False, repr=False)
    users: list[RegionUser] = field(factory=list, init=False, repr=False)
    _registers: dict[int, _Registers] = field(init=False, repr=False)
    read8: Load = field(init=False, repr=False)
    read16: Load = field(init=False, repr=False)
    read32: Load = field(init=False, repr=False)
    read64: Load = field(init=False, repr=False)
    write8: Store = field(init=False, repr=False)
    write16: Store = field(init=False, repr=False)
    write32: Store = field(init=False, repr=False)
    write64: Store = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._registers = {width: _Registers(_kind(width, self.byteorder)) for width in KINDS}
        for width, registers in self._registers.items():
            load, store = partial(self._load, width), partial(self._store, width)
            setattr(self, f"read{8 * width}", _loader(registers, load))
            setattr(self, f"write{8 * width}", _storer(registers, store))

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

    def unmap(self) -> None:
        """Unmap; idempotent. A `view` that is still alive keeps its pages until it is released."""
        try:
            run_all([user.close for user in reversed(self.users)])
        finally:
            for registers in self._registers.values():
                registers.cells.clear()
            while self._mappings:
                _unmap(self._mappings.pop())

    def suspend(self) -> None:
        """Have every one of `users` hide the region, which does not answer. Again is fine."""
        run_all([user.suspend for user in reversed(self.users)])

    def resume(self) -> None:
        """Have every one of `users` show the region, which answers. Again is fine."""
        run_all([user.resume for user in self.users])

    def export_dmabuf(self, offset: int = 0, size: int | None = None) -> DmaBuf:
        """A file (dma-buf) of the bytes from `offset`, `size` of them or all the rest.

        Uses VFIO_DEVICE_FEATURE_DMA_BUF (Linux 6.19). It need not be mapped.

        Raises:
            UnsupportedError: ENOTTY, the kernel is older or built without, or it is no PCI
                device; EOPNOTSUPP, the device's driver cannot; ENODEV, the region is no BAR.
            DeviceAccessError: EINVAL, they are not whole pages inside of a memory BAR.
        """
        size = self.size - offset if size is None else size
        self._check(offset, size)
        return export(self.access, self.index, self.name, offset, size)

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

    # ----------------------------------------------------------------------------------------
    def _load(self, width: int, offset: int) -> int:
        self._check_register(width, offset)
        mapping = self._mapping_at(offset, width)
        if mapping is None or mapping.view.readonly:
            data = self.access.pread(width, self.info.offset + offset)
            return int.from_bytes(data, self.byteorder)
        return self._registers[width].at(offset, mapping).value

    def _store(self, width: int, offset: int, value: int) -> None:
        self._check_register(width, offset)
        if not 0 <= value < 1 << 8 * width:
            raise ValueError(f"{self.name}: {value:#x} does not fit {8 * width} bits")
        mapping = self._mapping_at(offset, width)
        if mapping is None or mapping.view.readonly:
            self.access.pwrite(value.to_bytes(width, self.byteorder), self.info.offset + offset)
            return
        self._registers[width].at(offset, mapping).value = value

    def _check_register(self, width: int, offset: int) -> None:
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


@define(eq=False)
class _Registers:
    """The registers of one width that were used in mapped memory.

    Attributes:
        kind: The integer type of ctypes with their width and byte order.
        cells: The registers by offset; each is one load or store of its width.
    """

    kind: type[_Cell]
    cells: dict[int, _Cell] = field(factory=dict, init=False)

    def at(self, offset: int, mapping: _Mapping) -> _Cell:
        """The register at an offset of the region that is good, in a mapping that has it."""
        cell = self.kind.from_buffer(mapping.memory, offset - mapping.area.offset)
        if len(self.cells) < REMEMBERED:
            self.cells[offset] = cell
        return cell


# A function with what it needs in cells of its own takes two thirds of the time of a method.
def _loader(registers: _Registers, otherwise: Load) -> Load:
    cells = registers.cells

    def load(offset: int) -> int:
        try:
            return cells[offset].value
        except KeyError:
            pass
        return otherwise(offset)

    return load


def _storer(registers: _Registers, otherwise: Store) -> Store:
    cells, limit = registers.cells, 1 << 8 * ctypes.sizeof(registers.kind)

    def store(offset: int, value: int) -> None:
        try:
            cell = cells[offset]
        except KeyError:
            otherwise(offset, value)
            return
        if 0 <= value < limit:
            cell.value = value
        else:
            otherwise(offset, value)

    return store


def _kind(width: int, byteorder: ByteOrder) -> Any:
    kind: Any = KINDS[width]  # typeshed does not know of the types of either byte order
    if width == 1:
        return kind
    return kind.__ctype_le__ if byteorder == "little" else kind.__ctype_be__


def _unmap(mapping: _Mapping) -> None:
    try:
        mapping.view.release()
        mapping.memory.close()
    except BufferError:
        # Somebody holds a view; the pages go with it. Closing the rest matters more.
        return


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
