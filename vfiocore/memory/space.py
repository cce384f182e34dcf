"""An address space: a tree of regions, and those who follow its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter

from vfiocore.memory._live import LiveView
from vfiocore.memory._round import Round, restore
from vfiocore.memory.flatview import FlatRange, FlatView
from vfiocore.memory.listener import MemoryListener
from vfiocore.memory.ranges import IOVA_LIMIT
from vfiocore.memory.region import Change, Region


class AddressSpace:
    """What the devices behind it see of memory.

    A change costs as much as what it changes: only the bytes that it concerns are looked at again,
    however many ranges there are besides.

    Attributes:
        name: For messages.
        root: The tree; 2^64 bytes unless one is given. Trees may be shared, also in part by
            aliases: each space that shows a changed region follows.
    """

    def __init__(self, name: str, root: Region | None = None) -> None:
        self.name = name
        self.root: Region = Region(name, IOVA_LIMIT) if root is None else root
        self._live = LiveView(self.root)
        self._dirty: list[tuple[int, int]] = []
        self._listeners: list[MemoryListener] = []
        self._journal: list[Change] = []
        self._depth = 0
        self._telling = False
        self.root.watch(self)

    @property
    def view(self) -> FlatView:
        """What the listeners were told last; O(n) after a change."""
        return self._live.frozen()

    def range_at(self, address: int) -> FlatRange | None:
        """The range of `view` that has the byte at `address`, or None. O(log n)."""
        return self._live.at(address)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Changes of the tree inside take effect together, when the outermost one ends.

        If the body raises, or a listener does when it is told, the tree is what it was before
        the ``with``, no listener keeps anything of it, and the error goes on. Whatever could
        not be restored is in the error's notes.

        Raises:
            RuntimeError: A listener is being told; it must not change what it is told about.
        """
        self.check_changeable()
        mark = len(self._journal)
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self._commit()
        except BaseException as error:
            self._revert(mark, error)
            raise
        finally:
            self._depth -= 1
            if not self._depth:
                self._journal.clear()

    def add_listener(self, listener: MemoryListener) -> None:
        """Tell `listener` all that is there, and from then on every change.

        Raises:
            ValueError: It listens already.
            Exception: What it raised; then it was not added.
        """
        self.check_changeable()
        if self._listens(listener):
            raise ValueError(f"{listener!r} listens to {self.name} already")
        view = self._live.frozen().ranges
        with self._tell():
            Round([listener], added=view, started=_logged(view)).tell()
        self._listeners = sorted([*self._listeners, listener], key=attrgetter("priority"))

    def remove_listener(self, listener: MemoryListener) -> None:
        """Tell `listener` that all is gone, and no more after that.

        Raises:
            ValueError: It does not listen.
            Exception: What it raised; then it listens still.
        """
        self.check_changeable()
        if not self._listens(listener):
            raise ValueError(f"{listener!r} does not listen to {self.name}")
        view = self._live.frozen().ranges
        with self._tell():
            Round([listener], removed=view, stopped=_logged(view)).tell()
        self._listeners = [other for other in self._listeners if other is not listener]

    def sync_log(self) -> None:
        """Have every listener bring the logs of what devices wrote up to date.

        Ranges of RAM whose `logging` is on are synced, as far as listeners were told of them.

        Raises:
            Exception: What a listener raised; ranges after it were not synced.
        """
        self.check_changeable()
        with self._tell():
            for flat in _logged(self._live):
                for listener in self._listeners:
                    listener.log_sync(flat)

    def _listens(self, listener: MemoryListener) -> bool:
        return any(other is listener for other in self._listeners)

    # -- what the tree calls -------------------------------------------------------------------
    def check_changeable(self) -> None:
        """Raise RuntimeError while listeners are being told."""
        if self._telling:
            raise RuntimeError(f"{self.name} changes while its listeners are told of a change")

    def mark(self, low: int, high: int) -> None:
        """Look at these bytes again when the transaction ends."""
        self._dirty.append((low, high))

    def changed(self, change: Change) -> None:
        """Take note of a change of the tree; outside a transaction it is one of its own."""
        with self.transaction():
            self._journal.append(change)

    def refresh(self) -> None:
        """Follow a tree that another space put back."""
        with self.transaction():
            pass

    # -- the end of a transaction --------------------------------------------------------------
    def _commit(self) -> None:
        # A transaction that fails leaves its marks: what they name is looked at once more by the
        # next one, which finds a tree that was put back, or catches up with one that was not.
        change = self._live.look_again(self.root, self._dirty)
        if any(change):
            on = _logged(change.relogged)
            off = [flat for flat in change.relogged if not flat.logging]
            with self._tell():
                Round(
                    self._listeners,
                    removed=change.removed,
                    added=change.added,
                    stopped=_by_address([*_logged(change.removed), *off]),
                    started=_by_address([*_logged(change.added), *on]),
                    unchanged=lambda: self._live.without(change.removed),
                ).tell()
            self._live.apply(change)
        self._dirty.clear()

    @contextmanager
    def _tell(self) -> Iterator[None]:
        self._telling = True
        try:
            yield
        finally:
            self._telling = False

    def _revert(self, mark: int, error: BaseException) -> None:
        others: dict[object, Callable[[], None]] = {}
        while len(self._journal) > mark:
            change = self._journal.pop()
            change.revert()
            others |= {watcher: watcher.refresh for watcher in change.watchers}
        others.pop(self, None)
        for refresh in others.values():
            restore(error, refresh)


def _logged(flats: Iterable[FlatRange]) -> list[FlatRange]:
    return [flat for flat in flats if flat.logging]


def _by_address(flats: Iterable[FlatRange]) -> list[FlatRange]:
    return sorted(flats, key=attrgetter("start"))
