"""One address space and the containers that show it to devices.

Guest memory reaches the containers through a listener; buffers of drivers are mapped directly.
Every container, of whichever backend, gets each change once, and a container that comes late gets
everything that is there.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from attrs import define, field, frozen

from vfiocore.container import Capability
from vfiocore.errors import DmaLimitError, DmaNotMappedError, DmaOverlapError, UnsupportedError
from vfiocore.log import Log
from vfiocore.memory._followers import (
    Follower,
    changed,
    changes_by_itself,
    follower_of,
    parts_of_pages,
)
from vfiocore.memory.allocator import IovaAllocator, NoIovaLeft
from vfiocore.memory.batch import BULK, DmaBatch
from vfiocore.memory.listener import MemoryListener
from vfiocore.memory.mapping import DmaMapping
from vfiocore.memory.ranges import FULL_RANGE, IovaRange, intersect, subtract
from vfiocore.memory.table import MappingTable, Overlap
from vfiocore.undo import UndoStack, run_all, take_back

if TYPE_CHECKING:
    from vfiocore.container import Batch, Container
    from vfiocore.memory.flatview import FlatRange

MSI_HOLE = IovaRange(0xFEE00000, 0xFEEFFFFF)
"""Where x86 takes a write for an interrupt. Kernels list it for real devices; a container of
emulated devices alone has no list, but a device that joins later would find it occupied."""


T = TypeVar("T")


@define(eq=False)
class _Pending(Generic[T]):
    """What one round changes; what comes and goes within it is left as it is."""

    # In order, and found at once: a round may be of thousands.
    removed: dict[T, None] = field(factory=dict)
    added: dict[T, None] = field(factory=dict)

    def remove(self, item: T) -> None:
        if item in self.added:
            del self.added[item]
        else:
            self.removed[item] = None

    def add(self, item: T) -> None:
        if item in self.removed:
            del self.removed[item]
        else:
            self.added[item] = None


@frozen
class OutOfStep:
    """A container that does not show what its address space has.

    Attributes:
        container: The container.
        missing: What it should show and does not, by rising IOVA.
        extra: What it shows and should not, by rising IOVA.
    """

    container: Container
    missing: tuple[DmaMapping, ...]
    extra: tuple[DmaMapping, ...]

    @classmethod
    def of(cls, container: Container, due: Iterable[DmaMapping]) -> Self:
        """Compare what a container has mapped with what it should have."""
        wanted, there = set(due), set(container.mappings)
        missing = sorted(wanted - there, key=attrgetter("iova"))
        return cls(
            container, tuple(missing), tuple(m for m in container.mappings if m not in wanted)
        )

    def mend(self) -> None:
        """Bring the container into step.

        Raises:
            DmaError: as the container fails.
        """
        if self.extra:
            self.container.dma_remove(self.extra)
        if self.missing:
            self.container.dma_map(self.missing)

    def __str__(self) -> str:
        parts = [f"lacks {mapping}" for mapping in self.missing]
        parts += [f"still has {mapping}" for mapping in self.extra]
        return f"{self.container.label} {', '.join(parts)}"


@define(eq=False)
class VfioAddressSpace(MemoryListener):
    """An address space as devices see it; it follows guest memory.

    Attributes:
        page_size: The host's page size in bytes, the least that can be mapped.
        containers: Those that show it, in order of arrival.
        mappings: What every container shows.
        bars: BARs of devices, shown by the containers that can.
        suspended: Those of `bars` that do not answer: containers that map them as files have lost
            them.
        skipped: Parts of guest memory that cannot be mapped, ``(address, size)`` in bytes, each
            with the reason.
        lock: Its session's lock, taken by whatever changes the space.
        log: Where its warnings go.
    """

    page_size: int
    lock: threading.RLock = field(factory=threading.RLock, repr=False)
    log: Log = field(factory=Log, repr=False)
    containers: list[Container] = field(factory=list, init=False)
    mappings: MappingTable = field(factory=MappingTable, init=False, repr=False)
    bars: MappingTable = field(factory=MappingTable, init=False, repr=False)
    suspended: set[DmaMapping] = field(factory=set, init=False, repr=False)
    skipped: dict[tuple[int, int], str] = field(factory=dict, init=False)
    _allocator: IovaAllocator = field(factory=IovaAllocator, init=False, repr=False)
    _pending: _Pending[DmaMapping] = field(factory=_Pending, init=False, repr=False)
    _pending_bars: _Pending[DmaMapping] = field(factory=_Pending, init=False, repr=False)
    _pending_followed: _Pending[FlatRange] = field(factory=_Pending, init=False, repr=False)
    _followers: dict[FlatRange, Follower] = field(factory=dict, init=False, repr=False)

    # -- containers --------------------------------------------------------------------------
    def add(self, container: Container) -> None:
        """Show the space in one more container.

        Raises:
            DmaError: a mapping does not go there; then the container has none of them.
        """
        with self.lock:
            batch = self._due(container)
            if self._followers:
                self._warn_of_limit(container, self.most_mappings)
            if batch:
                container.dma_map(batch)
            self.containers.append(container)
            self._allocator.reset()

    def remove(self, container: Container) -> None:
        """Unmap everything from a container and forget it."""
        with self.lock:
            self.containers.remove(container)
            self._allocator.reset()
            container.unmap_all()

    # -- mapping -----------------------------------------------------------------------------
    def map(self, batch: Batch) -> None:
        """Map a batch in every container, all or none.

        Raises:
            DmaError: as `Container.dma_map` fails; DmaOverlapError (EEXIST) also where no
                container shows what is there.
        """
        lock = self.lock
        lock.acquire()  # twice as fast as `with`
        try:
            if len(batch) >= BULK:
                batch = DmaBatch.of(batch)
            done = 0
            try:
                for container in self.containers:
                    container.dma_map(batch)
                    done += 1
                self._enter(batch)
            except BaseException as error:
                steps = [partial(c.dma_remove, batch) for c in self.containers[:done]]
                take_back(reversed(steps), error)
                raise
        finally:
            lock.release()

    def unmap(self, batch: Batch) -> None:
        """Unmap a batch from every container, all or none; each as it was mapped.

        Raises:
            DmaNotMappedError: ENOENT, one of them is not mapped.
            DmaError: as `Container.dma_unmap` fails.
        """
        lock = self.lock
        lock.acquire()
        try:
            if len(batch) >= BULK:
                batch = DmaBatch.of(batch)
            if not self.mappings.has_all(batch):
                raise self._not_mapped(batch)
            done = 0
            try:
                for container in self.containers:
                    container.dma_remove(batch)
                    done += 1
            except BaseException as error:
                steps = [partial(c.dma_map, batch) for c in self.containers[:done]]
                take_back(reversed(steps), error)
                raise
            self.mappings.discard(batch)
            if len(batch) == 1:
                self._allocator.freed(batch[0].iova)
            elif batch:
                self._allocator.freed(min(mapping.iova for mapping in batch))
        finally:
            lock.release()

    def out_of_step(self) -> tuple[OutOfStep, ...]:
        """The containers that do not show what the space has, each with the difference.

        None, unless a change failed and could not be taken back either; the error's notes say so.
        """
        with self.lock:
            found = (OutOfStep.of(container, self._due(container)) for container in self.containers)
            return tuple(each for each in found if each.missing or each.extra)

    def bring_into_step(self) -> None:
        """Unmap what containers show too much and map what they lack; every one is tried.

        Raises:
            DmaError: the first that failed; `out_of_step` says what is left.
        """
        with self.lock:
            run_all([each.mend for each in self.out_of_step()])

    def _due(self, container: Container) -> list[DmaMapping]:
        bars = (bar for bar in self.bars if self._shows(container, bar))
        return [*self.mappings, *bars]

    def show_bar(self, bar: DmaMapping) -> tuple[Container, ...]:
        """Map a BAR of a device in every container that can; those that cannot are returned.

        Raises:
            DmaError: as `map` fails; then no container shows it.
        """
        with self.lock, UndoStack() as undo:
            for container in self._showing(bar):
                container.dma_map([bar])
                undo.push(container.dma_unmap, [(bar.iova, bar.size)])
            there = self.overlapping(bar.iova, bar.size)
            if there is not None:
                raise _overlap(f"the BAR at {bar} overlaps {there}", 0)
            self.bars.add(bar)
        return tuple(c for c in self.containers if not c.can_show(bar))

    def suspend_bar(self, bar: DmaMapping) -> None:
        """Unmap a BAR that was taken back, where it is mapped as a file; every one is tried.

        Its addresses stay its own. Where it is mapped by its address the kernel leaves it mapped.
        """
        with self.lock:
            if bar in self.suspended:
                return
            before = self._showing(bar)
            self.suspended.add(bar)
            _unmap_from([c for c in before if not self._shows(c, bar)], bar)

    def resume_bar(self, bar: DmaMapping) -> None:
        """Map a BAR again that answers again.

        Raises:
            DmaError: as `map` fails; then it stays suspended.
        """
        with self.lock, UndoStack() as undo:
            if bar not in self.suspended:
                return
            before = self._showing(bar)
            self.suspended.remove(bar)
            undo.push(self.suspended.add, bar)
            for container in self._showing(bar):
                if container not in before:
                    container.dma_map([bar])
                    undo.push(container.dma_unmap, [(bar.iova, bar.size)])

    def hide_bar(self, bar: DmaMapping) -> None:
        """Take a BAR out of the containers again; every one is tried."""
        with self.lock:
            showing = self._showing(bar)
            self.bars.remove(bar)
            self.suspended.discard(bar)
            self._allocator.freed(bar.iova)
            _unmap_from(showing, bar)

    def _showing(self, bar: DmaMapping) -> list[Container]:
        return [container for container in self.containers if self._shows(container, bar)]

    def _shows(self, container: Container, bar: DmaMapping) -> bool:
        """Whether a container has a BAR mapped, as things are."""
        if bar in self.suspended:
            return Capability.BAR_BY_ADDRESS in container.capabilities
        return container.can_show(bar)

    # -- addresses ---------------------------------------------------------------------------
    def overlapping(self, iova: int, size: int) -> DmaMapping | None:
        """The highest mapping, of memory or a BAR, that shares a byte with the range."""
        found = (table.overlapping(iova, size) for table in (self.mappings, self.bars))
        return max((m for m in found if m is not None), key=lambda m: m.iova, default=None)

    def usable_ranges(self) -> tuple[IovaRange, ...]:
        """The addresses that every container can map, sorted."""
        ranges: tuple[IovaRange, ...] = (FULL_RANGE,)
        for container in self.containers:
            known = container.iova_ranges or subtract((FULL_RANGE,), MSI_HOLE)
            ranges = intersect(ranges, known)
        return ranges if self.containers else subtract(ranges, MSI_HOLE)

    def allocate(self, size: int, *, align: int, below: int | None = None) -> int:
        """The lowest free IOVA for `size` bytes, aligned to `align`, ending below `below`.

        Raises:
            DmaLimitError: ENOSPC, there is none.
        """
        try:
            return self._allocator.allocate(
                size, align=align, below=below, ranges=self.usable_ranges(), taken=self
            )
        except NoIovaLeft as error:
            raise DmaLimitError(errno.ENOSPC, "allocate", "address space", str(error)) from None

    def choose_iova(self, size: int, vaddr: int) -> int:
        """A free IOVA that the first container whose kernel chooses addresses gives (iommufd).

        Raises:
            UnsupportedError: EOPNOTSUPP, there is no such container.
            DmaError: As `map` fails.
        """
        refusal = None
        for container in self.containers:
            try:
                return container.choose_iova(size, vaddr)
            except UnsupportedError as error:
                refusal = refusal or error
        raise refusal or UnsupportedError(
            errno.EOPNOTSUPP, "dma_map", "address space", "it has no container"
        )

    @property
    def granularity(self) -> int:
        """The page size in bytes that suits every container."""
        return max([self.page_size, *(container.page_size for container in self.containers)])

    @property
    def most_mappings(self) -> int:
        """How many mappings there are once every block of discardable RAM is populated.

        What a guest may tell a virtual IOMMU is not foreseen.
        """
        return len(self.mappings) + sum(item.more for item in self._followers.values())

    # -- guest memory ------------------------------------------------------------------------
    def begin(self) -> None:
        """A round of changes begins."""
        self._pending = _Pending()
        self._pending_bars = _Pending()
        self._pending_followed = _Pending()

    def region_del(self, flat: FlatRange) -> None:
        """A range of guest memory goes with the next `commit`."""
        if changes_by_itself(flat):
            self._pending_followed.remove(flat)
        elif flat.is_device:
            self._pending_bars.remove(flat.mapping())
        else:
            self._pending.remove(flat.mapping())

    def region_add(self, flat: FlatRange) -> None:
        """A range of guest memory comes with the next `commit`."""
        if changes_by_itself(flat):
            self._pending_followed.add(flat)
        elif flat.is_device:
            self._pending_bars.add(flat.mapping())
        else:
            self._pending.add(flat.mapping())

    def commit(self) -> None:
        """Unmap what goes, then map what comes, each as one batch; all or nothing."""
        gone = self._whole_pages(self._pending.removed)
        come = self._whole_pages(self._pending.added)
        with self.lock, UndoStack() as undo:
            ended = [self._followers[flat] for flat in self._pending_followed.removed]
            begun = [
                follower_of(flat, self.page_size, self.map, self.unmap)
                for flat in self._pending_followed.added
            ]
            parts_gone, parts_come = changed(ended, begun)
            gone += parts_gone
            come += parts_come
            if begun:
                self._warn_of_limits(len(come) - len(gone), ended, begun)
            if gone:
                self.unmap(gone)
                undo.push(self.map, gone)
            for bar in self._whole_pages(self._pending_bars.removed):
                self.hide_bar(bar)
                undo.push(self.show_bar, bar)
            if come:
                self.map(come)
                undo.push(self.unmap, come)
            unable = {}
            for bar in self._whole_pages(self._pending_bars.added):
                unable[bar] = self.show_bar(bar)
                undo.push(self.hide_bar, bar)
            for mapping in (*self._pending.removed, *self._pending_bars.removed):
                for part in self._left_out(mapping):
                    del self.skipped[part]
            for mapping in (*self._pending.added, *self._pending_bars.added):
                self.skipped |= self._left_out(mapping)
            self._tell_who_cannot_show(unable)
            self._follow_others(ended, begun)

    def _tell_who_cannot_show(self, unable: Mapping[DmaMapping, Sequence[Container]]) -> None:
        for bar, containers in unable.items():
            labels = tuple(container.label for container in containers)
            if labels:
                self.log.warn_of(
                    "p2p.unavailable",
                    f"{bar} is memory of a device: PCI p2p DMA is unsupported in"
                    f" {', '.join(labels)}, whose devices do not reach it",
                    containers=labels,
                )

    def _follow_others(self, ended: Sequence[Follower], begun: Sequence[Follower]) -> None:
        for follower in ended:
            follower.stop()
            del self._followers[follower.flat]
            for part in follower.left_out():
                del self.skipped[part]
        for follower in begun:
            follower.start()
            self._followers[follower.flat] = follower
            self.skipped |= follower.left_out()

    def _warn_of_limits(
        self, more: int, ended: Sequence[Follower], begun: Sequence[Follower]
    ) -> None:
        """Before a round that adds `more` mappings: say where it may lead."""
        more += sum(follower.more for follower in begun) - sum(item.more for item in ended)
        for container in self.containers:
            self._warn_of_limit(container, self.most_mappings + more)

    def _warn_of_limit(self, container: Container, most: int) -> None:
        limit = container.max_mappings
        if limit is not None and most > limit:
            self.log.warn_of(
                "dma.entries_may_run_out",
                f"{container.label}: {most} mappings may be wanted once all blocks of RAM are"
                f" populated, and {limit} are allowed: make the blocks larger, or raise"
                " vfio_iommu_type1.dma_entry_limit",
                container=container.label,
                most=most,
                limit=limit,
            )

    def _whole_pages(self, mappings: Iterable[DmaMapping]) -> list[DmaMapping]:
        return [part for mapping in mappings if (part := self._shrunk(mapping)) is not None]

    def _shrunk(self, mapping: DmaMapping) -> DmaMapping | None:
        """The whole pages inside a mapping: a part of a page cannot be shown to a device."""
        page = self.page_size
        if (mapping.iova - mapping.vaddr) % page:
            return None
        start = -(-mapping.iova // page) * page
        end = (mapping.iova + mapping.size) // page * page
        if start >= end:
            return None
        return mapping.part(start - mapping.iova, end - start)

    def _left_out(self, mapping: DmaMapping) -> dict[tuple[int, int], str]:
        """The parts of a mapping, ``(address, size)``, that no device is shown, with the reason."""
        page = self.page_size
        apart = (mapping.iova - mapping.vaddr) % page
        if apart:
            reason = f"address and memory differ by {apart:#x} within a page of {page:#x}"
            return {(mapping.iova, mapping.size): reason}
        return parts_of_pages(mapping.iova, mapping.size, page)

    def _enter(self, batch: Batch) -> None:
        """Enter what the containers have taken; without any, this is the only check there is."""
        if self.bars:
            for index, mapping in enumerate(batch):
                bar = self.bars.overlapping(mapping.iova, mapping.size)
                if bar is not None:
                    raise _overlap(f"{mapping} overlaps the BAR at {bar}", index)
        try:
            self.mappings.extend(batch)
        except Overlap as overlap:
            raise _overlap(str(overlap), overlap.index) from None

    def _not_mapped(self, batch: Batch) -> DmaNotMappedError:
        index = self.mappings.missing(batch)
        text = f"{batch[index]} is not mapped, or named twice"
        error = DmaNotMappedError(errno.ENOENT, "dma_unmap", "address space", text)
        error.index = index
        return error


def _unmap_from(containers: Sequence[Container], bar: DmaMapping) -> None:
    place = [(bar.iova, bar.size)]
    run_all([partial(container.dma_unmap, place) for container in reversed(containers)])


def _overlap(text: str, index: int) -> DmaOverlapError:
    error = DmaOverlapError(errno.EEXIST, "dma_map", "address space", text)
    error.index = index
    return error
