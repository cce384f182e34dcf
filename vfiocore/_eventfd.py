"""Eventfds, with typed errors: what interrupts and event loops are made of."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from vfiocore.errors import kernel_error
from vfiocore.host import EVENTFD_ONE, POLLIN

if TYPE_CHECKING:
    from vfiocore.host import Host

COUNTER_SIZE = 8
"""An eventfd is read 8 bytes at a time: its counter, in native byte order."""


def make(host: Host, subject: str) -> int:
    """A new eventfd; KernelError EMFILE, ENFILE, ENOMEM."""
    try:
        return host.eventfd()
    except OSError as error:
        raise kernel_error(error, "eventfd", subject) from error


def duplicate(host: Host, fd: int, subject: str) -> int:
    """Another fd of the same eventfd; KernelError EMFILE."""
    try:
        return host.dup(fd)
    except OSError as error:
        raise kernel_error(error, "dup", subject) from error


def take(host: Host, fd: int, subject: str) -> int:
    """Its count, which is 0 then. Never waits."""
    try:
        return int.from_bytes(host.read(fd, COUNTER_SIZE), sys.byteorder)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise kernel_error(error, "read", subject) from error


def signal(host: Host, fd: int, subject: str) -> None:
    """Make it readable."""
    try:
        # fs/eventfd.c:eventfd_write: EAGAIN is a counter that is full, so it is readable.
        with suppress(BlockingIOError):
            host.write(fd, EVENTFD_ONE)
    except OSError as error:
        raise kernel_error(error, "write", subject) from error


def poll(host: Host, fds: Sequence[int], timeout: float | None, subject: str) -> list[int]:
    """Those that are readable within `timeout` seconds (None: wait for ever)."""
    try:
        return [fd for fd, _ in host.poll([(fd, POLLIN) for fd in fds], timeout)]
    except OSError as error:
        raise kernel_error(error, "poll", subject) from error


def close(host: Host, fd: int, subject: str) -> None:
    """Close it."""
    try:
        host.close(fd)
    except OSError as error:
        raise kernel_error(error, "close", subject) from error
