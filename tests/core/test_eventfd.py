"""Eventfds fail with typed errors that name whose they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from vfiocore import _eventfd
from vfiocore.access import DeviceAccess
from vfiocore.errors import ClosedError, KernelError
from vfiocore.irq import Irq, Vector
from vfiocore.loop import EventLoop

from .scripted import ScriptedHost, irq_info

CLOSED = 999


def failing(number: int) -> Callable[..., Any]:
    def fail(*_arguments: object, **_words: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def told(operation: str, act: Callable[[], object]) -> KernelError:
    with pytest.raises(KernelError) as caught:
        act()
    assert (caught.value.operation, caught.value.subject) == (operation, "line 3")
    return caught.value


@pytest.mark.parametrize(
    ("method", "operation", "act"),
    [
        ("eventfd", "eventfd", lambda host: _eventfd.make(host, "line 3")),
        ("dup", "dup", lambda host: _eventfd.duplicate(host, CLOSED, "line 3")),
        ("read", "read", lambda host: _eventfd.take(host, CLOSED, "line 3")),
        ("write", "write", lambda host: _eventfd.signal(host, CLOSED, "line 3")),
        ("poll", "poll", lambda host: _eventfd.poll(host, [CLOSED], 0, "line 3")),
        ("close", "close", lambda host: _eventfd.close(host, CLOSED, "line 3")),
    ],
)
def test_a_refused_call_is_told_with_its_operation_and_subject(
    host: ScriptedHost,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    operation: str,
    act: Callable[[ScriptedHost], object],
) -> None:
    monkeypatch.setattr(host, method, failing(errno.ENFILE))
    assert told(operation, lambda: act(host)).errno == errno.ENFILE


def test_an_eventfd_counts_signals_until_it_is_taken(host: ScriptedHost) -> None:
    fd = _eventfd.make(host, "line 3")
    assert _eventfd.poll(host, [fd], 0, "line 3") == []
    assert _eventfd.take(host, fd, "line 3") == 0
    _eventfd.signal(host, fd, "line 3")
    _eventfd.signal(host, fd, "line 3")
    assert _eventfd.poll(host, [fd], None, "line 3") == [fd]
    assert _eventfd.take(host, fd, "line 3") == 2


def test_an_eventfd_that_is_full_is_readable_and_that_is_enough(host: ScriptedHost) -> None:
    fd = host.eventfd((1 << 64) - 2 >> 32)
    os.eventfd_write(fd, (1 << 64) - 2 - ((1 << 64) - 2 >> 32))
    _eventfd.signal(host, fd, "line 3")
    assert _eventfd.take(host, fd, "line 3") == (1 << 64) - 2


# -- vectors and loops -----------------------------------------------------------------------------
@pytest.fixture
def vector(access: DeviceAccess, host: ScriptedHost) -> Vector:
    return Vector(Irq(access, irq_info(), "dev MSI"), 3, host.eventfd())


def test_a_vector_tells_what_is_pending_without_taking_it(vector: Vector) -> None:
    before = vector.pending
    os.eventfd_write(vector.fd, 2)
    seen = [vector.pending, vector.pending]
    assert (before, seen, vector.take(), vector.pending) == (False, [True, True], 2, False)


def test_a_vector_whose_fd_is_not_readable_says_so(
    vector: Vector, host: ScriptedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "read", failing(errno.EIO))
    with pytest.raises(KernelError, match=r"dev MSI vector 3: read failed.*EIO"):
        vector.take()


def test_a_vector_that_is_disabled_while_it_is_read_is_closed(
    vector: Vector, host: ScriptedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_fd: int, _size: int) -> bytes:
        vector.closed = True
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(host, "read", read)
    with pytest.raises(ClosedError, match="dev MSI vector 3 is disabled"):
        vector.take()


@pytest.mark.parametrize("method", ["write", "close"])
def test_a_vector_that_cannot_be_closed_well_is_closed(
    vector: Vector, host: ScriptedHost, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    real = getattr(host, method)

    def fail_after(*arguments: Any) -> None:
        real(*arguments)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(host, method, fail_after)
    with pytest.raises(KernelError, match=f"dev MSI vector 3: {method} failed"):
        vector._close()
    assert vector.closed
    assert vector.fd not in host.files
    vector._close()


@pytest.mark.parametrize("method", ["write", "close"])
def test_a_loop_that_cannot_be_closed_well_is_closed(
    host: ScriptedHost, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    loop, before = EventLoop(host), set(host.files)
    loop.call(print)
    real = getattr(host, method)

    def fail_after(*arguments: Any) -> None:
        real(*arguments)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(host, method, fail_after)
    with pytest.raises(KernelError, match=f"event loop: {method} failed"):
        loop.close()
    assert host.files == before
    with pytest.raises(ClosedError):
        loop.call(print)
