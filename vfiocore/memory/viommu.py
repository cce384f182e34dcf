"""A virtual IOMMU in front of guest memory: what it translates is mapped, and nothing else."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from attrs import define, field, frozen
from attrs.setters import frozen as fixed

from vfiocore.errors import (
    DmaAddressError,
    DmaError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
)
from vfiocore.memory._audience import Audience
from vfiocore.memory.discard import DiscardableRam
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.memory.ranges import IOVA_LIMIT
from vfiocore.memory.region import MemoryRegion, Ram
from vfiocore.memory.table import MappingCut, MappingTable, NothingMapped, Overlap
from vfiocore.undo import UndoStack

if TYPE_CHECKING:
    from vfiocore.memory.flatview import FlatRange
    from vfiocore.memory.space import AddressSpace


@frozen
class Translation:
    """What a guest told its IOMMU: one entry, which comes and goes as a whole.

    Attributes:
        iova: The address that devices use, from the beginning of the region, in bytes.
        size: In bytes.
        address: Where it leads in the target address space.
        access: What devices may do.
    """

    iova: int
    size: int
    address: int
    access: Access = Access.READ_WRITE

    def __str__(self) -> str:
        return f"{self.iova:#x}-{self.iova + self.size - 1:#x} → {self.address:#x}"


class IommuListener(Protocol):
    """Follows what an `IommuRegion` translates. A call that raises has had no effect.

    Each mapping is a translation that was followed to memory; its ``iova`` counts from the
    beginning of the region.
    """

    def map(self, region: IommuRegion, mappings: Sequence[DmaMapping]) -> None:
        """Translations come; one that cannot follow raises, and they do not come."""

    def unmap(self, region: IommuRegion, mappings: Sequence[DmaMapping]) -> None:
        """Translations go, each as it came."""


@define(eq=False)
class IommuRegion(MemoryRegion):
    """Addresses that a virtual IOMMU translates; devices reach what `map` was told, nothing else.

    A translation is followed to RAM when it comes, and leads there until it goes, also when the
    target changes meanwhile. Blocks of a `DiscardableRam` that one leads to cannot be discarded.
    Where threads translate while others change the memory, all of them hold the session's lock.

    Attributes:
        target: The address space that translated addresses are of; not one that shows the region.
    """

    logging: ClassVar[bool] = False
    """What devices write is logged, if at all, by the RAM that a translation leads to."""

    target: AddressSpace = field(on_setattr=fixed)
    _table: MappingTable = field(factory=MappingTable, init=False, repr=False)
    # By the IOVA of a translation into RAM in blocks: the RAM, and where in it.
    _held: dict[int, tuple[DiscardableRam, int, int]] = field(factory=dict, init=False, repr=False)
    _audience: Audience[DmaMapping] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        MemoryRegion.__attrs_post_init__(self)
        self._audience = Audience(self.name)

    @property
    def translations(self) -> tuple[DmaMapping, ...]:
        """What is translated, followed to memory, by rising address in the region."""
        return tuple(self._table)

    def map(self, batch: Sequence[Translation]) -> None:
        """Let devices use translations, all or none.

        Raises:
            DmaRangeError: EINVAL, one is empty or not inside the region.
            DmaAddressError: EFAULT, one leads to what is no RAM, to more than one range of it, to
                RAM that is discarded, or would only write where nothing may be written.
            DmaOverlapError: EEXIST, something is translated there.
            DmaAlignmentError: EINVAL, pages are finer than those of the host.
            DmaLimitError: ENOSPC, a container has no entries for so many mappings.
            DmaError: Otherwise as `Container.dma_map` fails.

        Guarantees:
            After an error nothing of the batch is translated; the error's ``index`` names the
            item.
        """
        if not batch:
            return
        mappings, held = self._follow(batch)
        try:
            self._table.extend(mappings)
        except Overlap as overlap:
            raise self._refused(
                DmaOverlapError, errno.EEXIST, overlap.index, str(overlap)
            ) from None
        with UndoStack() as undo:
            undo.push(self._table.discard, mappings)
            self._audience.tell_come(mappings)
        for ram, offset, size in held.values():
            ram.hold(offset, size)
        self._held |= held

    def unmap(self, iova: int, size: int) -> None:
        """Take back every translation inside ``[iova, iova + size)``, all or none.

        A guest may invalidate what it never mapped, so nothing there is no error.

        Raises:
            DmaSplitError: EINVAL, the range cuts a translation; the text names it. No IOMMU of
                the host can take a part of a mapping: take the whole, and map what shall stay.
            DmaError: As `Container.dma_unmap` fails.

        Guarantees:
            After an error all is translated that was; what could not be restored is in the
            error's notes.
        """
        try:
            gone = self._table.covered_by(iova, size)
        except NothingMapped:
            return
        except MappingCut as cut:
            where = f"{iova:#x}-{iova + size - 1:#x}"
            raise DmaSplitError(
                errno.EINVAL, "unmap", self.name, f"{where} cuts the translation {cut.mapping}"
            ) from None
        self._audience.tell_go(gone)
        self._table.discard(gone)
        for mapping in gone:
            if mapping.iova in self._held:
                ram, offset, length = self._held.pop(mapping.iova)
                ram.release(offset, length)

    def unmap_all(self) -> None:
        """Take back every translation, as for a reset of the virtual IOMMU; see `unmap`."""
        self.unmap(0, IOVA_LIMIT)

    def add_listener(self, listener: IommuListener) -> None:
        """Tell `listener` what is translated, and from then on every change.

        Raises:
            ValueError: It listens already.
            Exception: What it raised; then it was not added.
        """
        self._audience.join(
            listener,
            lambda mappings: listener.map(self, mappings),
            lambda mappings: listener.unmap(self, mappings),
            self.translations,
        )

    def remove_listener(self, listener: IommuListener) -> None:
        """Tell `listener` that all translations go, and no more after that.

        Raises:
            ValueError: It does not listen.
            Exception: What it raised; then it listens still.
        """
        self._audience.leave(listener, self.translations)

    def _follow(
        self, batch: Sequence[Translation]
    ) -> tuple[list[DmaMapping], dict[int, tuple[DiscardableRam, int, int]]]:
        """The memory that translations lead to, and what of it is of RAM in blocks."""
        mappings: list[DmaMapping] = []
        held: dict[int, tuple[DiscardableRam, int, int]] = {}
        for index, item in enumerate(batch):
            flat = self._range_of(index, item)
            access = item.access & flat.access
            if not access:
                reason = f"{item} is to be written only, and {flat.ram.name} is read-only"
                raise self._refused(DmaAddressError, errno.EFAULT, index, reason)
            inside = item.address - flat.start
            part = flat.mapping().part(inside, item.size)
            mappings.append(
                DmaMapping(item.iova, item.size, part.vaddr, access, part.fd, part.fd_offset)
            )
            if isinstance(flat.ram, DiscardableRam):
                held[item.iova] = flat.ram, flat.offset + inside, item.size
        return mappings, held

    def _range_of(self, index: int, item: Translation) -> FlatRange:
        """The range of RAM that all of a translation leads to."""
        if item.size <= 0 or not 0 <= item.iova <= self.size - item.size:
            reason = f"{item} is not in its {self.size:#x} bytes"
            raise self._refused(DmaRangeError, errno.EINVAL, index, reason)
        flat = self.target.range_at(item.address)
        if flat is None or not isinstance(flat.ram, Ram):
            reason = f"{item} leads to no RAM in {self.target.name}"
            raise self._refused(DmaAddressError, errno.EFAULT, index, reason)
        if item.address + item.size - 1 > flat.last:
            reason = f"{item} goes past the end of the RAM at {flat}"
            raise self._refused(DmaAddressError, errno.EFAULT, index, reason)
        ram, offset = flat.ram, flat.offset + item.address - flat.start
        if isinstance(ram, DiscardableRam) and not ram.is_populated(offset, item.size):
            reason = f"{item} leads to discarded memory of {ram.name}"
            raise self._refused(DmaAddressError, errno.EFAULT, index, reason)
        return flat

    def _refused(self, kind: type[DmaError], number: int, index: int, reason: str) -> DmaError:
        error = kind(number, "map", self.name, reason)
        error.index = index
        return error
