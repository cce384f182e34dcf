"""Eventfds through which the user talks to the kernel: ``drivers/vfio/virqfd.c``."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from vfiocore_sim.vfio.eventfd import EventWatcher


class Lock:
    """The kernel's lock, which tells when the watcher's thread asks for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner = threading.get_ident()
        self.asked = threading.Event()

    def __enter__(self) -> None:
        if threading.get_ident() != self._owner:
            self.asked.set()
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


@pytest.fixture
def lock() -> Lock:
    return Lock()


@pytest.fixture
def watcher(lock: Lock) -> Iterator[EventWatcher]:
    watcher = EventWatcher(lock)
    yield watcher
    with lock:
        watcher.close()


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_a_signal_calls_back(watcher: EventWatcher, lock: Lock, eventfd: int) -> None:
    called = threading.Event()
    with lock:
        watcher.add(eventfd, called.set)
    os.eventfd_write(eventfd, 1)
    assert called.wait(10)


def test_a_hook_that_is_removed_while_its_signal_is_under_way_is_not_called(
    watcher: EventWatcher, lock: Lock, eventfd: int
) -> None:
    calls: list[str] = []
    called = threading.Event()
    other = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    with lock:
        hook = watcher.add(eventfd, lambda: calls.append("removed"))
        watcher.add(other, called.set)
        os.eventfd_write(eventfd, 1)
        assert lock.asked.wait(10)
        watcher.remove(hook)
    os.eventfd_write(other, 1)
    assert called.wait(10)
    os.close(other)
    assert calls == []


def test_closing_gives_back_every_eventfd_that_is_watched(
    lock: Lock, eventfd: int, references: Callable[[int], int]
) -> None:
    watcher = EventWatcher(lock)
    with lock:
        watcher.add(eventfd, lambda: None)
        assert references(eventfd) == 2
        watcher.close()
    assert references(eventfd) == 1


def open_fds() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_a_watcher_that_cannot_start_keeps_nothing_and_can_be_tried_again(
    watcher: EventWatcher, lock: Lock, eventfd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    called = threading.Event()
    before = open_fds()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with lock, pytest.raises(RuntimeError, match="new thread"):
            watcher.add(eventfd, lambda: None)
    assert open_fds() == before
    with lock:
        watcher.add(eventfd, called.set)
    os.eventfd_write(eventfd, 1)
    assert called.wait(10)


def test_a_hook_whose_first_call_fails_is_not_kept(
    watcher: EventWatcher, lock: Lock, eventfd: int, references: Callable[[int], int]
) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    os.eventfd_write(eventfd, 1)
    with lock, pytest.raises(OSError, match="Input/output"):
        watcher.add(eventfd, fail)
    assert references(eventfd) == 1
    with lock:
        watcher.close()
