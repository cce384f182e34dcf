"""How listeners are told of a change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec

from attrs import define, field

from vfiocore.memory.flatview import FlatRange
from vfiocore.memory.listener import MemoryListener

P = ParamSpec("P")


def _wants_nop(listener: MemoryListener) -> bool:
    """True if it overrides `region_nop`."""
    return type(listener).region_nop is not MemoryListener.region_nop


@define
class _Told:
    """Calls of one kind to one listener: the first `done` of `flats` have succeeded."""

    listener: MemoryListener
    opposite: Callable[[FlatRange], None]
    flats: Sequence[FlatRange]
    done: int = 0


@define(eq=False)
class Round:
    """What listeners are told of one change, and how that is taken back.

    Attributes:
        listeners: By rising priority.
        removed: Ranges that go, by rising address; so in each of these.
        added: Ranges that come.
        stopped: Ranges, of `removed` or not, whose log ends.
        started: Ranges, of `added` or not, whose log begins.
        unchanged: What stays, asked for only if a listener wants to know.
    """

    listeners: Sequence[MemoryListener]
    removed: Sequence[FlatRange] = ()
    added: Sequence[FlatRange] = ()
    stopped: Sequence[FlatRange] = ()
    started: Sequence[FlatRange] = ()
    unchanged: Callable[[], Iterable[FlatRange]] = tuple
    _told: list[_Told] = field(factory=list, init=False)
    _begun: list[MemoryListener] = field(factory=list, init=False)
    _committed: list[MemoryListener] = field(factory=list, init=False)
    _committing: MemoryListener | None = field(default=None, init=False)

    def tell(self) -> None:
        """Tell every listener.

        Raises:
            BaseException: The first error of a listener. All are as before; what could not be
                taken back is in its notes.
        """
        try:
            for listener in self.listeners:
                listener.begin()
                self._begun.append(listener)
            for listener in reversed(self.listeners):
                self._calls(listener, listener.log_stop, listener.log_start, self.stopped)
                self._calls(listener, listener.region_del, listener.region_add, self.removed)
            for listener in self.listeners:
                self._calls(listener, listener.region_add, listener.region_del, self.added)
                self._nops(listener)
                self._calls(listener, listener.log_start, listener.log_stop, self.started)
            for listener in self.listeners:
                self._committing = listener
                listener.commit()
                self._committed.append(listener)
        except BaseException as error:
            self._take_back(error)
            raise

    def _calls(
        self,
        listener: MemoryListener,
        call: Callable[[FlatRange], None],
        opposite: Callable[[FlatRange], None],
        flats: Sequence[FlatRange],
    ) -> None:
        if not flats:
            return
        told = _Told(listener, opposite, flats)
        self._told.append(told)
        for flat in flats:
            call(flat)
            told.done += 1

    def _nops(self, listener: MemoryListener) -> None:
        if _wants_nop(listener):
            for flat in self.unchanged():
                listener.region_nop(flat)

    def _take_back(self, error: BaseException) -> None:
        # By identity, as a listener may compare as it likes.
        apart = {id(self._committing)}  # has undone the round itself
        apart |= {id(each) for each in self._committed if not restore(error, each.begin)}
        for told in reversed(self._told):
            if id(told.listener) not in apart:
                for flat in reversed(told.flats[: told.done]):
                    restore(error, told.opposite, flat)
        for listener in self._begun:
            if id(listener) not in apart:
                restore(error, listener.commit)


def restore(
    error: BaseException, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs
) -> bool:
    """One step back after `error`; when that fails too, `error` says so, and this is False."""
    try:
        step(*args, **kwargs)
    except Exception as also:  # noqa: BLE001 - the first error is the one to raise
        error.add_note(f"and could not be taken back: {type(also).__name__}: {also}")
        return False
    return True
