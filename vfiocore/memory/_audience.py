"""Telling those who follow something, one after the other, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from attrs import define, field, frozen

from vfiocore.undo import UndoStack

Part = TypeVar("Part")


@frozen(eq=False)
class _Member(Generic[Part]):
    who: object
    come: Callable[[Sequence[Part]], None]
    go: Callable[[Sequence[Part]], None]


@define(eq=False)
class Audience(Generic[Part]):
    """Who follows a region of which parts come and go on their own.

    A call to a member that raises has had no effect. While one is told, nothing else may change.

    Attributes:
        region: Its name, for messages.
    """

    region: str
    _members: list[_Member[Part]] = field(factory=list, init=False)
    _telling: bool = field(default=False, init=False)

    def join(
        self,
        who: object,
        come: Callable[[Sequence[Part]], None],
        go: Callable[[Sequence[Part]], None],
        there: Sequence[Part] = (),
    ) -> None:
        """Tell `who` of what is `there`, and from then on of every change.

        Raises:
            ValueError: It is told already.
            Exception: What it raised; then it has not joined.
        """
        if self._find(who) is not None:
            raise ValueError(f"{who!r} follows {self.region} already")
        with self.telling():
            if there:
                come(there)
        self._members.append(_Member(who, come, go))

    def leave(self, who: object, there: Sequence[Part] = ()) -> None:
        """Tell `who` that what is `there` goes, and no more after that.

        Raises:
            ValueError: It was not told.
            Exception: What it raised; then it is still told.
        """
        member = self._find(who)
        if member is None:
            raise ValueError(f"{who!r} does not follow {self.region}")
        with self.telling():
            if there:
                member.go(there)
        self._members.remove(member)

    def tell_come(self, parts: Sequence[Part]) -> None:
        """Tell everybody, in the order in which they joined; if one raises, take it back."""
        with self.telling(), UndoStack() as undo:
            for member in self._members:
                member.come(parts)
                undo.push(member.go, parts)

    def tell_go(self, parts: Sequence[Part]) -> None:
        """Tell everybody, the last one first; if one raises, take it back."""
        with self.telling(), UndoStack() as undo:
            for member in reversed(self._members):
                member.go(parts)
                undo.push(member.come, parts)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """For as long as somebody is told.

        Raises:
            RuntimeError: Somebody is being told, and wants to change what it is told of.
        """
        if self._telling:
            raise RuntimeError(f"{self.region} changes while its followers are told of a change")
        self._telling = True
        try:
            yield
        finally:
            self._telling = False

    def _find(self, who: object) -> _Member[Part] | None:
        return next((member for member in self._members if member.who is who), None)
