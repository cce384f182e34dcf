"""Guest memory as a tree of regions."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol
from weakref import WeakSet

from attrs import define, field
from attrs.setters import frozen as fixed

from vfiocore.memory.backing import Backing
from vfiocore.memory.ranges import IOVA_LIMIT


class Watcher(Protocol):
    """What a tree tells of its changes: an `AddressSpace` that shows it."""

    def check_changeable(self) -> None:
        """Raise when the tree must not change now."""

    def changed(self, change: Change) -> None:
        """Take note of a change; when it cannot be followed, revert it and raise."""

    def refresh(self) -> None:
        """Show the tree as it now is, after a change was reverted."""


@define(eq=False)
class Change:
    """One change of a tree, which can be taken back once."""

    _undo: Callable[[], None]
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
    _aliases: WeakSet[MemoryRegion] | None = field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._check_size(self.size)

    def set_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - the value is the name's object
        """Show or hide the region."""
        self._change(enabled=enabled)

    def set_readonly(self, readonly: bool) -> None:  # noqa: FBT001 - the same
        """Forbid or allow devices to write."""
        self._change(readonly=readonly)

    def resize(self, size: int) -> None:
        """Make it `size` bytes long; its beginning stays.

        Raises:
            ValueError: Less than 0, more than 2^64, or more than the memory behind it.
        """
        self._check_size(size)
        self._change(size=size)

    def move(self, offset: int) -> None:
        """Put it at another `offset` in its container.

        Raises:
            ValueError: It is in none, or the offset is not in 64 bits.
        """
        if self.container is None:
            raise ValueError(f"{self.name} is in no region, so it cannot be moved in one")
        _check_offset(offset)
        self._change(offset=offset)

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of every change in and below this region; for roots of address spaces."""
        self._watchers = (*self._watchers, watcher)

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= IOVA_LIMIT:
            raise ValueError(f"{self.name}: a size of {size:#x} bytes")

    def _change(self, **state: Any) -> None:
        before = {name: getattr(self, name) for name in state}
        if before != state:
            self._apply(lambda: self._set(**state), lambda: self._set(**before))

    def _set(self, **state: Any) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def _apply(self, do: Callable[[], None], undo: Callable[[], None]) -> None:
        watchers = self._all_watchers()
        for watcher in watchers:
            watcher.check_changeable()
        do()
        change = Change(undo, watchers)
        for watcher in watchers:
            watcher.changed(change)

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

    _children: dict[MemoryRegion, None] = field(factory=dict, init=False, repr=False)
    _added: int = field(default=0, init=False, repr=False)

    @property
    def children(self) -> list[MemoryRegion]:
        """What is directly inside, the uppermost first."""
        return sorted(self._children, key=attrgetter("priority"))[::-1]

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
            lambda: self._put(child, offset, priority, order), lambda: self._take_out(child)
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
            lambda: self._take_out(child), lambda: self._put(child, offset, priority, order)
        )

    def _put(self, child: MemoryRegion, offset: int, priority: int, order: int) -> None:
        child._set(container=self, offset=offset, priority=priority, _order=order)
        last = next(reversed(self._children), None)
        self._children[child] = None
        if last is not None and last._order > order:  # a removal is taken back
            self._children = dict.fromkeys(sorted(self._children, key=attrgetter("_order")))

    def _take_out(self, child: MemoryRegion) -> None:
        del self._children[child]
        child._set(container=None, offset=0, priority=0)

    def _is_inside(self, other: MemoryRegion) -> bool:
        region: MemoryRegion | None = self
        while region is not None and region is not other:
            region = region.container
        return region is other


@define(eq=False)
class Ram(MemoryRegion):
    """Memory that devices can reach.

    Attributes:
        backing: The process memory; at least `size` bytes.
    """

    backing: Backing = field(on_setattr=fixed)

    def _check_size(self, size: int) -> None:
        # The zero-argument super() would look for the class before attrs gave it slots.
        MemoryRegion._check_size(self, size)
        if size > self.backing.size:
            raise ValueError(
                f"{self.name}: {size:#x} bytes, but {self.backing.size:#x} of memory behind them"
            )


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


def _check_offset(offset: int) -> None:
    if not 0 <= offset < IOVA_LIMIT:
        raise ValueError(f"an offset of {offset:#x}")
