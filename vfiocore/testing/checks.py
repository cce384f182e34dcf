"""Checks whose failures tell what the contract wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import pytest
from attrs import define

from vfiocore._errnos import errno_name

if TYPE_CHECKING:
    from vfiocore.testing.under_test import Faults

Error = TypeVar("Error", bound=BaseException)


@define
class Refusal(Generic[Error]):
    """What was raised, to be looked at after the ``with`` block."""

    raised: Error | None = None

    @property
    def error(self) -> Error:
        """The exception."""
        assert self.raised is not None, "the block is not over yet"
        return self.raised


@contextmanager
def refused(
    kind: type[Error], what: str, *, errno: int | None = None, index: int | None = None
) -> Iterator[Refusal[Error]]:
    """The block must raise `kind`.

    Args:
        kind: The class, or a base of it.
        what: What the block does, for the message.
        errno: The errno that the exception must have.
        index: The item of the batch that it must name.
    """
    wanted = kind.__name__ if errno is None else f"{kind.__name__} [{errno_name(errno)}]"
    refusal: Refusal[Error] = Refusal()
    try:
        yield refusal
    except kind as error:
        refusal.raised = error
    except Exception as error:
        text = f"{what}: the contract wants {wanted}, this is {type(error).__name__}: {error}"
        raise AssertionError(text) from error
    else:
        raise AssertionError(f"{what}: the contract wants {wanted}, and nothing was raised")
    number = getattr(refusal.error, "errno", None)
    assert errno is None or number == errno, (
        f"{what}: the contract wants errno {errno_name(errno)}, this one has {errno_name(number)}"
    )
    named = getattr(refusal.error, "index", None)
    assert index is None or named == index, (
        f"{what}: item {index} of the batch is at fault, and the error's index says {named}"
        " (vfiocore.container.for_each sets it)"
    )


def nothing_left(leftovers: Callable[[], Sequence[str]], after: str) -> None:
    """Nothing may be open, mapped or pinned."""
    found = list(leftovers())
    assert not found, (
        f"after {after} this is left: {', '.join(found)}; whatever a hook opens it closes, also"
        " when a later step of it fails (vfiocore.undo.UndoStack)"
    )


def needs(fact: object, reason: str) -> None:
    """Skip the test, with the reason, unless `fact`."""
    if not fact:
        pytest.skip(reason)


def needs_faults(faults: Faults | None) -> Faults:
    """The way to make things fail; skip the test without one."""
    if faults is None:
        pytest.skip("BackendUnderTest.faults is None: nothing can be made to fail")
    return faults
