"""An address space: a tree of regions, and those who follow its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, Protocol

from vfiocore.memory.flatview import FlatRange, FlatView, difference, flatten
from vfiocore.memory.ranges import IOVA_LIMIT
from vfiocore.memory.region import Change, Region

P = ParamSpec("P")


class MemoryListener(Protocol):
    """Follows an address space. Each round is `begin`, every `region_del`, every `region_add`, `commit`.

    A call that raises has had no effect, and the round is taken back:

    - `region_del` or `region_add` raised: the calls of the round that had succeeded are told
      once more in reverse, an add for each del and a del for each add, and then `commit`.
    - `commit` raised: it has undone the whole round, and is told nothing.
    - Listeners that had finished are told the reverse in a round of its own.

    So one that acts in each call needs no memory of its own, and one that collects and acts in
    `commit` has one place that must be all or nothing.
    """

    def begin(self) -> None:
        """A round begins."""

    def region_del(self, flat: FlatRange) -> None:
        """`flat` goes."""

    def region_add(self, flat: FlatRange) -> None:
        """`flat` comes; nothing that is there overlaps it."""

    def commit(self) -> None:
        """The round is complete."""


class AddressSpace:
    """What the devices behind it see of memory.

    Attributes:
        name: For messages.
        root: The tree; 2^64 bytes unless one is given. Trees may be shared, also in part by
            aliases: each space that shows a changed region follows.
    """

    def __init__(self, name: str, root: Region | None = None) -> None:
        self.name = name
        self.root: Region = Region(name, IOVA_LIMIT) if root is None else root
        self._view = flatten(self.root)
        self._listeners: list[MemoryListener] = []
        self._journal: list[Change] = []
        self._depth = 0
        self._telling = False
        self.root.watch(self)

    @property
    def view(self) -> FlatView:
        """What the listeners were told last."""
        return self._view

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
        with self._tell():
            _round(listener, (), self._view)
        self._listeners.append(listener)

    def remove_listener(self, listener: MemoryListener) -> None:
        """Tell `listener` that all is gone, and no more after that.

        Raises:
            ValueError: It does not listen.
            Exception: What it raised; then it listens still.
        """
        self.check_changeable()
        if not self._listens(listener):
            raise ValueError(f"{listener!r} does not listen to {self.name}")
        with self._tell():
            _round(listener, self._view, ())
        self._listeners = [other for other in self._listeners if other is not listener]

    def _listens(self, listener: MemoryListener) -> bool:
        return any(other is listener for other in self._listeners)

    # -- what the tree calls -------------------------------------------------------------------
    def check_changeable(self) -> None:
        """Raise RuntimeError while listeners are being told."""
        if self._telling:
            raise RuntimeError(f"{self.name} changes while its listeners are told of a change")

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
        view = flatten(self.root)
        removed, added = difference(self._view, view)
        if removed or added:
            with self._tell():
                self._tell_all(removed, added)
        self._view = view

    def _tell_all(self, removed: Iterable[FlatRange], added: Iterable[FlatRange]) -> None:
        finished: list[MemoryListener] = []
        try:
            for listener in self._listeners:
                _round(listener, removed, added)
                finished.append(listener)
        except BaseException as error:
            for listener in reversed(finished):
                _restore(error, _round, listener, added, removed)
            raise

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
            _restore(error, refresh)


def _round(
    listener: MemoryListener, removed: Iterable[FlatRange], added: Iterable[FlatRange]
) -> None:
    """Tell one listener one difference; on failure it is as before, and the error is raised."""
    undo: list[tuple[Callable[[FlatRange], None], FlatRange]] = []
    listener.begin()
    try:
        for flat in removed:
            listener.region_del(flat)
            undo.append((listener.region_add, flat))
        for flat in added:
            listener.region_add(flat)
            undo.append((listener.region_del, flat))
    except BaseException as error:
        for call, flat in reversed(undo):
            _restore(error, call, flat)
        _restore(error, listener.commit)
        raise
    listener.commit()


def _restore(
    error: BaseException, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs
) -> None:
    """One step back after `error`; when that fails too, `error` says so."""
    try:
        step(*args, **kwargs)
    except Exception as also:  # noqa: BLE001 - the first error is the one to raise
        error.add_note(f"and could not be taken back: {type(also).__name__}: {also}")
