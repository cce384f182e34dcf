"""The mappings of one container."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from vfiocore.memory._vaddr import VaddrIndex
from vfiocore.memory.mapping import DmaMapping


class NothingMapped(LookupError):  # noqa: N818 - reads as the fact it is
    """No mapping is there."""


class MappingCut(LookupError):  # noqa: N818 - reads as the fact it is
    """The range takes a part of `mapping`, and mappings go as a whole."""

    def __init__(self, mapping: DmaMapping) -> None:
        self.mapping = mapping
        super().__init__(f"the range cuts the mapping {mapping}")


class MappingTable:
    """Mappings that do not overlap, sorted by IOVA.

    Every lookup is one bisection, O(log n); adding and removing also move part of one list of
    addresses (8 bytes an entry: 60,000 mappings, as many as the kernel's default entry limit
    allows a container, fit a processor's cache).
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._at: dict[int, DmaMapping] = {}
        self._bytes = 0
        # Made when first asked for, kept up to date from then on: few containers are asked.
        self._by_vaddr: VaddrIndex | None = None

    @property
    def bytes(self) -> int:
        """The number of bytes that are mapped."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[DmaMapping]:
        """The mappings by rising IOVA; the table must not change meanwhile."""
        return map(self._at.__getitem__, self._starts)

    def add(self, mapping: DmaMapping) -> None:
        """Enter a mapping.

        Raises:
            ValueError: It overlaps one that is there, or has no bytes.
        """
        iova, size = mapping.iova, mapping.size
        if size <= 0:
            raise ValueError(f"a mapping of {size} bytes at {iova:#x}")
        starts = self._starts
        index = bisect_right(starts, iova + size - 1)
        if index:
            before = self._at[starts[index - 1]]
            if before.iova + before.size > iova:
                raise ValueError(f"{mapping} overlaps {before}")
        starts.insert(index, iova)
        self._at[iova] = mapping
        self._bytes += size
        if self._by_vaddr is not None:
            self._by_vaddr.add(mapping)

    def remove(self, mapping: DmaMapping) -> None:
        """Take out a mapping.

        Raises:
            NothingMapped: The table does not have this very mapping.
        """
        iova = mapping.iova
        there = self._at.get(iova)
        if there is not mapping and there != mapping:
            raise NothingMapped(f"{mapping} is not mapped")
        del self._starts[bisect_left(self._starts, iova)]
        del self._at[iova]
        self._bytes -= mapping.size
        if self._by_vaddr is not None:
            self._by_vaddr.remove(mapping)

    def clear(self) -> None:
        """Take out all."""
        self._starts.clear()
        self._at.clear()
        self._bytes = 0
        self._by_vaddr = None

    def overlapping(self, iova: int, size: int) -> DmaMapping | None:
        """The highest mapping that shares a byte with the `size` bytes at `iova`."""
        index = bisect_right(self._starts, iova + size - 1)
        if not index:
            return None
        mapping = self._at[self._starts[index - 1]]
        return mapping if mapping.iova + mapping.size > iova else None

    def covered_by(self, iova: int, size: int) -> list[DmaMapping]:
        """The mappings inside the `size` bytes at `iova`, by rising IOVA; gaps do not matter.

        Raises:
            NothingMapped: No mapping shares a byte with the range.
            MappingCut: A mapping lies partly inside. The same range is EINVAL from
                ``VFIO_IOMMU_UNMAP_DMA`` (type1v2) and ENOENT from ``IOMMU_IOAS_UNMAP``.
        """
        starts = self._starts
        end = iova + size
        first = bisect_left(starts, iova)
        if first:
            before = self._at[starts[first - 1]]
            if before.iova + before.size > iova and size > 0:
                raise MappingCut(before)
        inside = [self._at[start] for start in starts[first : bisect_left(starts, end, first)]]
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
