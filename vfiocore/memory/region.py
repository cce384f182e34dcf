"""Guest memory as a tree of regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import Any, Protocol
from weakref import WeakSet

from attrs import define, field
from attrs.setters import frozen as fixed

from vfiocore.memory._intervals import IntervalIndex
from vfiocore.memory.backing import Backing
from vfiocore.memory.ranges import IOVA_LIMIT


class Watcher(Protocol):
    """What a tree tells of its changes: an `AddressSpace` that shows it."""

    def check_changeable(self) -> None:
        """Raise when the tree must not change now."""

    def mark(self, low: int, high: int) -> None:
        """The bytes from `low` to below `high` of the watched region may show something else now."""

    def changed(self, change: Change) -> None:
        """Take note of a change; when it cannot be followed, revert it and raise."""

    def refresh(self) -> None:
        """Show the tree as it now is, after a change was reverted."""


@define(eq=False)
class Change:
    """One change of a tree, which can be taken back once."""

    _undo: Callable[[], object]
    watchers: tuple[Watcher, ...]
    _reverted: bool = field(default=False, init=False)

    def revert(self) -> None:
        """Put the tree back; nothing when somebody else already did."""
        if not self._reverted:
            self._reverted = True
            self._undo()


@define(eq=False)
class MemoryRegion:
    """A part of an address space. A region sits in one container at most; aliases show it elsewhere.

    State changes only through the methods. A change to a tree that an `AddressSpace` shows takes
    effect when the space's transaction ends, or at once outside of one.

    Attributes:
        name: For messages.
        size: In bytes, up to 2^64.
        readonly: Devices may only read what is here and below.
        enabled: A region that is not enabled is as good as absent, with all below it.
        offset: Where it begins in its container, in bytes.
        priority: Among neighbours that overlap the highest is seen, among equals the one added last.
        container: The region it is in, or None.
    """

    name: str = field(on_setattr=fixed)
    size: int = field(on_setattr=fixed)
    readonly: bool = field(default=False, kw_only=True, on_setattr=fixed)
    enabled: bool = field(default=True, kw_only=True, on_setattr=fixed)
    offset: int = field(default=0, init=False, on_setattr=fixed)
    priority: int = field(default=0, init=False, on_setattr=fixed)
    container: Region | None = field(default=None, init=False, repr=False, on_setattr=fixed)
    _order: int = field(default=0, init=False, repr=False)
    _watchers: tuple[Watcher, ...] = field(default=(), init=False, repr=False)
    _aliases: WeakSet[Alias] | None = field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._check_size(self.size)

    def set_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - the value is the name's object
        """Show or hide the region."""
        self._change("enabled", enabled)

    def set_readonly(self, readonly: bool) -> None:  # noqa: FBT001 - the same
        """Forbid or allow devices to write."""
        self._change("readonly", readonly)

    def resize(self, size: int) -> None:
        """Make it `size` bytes long; its beginning stays.

        Raises:
            ValueError: Less than 0, more than 2^64, or more than the memory behind it.
        """
        self._check_size(size)
        before = self.size
        if before == size:
            return
        end = partial(self._mark, *sorted((before, size)))
        self._apply(lambda: self._replace(size=size), lambda: self._replace(size=before), end)

    def move(self, offset: int) -> None:
        """Put it at another `offset` in its container.

        Raises:
            ValueError: It is in none, or the offset is not in 64 bits.
        """
        if self.container is None:
            raise ValueError(f"{self.name} is in no region, so it cannot be moved in one")
        _check_offset(offset)
        before = self.offset
        if before == offset:
            return
        self._apply(
            lambda: self._replace(offset=offset),
            lambda: self._replace(offset=before),
            self._mark_place,
        )

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of every change in and below this region; for roots of address spaces."""
        self._watchers = (*self._watchers, watcher)

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= IOVA_LIMIT:
            raise ValueError(f"{self.name}: a size of {size:#x} bytes")

    def _change(self, name: str, value: Any) -> None:
        before = getattr(self, name)
        if before != value:
            do, undo = (partial(self._set, **{name: state}) for state in (value, before))
            self._apply(do, undo, lambda: self._mark(0, self.size))

    def _set(self, **state: Any) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def _replace(self, **place: int) -> None:
        """Change what its container finds it by."""
        container = self.container
        if container is None:
            self._set(**place)
            return
        container._forget(self)
        self._set(**place)
        container._enter(self)

    def _apply(
        self, do: Callable[[], object], undo: Callable[[], object], mark: Callable[[], None]
    ) -> None:
        """Change the tree, and tell its watchers; `mark` tells them which bytes that concerns.

        What is seen may differ where the region was as well as where it is, so `mark` is called
        on either side of every change, also of one that is taken back.
        """
        watchers = self._all_watchers()
        for watcher in watchers:
            watcher.check_changeable()

        def marked(step: Callable[[], object]) -> None:
            mark()
            step()
            mark()

        marked(do)
        change = Change(partial(marked, undo), watchers)
        for watcher in watchers:
            watcher.changed(change)

    def _mark_place(self) -> None:
        """Mark the bytes of the container that this region takes."""
        if self.container is not None and self.enabled:
            self.container._mark(self.offset, self.offset + self.size)

    def _mark(self, low: int, high: int) -> None:
        """Mark these bytes of the region wherever a watched tree shows them."""
        todo: list[tuple[MemoryRegion, int, int, tuple[MemoryRegion, ...]]] = []
        todo.append((self, low, high, ()))
        while todo:
            region, low, high, through = todo.pop()
            low, high = max(low, 0), min(high, region.size)
            if low >= high or not region.enabled:
                continue
            for watcher in region._watchers:
                watcher.mark(low, high)
            container, at = region.container, region.offset
            if container is not None:
                todo.append((container, low + at, high + at, through))
            for alias in region._aliases or ():
                if alias not in through:  # else it shows itself, which rendering refuses
                    at = alias.target_offset
                    todo.append((alias, low - at, high - at, (*through, alias)))

    def _all_watchers(self) -> tuple[Watcher, ...]:
        """Every watcher of a tree that shows this region, by containment or alias."""
        found: dict[Watcher, None] = {}
        seen: set[MemoryRegion] = set()
        todo: list[MemoryRegion] = [self]
        while todo:
            region = todo.pop()
            if region in seen:
                continue
            seen.add(region)
            found.update(dict.fromkeys(region._watchers))
            todo.extend(region._aliases or ())
            if region.container is not None:
                todo.append(region.container)
        return tuple(found)


@define(eq=False)
class Region(MemoryRegion):
    """A region that only holds others; where none of them is, there is nothing."""

    _children: IntervalIndex[MemoryRegion] = field(factory=IntervalIndex, init=False, repr=False)
    _added: int = field(default=0, init=False, repr=False)

    @property
    def children(self) -> list[MemoryRegion]:
        """What is directly inside, the uppermost first."""
        return _uppermost_first(self._children)

    def children_between(self, low: int, high: int) -> list[MemoryRegion]:
        """What is directly inside and has a byte from `low` to below `high`, the uppermost first.

        O(log n) and what is found.
        """
        return _uppermost_first(self._children.overlapping(low, high))

    def add(self, child: MemoryRegion, offset: int, *, priority: int = 0) -> None:
        """Put `child` at `offset` bytes.

        Raises:
            ValueError: It is in a region already, this one is inside of it, or the offset is not
                in 64 bits.
        """
        _check_offset(offset)
        if child.container is not None:
            raise ValueError(f"{child.name} is in {child.container.name} already")
        if self._is_inside(child):
            raise ValueError(f"{self.name} is inside {child.name}")
        self._added += 1
        order = self._added
        self._apply(
            lambda: self._put(child, offset, priority, order),
            lambda: self._take_out(child),
            child._mark_place,
        )

    def remove(self, child: MemoryRegion) -> None:
        """Take `child` out.

        Raises:
            ValueError: It is not directly inside.
        """
        if child.container is not self:
            raise ValueError(f"{child.name} is not in {self.name}")
        offset, priority, order = child.offset, child.priority, child._order
        self._apply(
            lambda: self._take_out(child),
            lambda: self._put(child, offset, priority, order),
            child._mark_place,
        )

    def _put(self, child: MemoryRegion, offset: int, priority: int, order: int) -> None:
        child._set(container=self, offset=offset, priority=priority, _order=order)
        self._enter(child)

    def _take_out(self, child: MemoryRegion) -> None:
        self._forget(child)
        child._set(container=None, offset=0, priority=0)

    def _enter(self, child: MemoryRegion) -> None:
        self._children.add(child.offset, child.size, child._order, child)

    def _forget(self, child: MemoryRegion) -> None:
        self._children.remove(child.offset, child.size, child._order)

    def _is_inside(self, other: MemoryRegion) -> bool:
        region: MemoryRegion | None = self
        while region is not None and region is not other:
            region = region.container
        return region is other


@define(eq=False)
class Ram(MemoryRegion):
    """Memory that devices can reach; with `readonly`, a ROM to them.

    Attributes:
        backing: The process memory; at least `size` bytes.
        logging: What devices write here is to be logged (dirty tracking).
    """

    backing: Backing = field(on_setattr=fixed)
    logging: bool = field(default=False, init=False, on_setattr=fixed)

    def set_logging(self, logging: bool) -> None:  # noqa: FBT001 - the value is the name's object
        """Log, or no longer, what devices write; listeners are told `log_start` or `log_stop`."""
        self._change("logging", logging)

    def _check_size(self, size: int) -> None:
        # The zero-argument super() would look for the class before attrs gave it slots.
        MemoryRegion._check_size(self, size)
        if size > self.backing.size:
            raise ValueError(
                f"{self.name}: {size:#x} bytes, but {self.backing.size:#x} of memory behind them"
            )


@define(eq=False)
class RamDevice(Ram):
    """A device's memory, such as the BAR of another device: reached as RAM is, but no pages to pin.

    Listeners tell it by `FlatRange.is_device`.
    """


@define(eq=False)
class Io(MemoryRegion):
    """Registers: they hide what is below them and are never mapped for DMA."""


@define(eq=False)
class Alias(MemoryRegion):
    """A window of `size` bytes onto `target`, from `target_offset` bytes in it."""

    target: MemoryRegion = field(on_setattr=fixed)
    target_offset: int = field(default=0, on_setattr=fixed)

    def __attrs_post_init__(self) -> None:
        MemoryRegion.__attrs_post_init__(self)
        _check_offset(self.target_offset)
        if self.target._aliases is None:
            self.target._aliases = WeakSet()
        self.target._aliases.add(self)


def _uppermost_first(regions: Iterable[MemoryRegion]) -> list[MemoryRegion]:
    return sorted(regions, key=attrgetter("priority", "_order"), reverse=True)


def _check_offset(offset: int) -> None:
    if not 0 <= offset < IOVA_LIMIT:
        raise ValueError(f"an offset of {offset:#x}")
