"""Eventfds as the kernel holds them: a reference of its own, signalled or watched."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from vfiocore_sim.refusal import fail

Lock: TypeAlias = AbstractContextManager[object]


class EventFd:
    """A reference to an eventfd, kept alive when the user closes the fd (``eventfd_ctx``)."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        """Take a reference, as ``fs/eventfd.c:eventfd_ctx_fdget`` does.

        Raises:
            OSError: EBADF for an fd that is not open; EINVAL for one that is no eventfd.
        """
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            fail(errno.EBADF)
        if target != "anon_inode:[eventfd]":
            fail(errno.EINVAL)
        self.fd: int = os.dup(fd)

    def signal(self) -> None:
        """Add one to the counter; a full counter stays full, as in the kernel."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.fd, 1)

    def consume(self) -> bool:
        """Take the counter back to zero; False when it was zero."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        if not poller.poll(0):
            return False
        # The user may have been faster between the poll and here.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
            return True
        return False

    def close(self) -> None:
        """Give the reference back."""
        os.close(self.fd)


class EventHook:
    """An eventfd that calls back when the user signals it; `EventWatcher.remove` ends it."""

    __slots__ = ("callback", "event")

    def __init__(self, event: EventFd, callback: Callable[[], None]) -> None:
        self.event: EventFd = event
        self.callback: Callable[[], None] = callback


class EventWatcher:
    """Calls back when the user signals an eventfd (``drivers/vfio/virqfd.c``).

    One thread, started with the first hook; callbacks run under `lock`, which the caller of every
    method holds too. The thread is never joined, so that closing under the lock cannot deadlock:
    it finds its hook gone and does nothing.
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._hooks: dict[int, EventHook] = {}
        self._epoll: select.epoll | None = None
        self._stop = -1

    def add(self, fd: int, callback: Callable[[], None]) -> EventHook:
        """Watch `fd`; one that is signalled already calls back at once (``vfio_virqfd_enable``).

        Raises:
            OSError: EBADF, EINVAL as `EventFd`.
        """
        event = EventFd(fd)
        with contextlib.ExitStack() as undo:
            undo.callback(event.close)
            epoll = self._epoll or self._start()
            if event.consume():
                callback()
            epoll.register(event.fd, select.EPOLLIN)
            undo.pop_all()
        hook = EventHook(event, callback)
        self._hooks[event.fd] = hook
        return hook

    def remove(self, hook: EventHook) -> None:
        """Stop watching (``vfio_virqfd_disable``)."""
        del self._hooks[hook.event.fd]
        if self._epoll is not None:
            self._epoll.unregister(hook.event.fd)
        hook.event.close()

    def close(self) -> None:
        """Drop every hook and let the thread end."""
        for hook in list(self._hooks.values()):
            self.remove(hook)
        if self._epoll is None:
            return
        os.eventfd_write(self._stop, 1)
        self._epoll = None

    def _start(self) -> select.epoll:
        with contextlib.ExitStack() as undo:
            epoll = undo.enter_context(select.epoll())
            stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, stop)
            epoll.register(stop, select.EPOLLIN)
            threading.Thread(
                target=self._run, args=(epoll, stop), name="sim-virqfd", daemon=True
            ).start()
            undo.pop_all()
        self._epoll, self._stop = epoll, stop
        return epoll

    def _run(self, epoll: select.epoll, stop: int) -> None:
        while True:
            ready = [fd for fd, _events in epoll.poll()]
            if stop in ready:
                break
            for fd in ready:
                self._fire(epoll, fd)
        epoll.close()
        os.close(stop)

    def _fire(self, epoll: select.epoll, fd: int) -> None:
        with self._lock:
            hook = self._hooks.get(fd)
            # The number may belong to a hook of the next opening by now.
            if epoll is not self._epoll or hook is None or not hook.event.consume():
                return
            hook.callback()
