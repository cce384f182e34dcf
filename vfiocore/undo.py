"""Order is the API: what was done is undone in exact reverse, every step, first error raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

from attrs import define, field


def run_all(steps: Iterable[Callable[[], object]]) -> None:
    """Run every step, even after one failed; then raise the first error, the others as notes."""
    first: BaseException | None = None
    for step in steps:
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - raised below, after the other steps
            if first is None:
                first = error
            else:
                first.add_note(f"and then: {type(error).__name__}: {error}")
    if first is not None:
        raise first


def take_back(steps: Iterable[Callable[[], object]], error: BaseException) -> None:
    """Run every step after `error`, which is the one to raise: what fails is added as notes."""
    try:
        run_all(steps)
    except Exception as second:  # noqa: BLE001 - the first error is the one that is raised
        error.add_note(f"while undoing: {type(second).__name__}: {second}")
        for note in getattr(second, "__notes__", ()):
            error.add_note(note)


@define(eq=False)
class UndoStack:
    """Steps to take back, last one first.

    As a context manager it takes everything back if the body fails, and nothing if it ends well.
    The body's error is the one that is raised; errors of undo steps are added to it as notes.
    """

    _steps: list[Callable[[], object]] = field(factory=list)

    def push(self, step: Callable[..., object], *args: Any) -> None:
        """Remember how to undo what was just done."""
        self._steps.append(lambda: step(*args))

    def run(self) -> None:
        """Undo everything, once. Every step is tried; the first error is raised."""
        steps, self._steps = self._steps, []
        run_all(reversed(steps))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        take_back([self.run], error)
