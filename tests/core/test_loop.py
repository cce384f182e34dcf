from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from vfiocore.errors import ClosedError, KernelError
from vfiocore.host import EVENTFD_ONE
from vfiocore.loop import EventLoop

from .scripted import ScriptedHost


@pytest.fixture
def loop(host: ScriptedHost) -> Iterator[EventLoop]:
    loop = EventLoop(host)
    yield loop
    loop.close()


@pytest.fixture
def event(host: ScriptedHost) -> int:
    return host.eventfd()


def running(loop: EventLoop) -> threading.Thread:
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(5)
    return not thread.is_alive()


def test_a_handler_runs_when_its_fd_is_readable(loop: EventLoop, event: int) -> None:
    seen: list[bytes] = []
    loop.add(event, lambda: seen.append(os.read(event, 8)))
    loop.run_once(0)
    assert seen == []
    os.write(event, EVENTFD_ONE)
    loop.run_once(5)
    assert seen == [EVENTFD_ONE]


def test_a_handler_that_was_removed_runs_no_more(loop: EventLoop, event: int) -> None:
    loop.add(event, lambda: pytest.fail("it ran"))
    loop.remove(event)
    os.write(event, EVENTFD_ONE)
    loop.run_once(0)


def test_a_handler_can_remove_the_one_after_it(loop: EventLoop, host: ScriptedHost) -> None:
    first, second = host.eventfd(1), host.eventfd(1)
    seen: list[int] = []

    def handler(own: int, other: int) -> None:
        seen.append(own)
        loop.remove(own)
        loop.remove(other)

    loop.add(first, lambda: handler(first, second))
    loop.add(second, lambda: handler(second, first))
    loop.run_once(0)
    assert len(seen) == 1


def test_a_call_from_another_thread_runs_on_the_loops_thread(loop: EventLoop) -> None:
    where: list[int] = []
    thread = running(loop)
    done = threading.Event()

    def call() -> None:
        where.append(threading.get_ident())
        done.set()

    loop.call(call)
    assert done.wait(5)
    assert where == [thread.ident]
    loop.stop()
    assert ended(thread)


def test_calls_run_in_order_with_their_arguments(loop: EventLoop) -> None:
    seen: list[int] = []
    for number in range(3):
        loop.call(seen.append, number)
    loop.run_once()
    assert seen == [0, 1, 2]


def test_a_call_that_calls_again_does_not_starve_the_fds(loop: EventLoop, event: int) -> None:
    rounds: list[int] = []

    def again() -> None:
        rounds.append(1)
        if len(rounds) < 10_000:
            loop.call(again)

    seen: list[bytes] = []
    loop.add(event, lambda: seen.append(os.read(event, 8)))
    loop.call(again)
    os.write(event, EVENTFD_ONE)
    loop.run_once(0)
    assert seen
    assert len(rounds) == 1


def test_an_error_of_a_call_is_raised_and_the_calls_after_it_run_next(loop: EventLoop) -> None:
    seen: list[int] = []

    def fail() -> None:
        raise KeyError

    loop.call(fail)
    loop.call(seen.append, 1)
    with pytest.raises(KeyError):
        loop.run_once(0)
    loop.run_once(5)
    assert seen == [1]


def test_a_handler_that_is_added_while_the_loop_waits_is_watched(
    loop: EventLoop, event: int
) -> None:
    thread = running(loop)
    time.sleep(0.02)
    done = threading.Event()

    def handler() -> None:
        os.read(event, 8)
        done.set()

    loop.add(event, handler)
    os.write(event, EVENTFD_ONE)
    assert done.wait(5)
    loop.stop()
    assert ended(thread)


def test_stop_before_run_ends_the_next_run(loop: EventLoop) -> None:
    loop.stop()
    assert ended(running(loop))
    thread = running(loop)
    time.sleep(0.02)
    assert thread.is_alive()
    loop.stop()
    assert ended(thread)


def test_a_drained_section_waits_for_the_handler_in_flight(loop: EventLoop) -> None:
    entered, leave = threading.Event(), threading.Event()
    seen: list[str] = []

    def handler() -> None:
        entered.set()
        leave.wait(5)
        seen.append("handler")

    thread = running(loop)
    loop.call(handler)
    assert entered.wait(5)
    threading.Timer(0.05, leave.set).start()
    with loop.drained():
        seen.append("drained")
        loop.call(seen.append, "later")
        time.sleep(0.05)
        assert seen == ["handler", "drained"]
    loop.stop()
    assert ended(thread)


def test_a_drained_section_inside_a_handler_is_entered_at_once(loop: EventLoop) -> None:
    seen: list[int] = []

    def handler() -> None:
        with loop.drained():
            seen.append(1)

    loop.call(handler)
    loop.run_once(5)
    assert seen == [1]


# -- fds that were closed before they were removed -------------------------------------------------
def unexpected() -> None:
    pytest.fail("it ran")


def test_an_fd_that_was_closed_first_is_told_with_its_handler(
    loop: EventLoop, host: ScriptedHost, event: int
) -> None:
    loop.add(event, unexpected)
    host.close(event)
    with pytest.raises(KernelError, match=f"fd {event} was closed .* unexpected") as caught:
        loop.run_once(5)
    assert (caught.value.errno, caught.value.subject) == (errno.EBADF, "event loop")
    assert caught.value.hint == "remove an fd from the loop before it is closed"


def test_a_handler_without_a_name_of_its_own_is_told_in_full(
    loop: EventLoop, host: ScriptedHost, event: int
) -> None:
    loop.add(event, partial(unexpected))
    host.close(event)
    with pytest.raises(KernelError, match=r"functools\.partial\(<function unexpected"):
        loop.run_once(5)


def test_an_fd_that_was_closed_first_is_told_once(
    loop: EventLoop, host: ScriptedHost, event: int
) -> None:
    loop.add(event, unexpected)
    host.close(event)
    with pytest.raises(KernelError):
        loop.run_once(5)
    before = time.monotonic()
    loop.run_once(0.05)
    assert time.monotonic() - before >= 0.04  # it waits again, rather than to come back at once


def test_each_fd_that_was_closed_first_is_told(loop: EventLoop, host: ScriptedHost) -> None:
    events = [host.eventfd(), host.eventfd()]
    for event in events:
        loop.add(event, unexpected)
        host.close(event)
    for event in events:
        with pytest.raises(KernelError, match=f"fd {event} was closed"):
            loop.run_once(5)
    loop.run_once(0)


def test_what_else_is_due_runs_before_a_closed_fd_is_told(
    loop: EventLoop, host: ScriptedHost, event: int
) -> None:
    other, seen = host.eventfd(1), list[str]()
    loop.add(event, unexpected)
    loop.add(other, lambda: seen.append("handler"))
    loop.call(seen.append, "call")
    host.close(event)
    with pytest.raises(KernelError):
        loop.run_once(5)
    assert seen == ["handler", "call"]
    loop.run_once(5)
    assert seen == ["handler", "call", "handler"]


def test_a_closed_fd_ends_run_which_can_be_called_again(
    loop: EventLoop, host: ScriptedHost, event: int
) -> None:
    loop.add(event, unexpected)
    host.close(event)
    with pytest.raises(KernelError):
        loop.run()
    loop.call(loop.stop)
    loop.run()


def test_an_fd_that_was_closed_and_removed_in_the_same_round_is_fine(
    loop: EventLoop, host: ScriptedHost, event: int
) -> None:
    loop.add(event, unexpected)
    loop.call(loop.remove, event)
    host.close(event)
    loop.run_once(5)


def test_a_number_that_is_another_files_by_the_end_of_the_round_is_kept(
    loop: EventLoop, host: ScriptedHost, event: int
) -> None:
    other, seen = host.eventfd(1), list[bytes]()

    def reuse() -> None:
        loop.remove(event)
        os.dup2(other, event, inheritable=False)
        loop.add(event, lambda: seen.append(os.read(event, 8)))

    loop.add(event, unexpected)
    loop.call(reuse)
    host.close(event)
    loop.run_once(5)
    loop.run_once(5)
    os.close(event)
    assert seen == [EVENTFD_ONE]


def test_a_poll_that_fails_is_told(loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    def poll(*_arguments: object) -> list[tuple[int, int]]:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(loop.host, "poll", poll)
    with pytest.raises(KernelError, match=r"event loop: poll failed.*ENOMEM"):
        loop.run_once(0)


# -- the end ---------------------------------------------------------------------------------------
def test_closing_ends_a_loop_that_runs_in_another_thread(
    loop: EventLoop, host: ScriptedHost
) -> None:
    thread = running(loop)
    time.sleep(0.02)
    loop.close()
    assert ended(thread)
    assert host.files == set()


def test_a_loop_that_is_not_used_opens_nothing(loop: EventLoop, host: ScriptedHost) -> None:
    loop.close()
    loop.close()
    assert host.files == set()


def test_a_closed_loop_does_nothing_more(loop: EventLoop, event: int) -> None:
    loop.call(lambda: None)
    loop.close()
    uses: list[Callable[[], object]] = [
        lambda: loop.add(event, lambda: None),
        lambda: loop.call(lambda: None),
        lambda: loop.run_once(0),
        loop.run,
    ]
    for use in uses:
        with pytest.raises(ClosedError):
            use()
