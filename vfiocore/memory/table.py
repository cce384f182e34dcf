"""The mappings of one container."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from vfiocore.memory._vaddr import VaddrIndex
from vfiocore.memory.batch import Columns, DmaBatch
from vfiocore.memory.mapping import DmaMapping


class NothingMapped(LookupError):  # noqa: N818 - reads as the fact it is
    """No mapping is there."""


class MappingCut(LookupError):  # noqa: N818 - reads as the fact it is
    """The range takes a part of `mapping`, and mappings go as a whole."""

    def __init__(self, mapping: DmaMapping) -> None:
        self.mapping = mapping
        super().__init__(f"the range cuts the mapping {mapping}")


class Overlap(ValueError):  # noqa: N818 - reads as the fact it is
    """A mapping shares bytes with one that is there.

    Attributes:
        index: Which of the batch it is.
    """

    def __init__(self, mapping: DmaMapping, there: DmaMapping, index: int = 0) -> None:
        self.index = index
        super().__init__(f"{mapping} overlaps {there}")


class MappingTable:
    """Mappings that do not overlap, sorted by IOVA.

    Every lookup is one bisection, O(log n); adding and removing also move part of two lists
    (8 bytes an entry each: 60,000 mappings, as many as the kernel's default entry limit allows a
    container, fit a processor's cache). A batch in order, with nothing between its first and its
    last mapping, comes and goes as one.
    """

    __slots__ = ("_by_vaddr", "_items", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self._items: list[DmaMapping] = []
        # Made when first asked for, kept up to date from then on: few containers are asked.
        self._by_vaddr: VaddrIndex | None = None

    @property
    def bytes(self) -> int:
        """The number of bytes that are mapped; O(n)."""
        return sum(mapping.size for mapping in self._items)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[DmaMapping]:
        """The mappings by rising IOVA; the table must not change meanwhile."""
        return iter(self._items)

    def add(self, mapping: DmaMapping) -> None:
        """Enter a mapping.

        Raises:
            Overlap: It overlaps one that is there.
            ValueError: It has no bytes.
        """
        iova = mapping.iova
        end = iova + mapping.size
        if end <= iova:
            raise ValueError(f"a mapping of {mapping.size} bytes at {iova:#x}")
        index = bisect_left(self.starts, end)
        if index:
            before = self._items[index - 1]
            if before.iova + before.size > iova:
                raise Overlap(mapping, before)
        self.starts.insert(index, iova)
        self._items.insert(index, mapping)
        if self._by_vaddr is not None:
            self._by_vaddr.add(mapping)

    def extend(self, batch: Sequence[DmaMapping]) -> None:
        """Enter a batch, all or none.

        Raises:
            Overlap: One overlaps another, of the batch or in the table; its ``index`` says which.
            ValueError: One has no bytes.
        """
        if isinstance(batch, DmaBatch) and self._by_vaddr is None:
            columns = batch.columns
            if columns is not None and columns.in_order and self._enter_run(batch, columns):
                return
        done = 0
        try:
            for mapping in batch:
                self.add(mapping)
                done += 1
        except ValueError as error:
            for entered in batch[:done]:
                self.remove(entered)
            if isinstance(error, Overlap):
                error.index = done
            raise

    def _enter_run(self, batch: DmaBatch, columns: Columns) -> bool:
        """Enter a batch in order at one place; False if something is mapped there."""
        starts, items = self.starts, self._items
        index = bisect_left(starts, columns.start)
        if index and items[index - 1].last >= columns.start:
            return False
        if index < len(starts) and starts[index] < columns.end:
            return False
        starts[index:index] = columns.iovas
        items[index:index] = batch
        return True

    def remove(self, mapping: DmaMapping) -> None:
        """Take out a mapping.

        Raises:
            NothingMapped: The table does not have this very mapping.
        """
        index = bisect_left(self.starts, mapping.iova)
        there = self._items[index] if index < len(self._items) else None
        if there is not mapping and there != mapping:
            raise NothingMapped(f"{mapping} is not mapped")
        del self.starts[index]
        del self._items[index]
        if self._by_vaddr is not None:
            self._by_vaddr.remove(mapping)

    def discard(self, batch: Sequence[DmaMapping]) -> None:
        """Take out a batch; as one if nothing else is between its mappings.

        Raises:
            NothingMapped: The table does not have one of them; those before it are gone.
        """
        if len(batch) == 1:
            self.remove(batch[0])
            return
        start = self._run_of(batch)
        if start is None or self._by_vaddr is not None:
            for mapping in batch:
                self.remove(mapping)
            return
        end = start + len(batch)
        del self.starts[start:end]
        del self._items[start:end]

    def has_all(self, batch: Sequence[DmaMapping]) -> bool:
        """True if the table has every mapping of a batch, and none is named twice."""
        if len(batch) == 1:
            return self._has(batch[0])
        if self._run_of(batch) is not None:
            return True
        if not all(map(self._has, batch)):
            return False
        return len({mapping.iova for mapping in batch}) == len(batch)

    def _has(self, mapping: DmaMapping) -> bool:
        index = bisect_left(self.starts, mapping.iova)
        if index == len(self.starts):
            return False
        there = self._items[index]
        return there is mapping or there == mapping

    def missing(self, batch: Sequence[DmaMapping]) -> int:
        """The index of the first of a batch that keeps `has_all` from being true."""
        seen: set[int] = set()
        for index, mapping in enumerate(batch):
            if mapping.iova in seen or not self.has_all((mapping,)):
                return index
            seen.add(mapping.iova)
        raise ValueError("none is missing")

    def _run_of(self, batch: Sequence[DmaMapping]) -> int | None:
        """Where the table has just this batch, in this order, without others in between."""
        if not isinstance(batch, DmaBatch):
            return None
        start = bisect_left(self.starts, batch[0].iova)
        # Lists compare by identity first, so this is one pass of pointers.
        return start if self._items[start : start + len(batch)] == list(batch) else None

    def clear(self) -> None:
        """Take out all."""
        self.starts.clear()
        self._items.clear()
        self._by_vaddr = None

    def overlapping(self, iova: int, size: int) -> DmaMapping | None:
        """The highest mapping that shares a byte with the `size` bytes at `iova`."""
        index = bisect_right(self.starts, iova + size - 1)
        if not index:
            return None
        mapping = self._items[index - 1]
        return mapping if mapping.iova + mapping.size > iova else None

    def exactly(self, iova: int, size: int) -> DmaMapping | None:
        """The mapping of just this range, if there is one."""
        index = bisect_left(self.starts, iova)
        if index == len(self._items):
            return None
        mapping = self._items[index]
        return mapping if mapping.iova == iova and mapping.size == size else None

    def covered_by(self, iova: int, size: int) -> list[DmaMapping]:
        """The mappings inside the `size` bytes at `iova`, by rising IOVA; gaps do not matter.

        Raises:
            NothingMapped: No mapping shares a byte with the range.
            MappingCut: A mapping lies partly inside. The same range is EINVAL from
                ``VFIO_IOMMU_UNMAP_DMA`` (type1v2) and ENOENT from ``IOMMU_IOAS_UNMAP``.
        """
        starts = self.starts
        end = iova + size
        first = bisect_left(starts, iova)
        if first:
            before = self._items[first - 1]
            if before.iova + before.size > iova and size > 0:
                raise MappingCut(before)
        inside = self._items[first : bisect_left(starts, end, first)]
        if not inside:
            raise NothingMapped(f"nothing is mapped at {iova:#x}-{end - 1:#x}")
        if inside[-1].iova + inside[-1].size > end:
            raise MappingCut(inside[-1])
        return inside

    def translate(self, iova: int) -> int:
        """The process address behind `iova`.

        Raises:
            NothingMapped: No mapping holds it.
        """
        mapping = self.overlapping(iova, 1)
        if mapping is None:
            raise NothingMapped(f"nothing is mapped at {iova:#x}")
        return mapping.vaddr + iova - mapping.iova

    def find_iova(self, vaddr: int) -> int:
        """An IOVA at which a device finds the byte at the process address `vaddr`.

        Where the byte is mapped more than once, one of its IOVAs. O(log n) for each order of
        magnitude that the sizes of the mappings have; the first call also makes the index.

        Raises:
            NothingMapped: No mapping holds it.
        """
        if self._by_vaddr is None:
            self._by_vaddr = VaddrIndex(self)
        mapping = self._by_vaddr.find(vaddr)
        if mapping is None:
            raise NothingMapped(f"the address {vaddr:#x} is not mapped for any device")
        return mapping.iova + vaddr - mapping.vaddr
