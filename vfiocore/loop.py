"""A small event loop for a session: handlers of fds, and calls from other threads.

An embedder with a loop of its own needs none of this: every `Vector` has a ``fileno``.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import define, field

from vfiocore import _eventfd
from vfiocore.errors import ClosedError, KernelError, kernel_error
from vfiocore.host import POLLIN, POLLNVAL
from vfiocore.undo import run_all

if TYPE_CHECKING:
    from vfiocore.host import Host

NAME = "event loop"


@define(eq=False)
class EventLoop:
    """Runs handlers on the thread that calls `run` or `run_once`.

    `remove` an fd before it is closed. One that was closed first is told once, by the next round:
    its handler is taken out, and the round ends with a KernelError (EBADF) that names both. The
    other handlers stay, and go on with the next `run` or `run_once`.

    Attributes:
        host: The host whose fds are waited for.
    """

    host: Host = field(repr=False)
    _handlers: dict[int, Callable[[], object]] = field(factory=dict, init=False, repr=False)
    _calls: deque[Callable[[], object]] = field(factory=deque, init=False, repr=False)
    _running: threading.RLock = field(factory=threading.RLock, init=False, repr=False)
    _stopping: bool = field(default=False, init=False)
    _wake: int | None = field(default=None, init=False)
    _wake_lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    _closed: bool = field(default=False, init=False)

    def add(self, fd: int, handler: Callable[[], object]) -> None:
        """Call `handler` whenever `fd` is readable; it must make it unreadable again."""
        self._check_open()
        self._handlers[fd] = handler
        self._wake_up()

    def remove(self, fd: int) -> None:
        """Stop watching `fd`; no handler of it runs after this returns, unless this is it."""
        with self._running:
            self._handlers.pop(fd, None)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Run `function` on the loop's thread, soon. Safe from any thread."""
        self._check_open()
        self._calls.append(lambda: function(*args))
        self._wake_up()

    def run(self) -> None:
        """Run handlers and calls until `stop` or `close`, or until one of them raises.

        Raises:
            KernelError: as `run_once`.
        """
        self._check_open()
        try:
            while not self._stopping:
                self.run_once()
        finally:
            self._stopping = False

    def run_once(self, timeout: float | None = None) -> None:
        """Wait up to `timeout` seconds for one round of events, and run what is due.

        Raises:
            KernelError: EBADF, an fd was closed before it was removed. What else was due has run.
        """
        wake = self._wake_fd()
        wait = 0 if self._calls else timeout
        not_open = []
        for fd, events in self._poll([wake, *self._handlers], wait):
            if events & POLLNVAL:
                not_open.append(fd)
            else:
                self._dispatch(fd)
        # Only those that are there now: one that calls again must not keep the fds waiting.
        for _ in range(len(self._calls)):
            with self._running:
                self._calls.popleft()()
        for fd in not_open:
            self._give_up(fd)

    def stop(self) -> None:
        """Make `run` return after the current round, or the next one if none is running.

        Safe from any thread.
        """
        self._stopping = True
        self._wake_up()

    @contextmanager
    def drained(self) -> Iterator[None]:
        """A section in which no handler and no call runs; entering waits for the one in flight.

        On the loop's own thread, inside a handler, it is entered at once.
        """
        with self._running:
            yield

    def close(self) -> None:
        """Forget every handler, end a `run` in another thread, close the wake-up fd. Idempotent."""
        self._stopping = True
        self._handlers.clear()
        with self._wake_lock:
            self._closed = True
            wake, self._wake = self._wake, None
            if wake is None:
                return
            # A poll that is under way keeps the file, and returns.
            run_all(
                [
                    lambda: _eventfd.signal(self.host, wake, NAME),
                    lambda: _eventfd.close(self.host, wake, NAME),
                ]
            )

    # ----------------------------------------------------------------------------------------
    def _poll(self, fds: Sequence[int], timeout: float | None) -> list[tuple[int, int]]:
        try:
            return self.host.poll([(fd, POLLIN) for fd in fds], timeout)
        except OSError as error:
            raise kernel_error(error, "poll", NAME) from error

    def _dispatch(self, fd: int) -> None:
        if fd == self._wake:
            _eventfd.take(self.host, fd, NAME)
            return
        with self._running:
            handler = self._handlers.get(fd)  # a handler before this one may have removed it
            if handler is not None:
                handler()

    def _give_up(self, fd: int) -> None:
        """Take out the handler of an fd that is not open: poll would report it for ever."""
        with self._running:
            # It may have been removed since the poll, and its number may be another file's by now.
            if fd not in self._handlers or not self._is_closed(fd):
                return
            handler = self._handlers.pop(fd)
        name = getattr(handler, "__qualname__", repr(handler))
        raise KernelError(
            errno.EBADF,
            "poll",
            NAME,
            f"fd {fd} was closed while {name} handles it",
            "remove an fd from the loop before it is closed",
        )

    def _is_closed(self, fd: int) -> bool:
        return any(events & POLLNVAL for _, events in self._poll([fd], 0))

    def _wake_fd(self) -> int:
        with self._wake_lock:
            return self._made_wake_fd()

    def _wake_up(self) -> None:
        with self._wake_lock:  # so that the number is not another file's by the time of the write
            _eventfd.signal(self.host, self._made_wake_fd(), NAME)

    def _made_wake_fd(self) -> int:
        self._check_open()
        if self._wake is None:
            self._wake = _eventfd.make(self.host, NAME)
        return self._wake

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the event loop is closed")
