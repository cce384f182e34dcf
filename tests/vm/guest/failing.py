"""A host on which the kernel itself fails: the n-th allocation of a run, wherever that is.

Source: Documentation/fault-injection/fault-injection.rst, ``/proc/thread-self/fail-nth``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vfiocore.host import Host, LinuxHost

from .binding import setting

SWITCH = "/proc/thread-self/fail-nth"
INJECTORS = Path("/sys/kernel/debug")
SETTINGS = {
    "failslab/ignore-gfp-wait": "N",
    "failslab/verbose": "0",  # a stack trace each time takes minutes on the console
    "fail_page_alloc/ignore-gfp-wait": "N",
    "fail_page_alloc/min-order": "0",
    "fail_page_alloc/verbose": "0",
}
"""Allocations that may wait fail as well, and single pages."""

COUNTED = ("open", "dup", "eventfd", "ioctl", "memfd", "mmap", "pread", "pwrite")
"""Not close: it cannot report anything, and frees whatever happens."""


@contextmanager
def allocations_may_fail() -> Iterator[None]:
    """The kernel's injectors set so that every allocation of an armed thread counts."""
    with ExitStack() as stack:
        for name, value in SETTINGS.items():
            stack.enter_context(setting(str(INJECTORS / name), value))
        yield


class FailingHost(LinuxHost):
    """A host that, armed, lets the n-th allocation fail that the kernel makes in calls of ours.

    Attributes:
        struck: The call in which it failed; None as long as it did not.
    """

    def __init__(self, inner: Host) -> None:
        self.struck: str | None = None
        self._left = 0
        self._switch = os.open(SWITCH, os.O_RDWR)
        for name in COUNTED:
            setattr(self, name, self._counted(name, getattr(inner, name)))

    @contextmanager
    def armed(self, nth: int) -> Iterator[None]:
        """A section in which the `nth` allocation fails, and no other."""
        self.struck, self._left = None, nth
        try:
            yield
        finally:
            self._left = 0

    def end(self) -> None:
        """Give back what it holds itself."""
        os.close(self._switch)

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            if not self._left:
                return call(*args, **more)
            os.pwrite(self._switch, b"%d\n" % self._left, 0)
            try:
                return call(*args, **more)
            finally:
                self._left = int(os.pread(self._switch, 16, 0))
                os.pwrite(self._switch, b"0\n", 0)
                if not self._left:
                    self.struck = f"{name}{args[:2]}"

        return counted
