from __future__ import annotations

from functools import partial

import pytest

from vfiocore.undo import UndoStack, run_all, take_back


def failing(error: BaseException) -> None:
    raise error


def test_every_step_runs_even_after_one_failed() -> None:
    done: list[int] = []
    with pytest.raises(ValueError, match="first"):
        run_all(
            [
                lambda: done.append(1),
                lambda: failing(ValueError("first")),
                lambda: done.append(2),
            ]
        )
    assert done == [1, 2]


def test_the_first_error_is_raised_and_has_the_others_as_notes() -> None:
    with pytest.raises(ValueError, match="first") as caught:
        run_all([lambda: failing(ValueError("first")), lambda: failing(OSError(5, "second"))])
    assert caught.value.__notes__ == ["and then: OSError: [Errno 5] second"]


def test_an_interrupt_by_the_user_does_not_stop_the_other_steps() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_all([lambda: failing(KeyboardInterrupt()), lambda: done.append(1)])
    assert done == [1]


def test_steps_are_undone_in_exact_reverse() -> None:
    done: list[int] = []
    stack = UndoStack()
    for number in range(3):
        stack.push(done.append, number)
    stack.run()
    assert done == [2, 1, 0]


def test_undoing_a_second_time_does_nothing() -> None:
    done: list[int] = []
    stack = UndoStack()
    stack.push(done.append, 1)
    stack.run()
    stack.run()
    assert done == [1]


def test_a_body_that_ends_well_is_not_undone() -> None:
    done: list[int] = []
    with UndoStack() as stack:
        stack.push(done.append, 1)
    assert done == []
    stack.run()
    assert done == [1]


def test_a_body_that_fails_is_undone_and_its_error_is_raised() -> None:
    done: list[int] = []
    with pytest.raises(KeyError), UndoStack() as stack:  # noqa: PT012 - the body is what is tested
        stack.push(done.append, 1)
        stack.push(done.append, 2)
        raise KeyError
    assert done == [2, 1]


def test_the_bodys_error_is_raised_also_when_undoing_fails() -> None:
    done: list[int] = []
    with pytest.raises(KeyError) as caught, UndoStack() as stack:  # noqa: PT012 - the same
        stack.push(done.append, 1)
        stack.push(failing, ValueError("stuck"))
        raise KeyError
    assert done == [1]
    assert caught.value.__notes__ == ["while undoing: ValueError: stuck"]


def test_every_step_that_cannot_be_taken_back_is_in_the_notes() -> None:
    error = KeyError("first")
    take_back([partial(failing, ValueError("stuck")), partial(failing, OSError("gone"))], error)
    assert error.__notes__ == ["while undoing: ValueError: stuck", "and then: OSError: gone"]
