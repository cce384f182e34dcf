"""The base container: what every backend shares about an I/O address space.

A *container* is one I/O address space with the devices attached to it, whichever way the kernel
calls it: a VFIO container with type1, or an IOAS of an iommufd. Checks, the account of mappings
and the batch rules are here; a backend adds its file descriptors and ioctls.
"""

from __future__ import annotations

import enum
import errno
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define, field, frozen

from vfiocore.errors import (
    ClosedError,
    DmaAlignmentError,
    DmaError,
    DmaLimitError,
    DmaNotMappedError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
    UnsupportedError,
)
from vfiocore.memory.batch import BULK, DmaBatch
from vfiocore.memory.mapping import DmaMapping
from vfiocore.memory.ranges import FULL_RANGE, IovaRange
from vfiocore.memory.table import MappingCut, MappingTable, NothingMapped, Overlap

if TYPE_CHECKING:
    import uuid

    from vfiocore.host import Host
    from vfiocore.registration import BackendObject
    from vfiocore.sysfs import HostDevice

Batch: TypeAlias = Sequence[DmaMapping]
DmaCall: TypeAlias = Callable[["Container", Batch], None]

ADDRESS_LIMIT = 1 << 64


class Capability(enum.Flag):
    """What a container can do; asking for one that is absent raises `UnsupportedError`."""

    MAP_FILE = enum.auto()
    """Memory can be mapped by file descriptor and offset (IOMMU_IOAS_MAP_FILE, Linux 6.13), and
    another device's BAR where it can be exported as such a file (a dma-buf, Linux 6.19)."""
    DIRTY_TRACKING = enum.auto()
    """The IOMMU can report the pages that devices wrote."""
    BAR_BY_ADDRESS = enum.auto()
    """Another device's BAR can be mapped by its process address (peer-to-peer DMA)."""
    NO_IOMMU = enum.auto()
    """There is no IOMMU: nothing is translated, nothing is protected, nothing can be mapped."""
    NO_DRIVER_PINS = enum.auto()
    """The drivers of mediated devices may not pin what is mapped (type1 version 1): EACCES."""


NO_CAPABILITY = Capability(0)


@frozen
class DeviceTarget:
    """The device that a secure context is wanted for.

    Attributes:
        name: The kernel's name for it; ``VFIO_FD9`` when only fd 9 is known of it.
        device: What sysfs says of it, or None when only an fd was passed.
        fd: A device cdev that was opened by somebody else and passed in; never closed here.
        vf_token: The token that a VF, or a PF with VFs, asks for.
    """

    name: str
    device: HostDevice | None = None
    fd: int | None = None
    vf_token: uuid.UUID | None = None

    @property
    def is_mdev(self) -> bool:
        """True if the device is *known* to be mediated; an fd alone does not tell."""
        return self.device is not None and self.device.is_mdev


@define(eq=False, kw_only=True)
class Attachment:
    """One device's secure context: its membership of a container. Backends subclass it."""

    container: Container
    target: DeviceTarget


_Window: TypeAlias = tuple[int, int, int]
"""Where mappings pass without a closer look: first IOVA, IOVA behind the last, bits not allowed."""

_NO_WINDOW: _Window = (0, 0, 0)


def _forget_window(container: Container, _field: object, value: Any) -> Any:
    container._window = _NO_WINDOW
    return value


@define(eq=False, kw_only=True)
class Container:
    """One I/O address space of one backend. Backends subclass it and add their fds.

    Attributes:
        host: The host that it lives on.
        backend: The name of the backend that made it.
        label: What messages call it: ``container of group 7``, ``IOAS 3 of iommufd0``.
        page_sizes: Bitmap of the IOMMU's page sizes in bytes; its lowest bit is the granularity.
        iova_ranges: Usable addresses, sorted; empty where the kernel knows no limit. They change
            at every attach and detach, and the backend keeps them current.
        max_mappings: How many mappings the kernel allows, or None.
        capabilities: What it can do beyond mapping by address.
        attachments: The devices in it, in order of arrival.
        mappings: What is mapped, as the library knows it.
        backend_object: The object that its devices link to, or None.
    """

    host: Host = field(repr=False)
    backend: str
    label: str
    page_sizes: int = field(default=0, on_setattr=_forget_window)
    iova_ranges: tuple[IovaRange, ...] = field(default=(), on_setattr=_forget_window)
    max_mappings: int | None = None
    capabilities: Capability = NO_CAPABILITY
    attachments: list[Attachment] = field(factory=list, repr=False)
    mappings: MappingTable = field(factory=MappingTable, repr=False)
    lock: threading.RLock = field(factory=threading.RLock, repr=False)
    closed: bool = False
    backend_object: BackendObject | None = field(default=None, repr=False)
    _window: _Window = field(default=_NO_WINDOW, init=False, repr=False)
    _map: DmaCall | None = field(default=None, init=False, repr=False)
    _unmap: DmaCall | None = field(default=None, init=False, repr=False)

    def connect(self, dma_map: DmaCall, dma_unmap: DmaCall, lock: threading.RLock) -> None:
        """Give the container its resolved hook callers and its session's lock, once."""
        self._map = dma_map
        self._unmap = dma_unmap
        self.lock = lock

    def can_show(self, bar: DmaMapping) -> bool:
        """True if another device's BAR can be mapped: by its address, or as a file if it is one."""
        by_file = Capability.MAP_FILE in self.capabilities and bar.fd is not None
        return by_file or Capability.BAR_BY_ADDRESS in self.capabilities

    @property
    def page_size(self) -> int:
        """The mapping granularity in bytes."""
        return self.page_sizes & -self.page_sizes

    def dma_map(self, batch: Batch) -> None:
        """Map a batch of ranges, all or none.

        Uses VFIO_IOMMU_MAP_DMA, IOMMU_IOAS_MAP, IOMMU_IOAS_MAP_FILE or IOMMU_IOAS_COPY.

        Raises:
            DmaAlignmentError: EINVAL, an address or size is not a multiple of `page_size`.
            DmaRangeError: EINVAL or EOVERFLOW, outside `iova_ranges` or past 2^64.
            DmaOverlapError: EEXIST, something is mapped there.
            DmaLimitError: ENOSPC, `max_mappings` would be exceeded.
            DmaMemlockError: ENOMEM, the locked-memory limit.
            DmaAddressError: EFAULT, the memory cannot be pinned.

        Guarantees:
            After an error nothing of the batch is mapped; the error's ``index`` names the item.
        """
        lock = self.lock
        lock.acquire()  # twice as fast as `with`
        try:
            if self.closed or self._map is None:
                raise ClosedError(f"{self.label} is closed")
            limit = self.max_mappings
            if limit is not None and len(self.mappings.starts) + len(batch) > limit:
                raise self._no_entries(limit, batch)
            if len(batch) == 1:
                self._enter_one(batch)
            else:
                batch = self._enter_all(batch)
            try:
                self._map(self, batch)
            except BaseException:
                self.mappings.discard(batch)
                raise
        finally:
            lock.release()

    def dma_unmap(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Unmap everything inside each ``(iova, size)``, all or none.

        Uses VFIO_IOMMU_UNMAP_DMA or IOMMU_IOAS_UNMAP. Mappings go as they came: whole.

        Raises:
            DmaNotMappedError: ENOENT, nothing is mapped in a range.
            DmaSplitError: EINVAL, a range cuts a mapping.

        Guarantees:
            After an error everything that was mapped is mapped; the error's ``index`` names the
            range.
        """
        lock = self.lock
        lock.acquire()
        try:
            if self.closed or self._unmap is None:
                raise ClosedError(f"{self.label} is closed")
            batch = self._inside(ranges)
            try:
                self._unmap(self, batch)
            except DmaError as error:
                failed = batch[error.index].iova  # the backend counts mappings
                error.index = next(
                    index for index, (iova, size) in enumerate(ranges) if 0 <= failed - iova < size
                )
                raise
            self.mappings.discard(batch)
        finally:
            lock.release()

    def dma_remove(self, batch: Batch) -> None:
        """Unmap mappings, each just as it was mapped, all or none.

        Raises:
            DmaNotMappedError: ENOENT, one of them is not mapped.

        Guarantees:
            After an error everything that was mapped is mapped; the error's ``index`` names the
            item.
        """
        lock = self.lock
        lock.acquire()
        try:
            if self.closed or self._unmap is None:
                raise ClosedError(f"{self.label} is closed")
            if len(batch) >= BULK:
                batch = DmaBatch.of(batch)
            mappings = self.mappings
            if not mappings.has_all(batch):
                raise self._not_mapped(batch)
            self._unmap(self, batch)
            mappings.discard(batch)
        finally:
            lock.release()

    def unmap_all(self) -> None:
        """Unmap whatever is mapped."""
        with self.lock:
            if not self.mappings:
                return
            self.dma_unmap([(mapping.iova, mapping.size) for mapping in self.mappings])

    def choose_iova(self, size: int, vaddr: int) -> int:
        """A free IOVA of the kernel's own choice for the memory at `vaddr`; nothing stays mapped.

        The caller maps it before anybody else maps anything, under its session's lock.

        Args:
            size: In bytes, in whole pages.
            vaddr: The address in this process; the choice suits how the memory is aligned.

        Raises:
            UnsupportedError: EOPNOTSUPP, the backend's kernel maps only where it is told.
            DmaError: As `dma_map` fails; ENOSPC, there is no such address.
        """
        raise UnsupportedError(
            errno.EOPNOTSUPP,
            "dma_map",
            self.label,
            "its kernel interface does not choose addresses",
            "iommufd does; without iova=, the library chooses one that every container has",
        )

    # -- checks ------------------------------------------------------------------------------
    def _enter_one(self, batch: Batch) -> None:
        """As `_enter_all` for one mapping, without a loop: what drivers map comes one by one."""
        (mapping,) = batch
        low, high, mask = self._window
        iova = mapping.iova
        end = iova + mapping.size
        if not low <= iova < end <= high or (iova | end | mapping.vaddr) & mask:
            self._check(batch)
        try:
            self.mappings.add(mapping)
        except Overlap:
            raise self._overlap(batch, 0) from None

    def _enter_all(self, batch: Batch) -> Batch:
        """Enter a batch into the account; refuse, with reasons, what the kernel would refuse."""
        if len(batch) >= BULK:
            batch = DmaBatch.of(batch)
        if not (isinstance(batch, DmaBatch) and self._passes(batch)):
            self._check(batch)
        try:
            self.mappings.extend(batch)
        except Overlap as overlap:
            raise self._overlap(batch, overlap.index) from None
        return batch

    def _passes(self, batch: DmaBatch) -> bool:
        """True if all of a batch is as it should be; False if it has to be looked at closer."""
        columns = batch.columns
        if columns is None or not columns.in_order:
            return False
        if not self.page_sizes or not columns.aligned(self.page_size):
            return False
        for usable in self.iova_ranges or (FULL_RANGE,):
            if usable.start <= columns.start and columns.end - 1 <= usable.last:
                return True
        return False

    def _check(self, batch: Batch) -> None:
        """Refuse what is misaligned, or outside of what the IOMMU can translate."""
        low, high, mask = self._window
        for mapping in batch:
            iova = mapping.iova
            end = iova + mapping.size
            if not low <= iova < end <= high:
                low, high, mask = self._window_of(mapping, batch)
            if (iova | end | mapping.vaddr) & mask:
                raise self._misaligned(mapping, batch)

    def _window_of(self, mapping: DmaMapping, batch: Batch) -> _Window:
        """The window around the usable range that a mapping is in."""
        iova, size = mapping.iova, mapping.size
        if size <= 0:
            raise self._misaligned(mapping, batch)
        if iova < 0 or iova + size > ADDRESS_LIMIT:
            number, reason = errno.EOVERFLOW, "the range leaves the 64-bit space"
            raise self._refused(DmaRangeError, number, batch, batch.index(mapping), reason)
        for usable in self.iova_ranges or (FULL_RANGE,):
            if usable.covers(iova, size):
                self._window = usable.start, usable.last + 1, self.page_size - 1
                return self._window
        allowed = ", ".join(map(str, self.iova_ranges))
        reason = f"outside the usable ranges {allowed}"
        raise self._refused(DmaRangeError, errno.EINVAL, batch, batch.index(mapping), reason)

    def _misaligned(self, mapping: DmaMapping, batch: Batch) -> DmaError:
        reason = (
            f"addresses and size must be multiples of {self.page_size:#x} bytes, and size not 0"
        )
        return self._refused(DmaAlignmentError, errno.EINVAL, batch, batch.index(mapping), reason)

    def _no_entries(self, limit: int, batch: Batch) -> DmaError:
        error = DmaLimitError(
            errno.ENOSPC,
            "dma_map",
            self.label,
            f"{len(self.mappings)} of {limit} mapping entries are in use,"
            f" {len(batch)} more are wanted",
            "map fewer, larger ranges, or raise vfio_iommu_type1.dma_entry_limit",
        )
        error.index = max(limit - len(self.mappings), 0)
        return error

    def _overlap(self, batch: Batch, index: int) -> DmaError:
        mapping = batch[index]
        other = self.mappings.overlapping(mapping.iova, mapping.size)
        there = (
            "another of the batch is there"
            if other is None
            else f"iova {other.iova:#x} size {other.size:#x} is mapped"
        )
        error = self._refused(DmaOverlapError, errno.EEXIST, batch, index, there)
        error.hint = (
            "unmap what is there first, or choose another iova (dma_alloc finds a free one)"
        )
        return error

    def _not_mapped(self, batch: Batch) -> DmaError:
        index = self.mappings.missing(batch)
        error = DmaNotMappedError(
            errno.ENOENT, "dma_unmap", self.label, f"{batch[index]} is not mapped, or named twice"
        )
        error.index = index
        return error

    def _inside(self, ranges: Sequence[tuple[int, int]]) -> Batch:
        mappings = self.mappings
        if len(ranges) == 1:
            mapping = mappings.exactly(*ranges[0])
            if mapping is not None:
                return (mapping,)
        exact = [mappings.exactly(iova, size) for iova, size in ranges]
        batch = [mapping for mapping in exact if mapping is not None]
        if len(batch) < len(exact):
            batch = self._covered(ranges)
        if len(batch) > 1:
            self._check_apart(batch)
        return batch if len(batch) < BULK else DmaBatch(batch)

    def _covered(self, ranges: Sequence[tuple[int, int]]) -> list[DmaMapping]:
        batch: list[DmaMapping] = []
        for index, (iova, size) in enumerate(ranges):
            where = f"iova {iova:#x} size {size:#x}"
            try:
                batch += self.mappings.covered_by(iova, size)
            except NothingMapped:
                error: DmaError = DmaNotMappedError(
                    errno.ENOENT, "dma_unmap", self.label, f"nothing is mapped in {where}"
                )
            except MappingCut as cut:
                error = DmaSplitError(
                    errno.EINVAL,
                    "dma_unmap",
                    self.label,
                    f"{where} cuts the mapping at iova {cut.mapping.iova:#x}"
                    f" size {cut.mapping.size:#x}",
                )
            else:
                continue
            error.index = index
            raise error
        return batch

    def _check_apart(self, batch: Batch) -> None:
        """No mapping may be named by two ranges of one call: it is gone after the first."""
        seen: set[int] = set()
        for mapping in batch:
            if mapping.iova in seen:
                raise DmaNotMappedError(
                    errno.ENOENT,
                    "dma_unmap",
                    self.label,
                    f"the mapping at iova {mapping.iova:#x} is in two ranges of one call",
                )
            seen.add(mapping.iova)

    def _refused(
        self, kind: type[DmaError], number: int, batch: Batch, index: int, reason: str
    ) -> DmaError:
        mapping = batch[index]
        where = f"iova {mapping.iova:#x} size {mapping.size:#x} vaddr {mapping.vaddr:#x}"
        error = kind(number, "dma_map", self.label, f"{where}: {reason}")
        error.index = index
        return error


def for_each(
    batch: Batch, do: Callable[[DmaMapping], None], undo: Callable[[DmaMapping], None]
) -> None:
    """Apply `do` to a batch; if one item fails, `undo` those before it and say which it was.

    For backends whose kernel interface takes one range a call. An error of an `undo` is added to
    the first error as a note: the caller must hear what went wrong first.
    """
    done = 0
    try:
        for mapping in batch:
            do(mapping)
            done += 1
    except BaseException as error:
        take_back_items(batch, done, undo, error)
        raise


def take_back_items(
    batch: Batch, done: int, undo: Callable[[DmaMapping], None], error: BaseException
) -> None:
    """After `error` at item `done`: say so in it, and `undo` the items before, last first.

    What an undo raises is added to the error as a note: what went wrong first must be heard.
    """
    if isinstance(error, DmaError):
        error.index = done
    for mapping in reversed(batch[:done]):
        try:
            undo(mapping)
        except Exception as second:  # noqa: BLE001 - the first error is the one that is raised
            error.add_note(f"while undoing the batch: {second}")
