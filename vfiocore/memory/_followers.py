"""What shows the parts of a region that come and go on their own: blocks of RAM, translations."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

from attrs import define

from vfiocore.errors import DmaAddressError, DmaAlignmentError, DmaError
from vfiocore.memory.discard import DiscardableRam, Runs
from vfiocore.memory.flatview import FlatRange
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.memory.viommu import IommuRegion

Show: TypeAlias = Callable[[list[DmaMapping]], None]


class Follower(Protocol):
    """Shows what changes by itself in one flat range."""

    flat: FlatRange

    def mappings(self) -> list[DmaMapping]:
        """What is to be shown now, by rising address."""

    @property
    def more(self) -> int:
        """How many mappings may still come, as far as that is known."""

    def left_out(self) -> dict[tuple[int, int], str]:
        """The parts that are never shown, ``(address, size)`` in bytes, with the reason."""

    def start(self) -> None:
        """Show and hide by itself from now on; what is there already has been shown."""

    def stop(self) -> None:
        """No longer; what is there has been hidden."""


def changes_by_itself(flat: FlatRange) -> bool:
    """True if what devices see of a range changes without a change of the tree."""
    return isinstance(flat.ram, (DiscardableRam, IommuRegion))


def follower_of(flat: FlatRange, page_size: int, show: Show, hide: Show) -> Follower:
    """What shows a range that `changes_by_itself`, in whole pages of `page_size` bytes."""
    if isinstance(flat.ram, IommuRegion):
        return TranslationFollower(flat, page_size, flat.ram, show, hide)
    assert isinstance(flat.ram, DiscardableRam)  # the other kind
    return BlockFollower(flat, page_size, flat.ram, show, hide)


def changed(
    ended: Sequence[Follower], begun: Sequence[Follower]
) -> tuple[list[DmaMapping], list[DmaMapping]]:
    """What is no longer shown and what newly is; what stays is in neither."""
    gone = dict.fromkeys(mapping for follower in ended for mapping in follower.mappings())
    come = dict.fromkeys(mapping for follower in begun for mapping in follower.mappings())
    return [m for m in gone if m not in come], [m for m in come if m not in gone]


def parts_of_pages(iova: int, size: int, page: int) -> dict[tuple[int, int], str]:
    """What of a range is in no whole page, ``(address, size)`` in bytes, with the reason."""
    end = iova + size
    head, tail = -iova % page, end % page
    if head + tail >= size:
        return {(iova, size): f"no whole page of {page:#x}"}
    parts = ((iova, head), (end - tail, tail))
    return {part: f"a part of a page of {page:#x}" for part in parts if part[1]}


@define(eq=False)
class BlockFollower:
    """Shows the populated blocks of one flat range of a `DiscardableRam`, each as a mapping.

    Attributes:
        flat: The range.
        page_size: The least that can be mapped, in bytes.
    """

    flat: FlatRange
    page_size: int
    _ram: DiscardableRam
    _show: Show
    _hide: Show

    def mappings(self) -> list[DmaMapping]:
        """What is to be shown now, by rising address."""
        return self._blocks(self._ram.populated)

    @property
    def more(self) -> int:
        """How many mappings may still come."""
        if not self._on_pages:
            return 0
        return self._ram.discarded_blocks(self.flat.offset, self.flat.size)

    def left_out(self) -> dict[tuple[int, int], str]:
        """The parts that are never shown, ``(address, size)`` in bytes, with the reason."""
        flat, page = self.flat, self.page_size
        if not self._on_pages:
            reason = f"blocks of {self._ram.block_size:#x} do not lie on whole pages of {page:#x}"
            return {(flat.start, flat.size): reason}
        return parts_of_pages(flat.start, flat.size, page)

    def start(self) -> None:
        """Follow the RAM from now on; what is there already has been shown."""
        self._ram._audience.join(self, self._come, self._go)

    def stop(self) -> None:
        """Follow it no more; what is there has been hidden."""
        self._ram._audience.leave(self)

    def _come(self, runs: Runs) -> None:
        blocks = self._blocks(runs)
        if blocks:
            self._show(blocks)

    def _go(self, runs: Runs) -> None:
        blocks = self._blocks(runs)
        if blocks:
            self._hide(blocks)

    @property
    def _on_pages(self) -> bool:
        flat = self.flat
        places = flat.start - flat.offset, flat.vaddr - flat.offset, self._ram.block_size
        return not any(place % self.page_size for place in places)

    def _blocks(self, runs: Runs) -> list[DmaMapping]:
        return list(self._cut(runs)) if self._on_pages else []

    def _cut(self, runs: Runs) -> Iterator[DmaMapping]:
        """The blocks of `runs` as far as they are in whole pages of the range."""
        flat, page, block = self.flat, self.page_size, self._ram.block_size
        whole = flat.mapping()
        low = flat.offset + -flat.start % page
        high = flat.offset + flat.size - (flat.last + 1) % page
        for offset, size in runs:
            at, end = max(offset, low), min(offset + size, high)
            while at < end:
                stop = min(at - at % block + block, end)
                yield whole.part(at - flat.offset, stop - at)
                at = stop


@define(eq=False)
class TranslationFollower:
    """Shows what is translated in one flat range of an `IommuRegion`.

    Attributes:
        flat: The range.
        page_size: The least that can be mapped, in bytes.
    """

    flat: FlatRange
    page_size: int
    _region: IommuRegion
    _show: Show
    _hide: Show

    def mappings(self) -> list[DmaMapping]:
        """What is to be shown now, by rising address.

        Raises:
            DmaAlignmentError: EINVAL, the virtual IOMMU's pages are finer than the host's.
            DmaAddressError: EFAULT, what is to be written only is in a read-only range.
        """
        return list(self._placed(self._region.translations).values())

    @property
    def more(self) -> int:
        """How many mappings are sure to be wanted besides: what a guest will do is unknown."""
        return 0

    def left_out(self) -> dict[tuple[int, int], str]:
        """The parts that are never shown: none."""
        return {}

    def start(self) -> None:
        """Follow the region from now on; what is there already has been shown."""
        self._region._audience.join(self, self._come, self._go)

    def stop(self) -> None:
        """Follow it no more; what is there has been hidden."""
        self._region._audience.leave(self)

    def _come(self, mappings: Sequence[DmaMapping]) -> None:
        placed = self._placed(mappings)
        if not placed:
            return
        try:
            self._show(list(placed.values()))
        except DmaError as error:
            error.index = list(placed)[error.index]
            raise

    def _go(self, mappings: Sequence[DmaMapping]) -> None:
        placed = self._placed(mappings)
        if placed:
            self._hide(list(placed.values()))

    def _placed(self, mappings: Sequence[DmaMapping]) -> dict[int, DmaMapping]:
        """What of the mappings is in the range, where devices see it, by index."""
        placed: dict[int, DmaMapping] = {}
        for index, mapping in enumerate(mappings):
            piece = self._place(index, mapping)
            if piece is not None:
                placed[index] = piece
        return placed

    def _place(self, index: int, mapping: DmaMapping) -> DmaMapping | None:
        flat = self.flat
        start = max(mapping.iova, flat.offset)
        end = min(mapping.iova + mapping.size, flat.offset + flat.size)
        if start >= end:
            return None
        part = mapping
        if end - start < mapping.size:
            part = mapping.part(start - mapping.iova, end - start)
        iova = flat.start + start - flat.offset
        access = part.access & Access.READ if flat.readonly else part.access
        if (iova | part.size | part.vaddr) % self.page_size:
            reason = f"{part} is not in whole pages of the host, {self.page_size:#x} bytes"
            raise self._region._refused(DmaAlignmentError, errno.EINVAL, index, reason)
        if not access:
            reason = f"{part} is to be written only, and the range is read-only"
            raise self._region._refused(DmaAddressError, errno.EFAULT, index, reason)
        return DmaMapping(iova, part.size, part.vaddr, access, part.fd, part.fd_offset)
