"""A host in front of the simulated one: its n-th call, whichever it is, fails or ends the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

from vfiocore_sim.host import SimHost

CALLS = frozenset(
    {
        "open", "close", "dup", "fstat", "read", "write", "pread", "pwrite", "ioctl",
        "mmap", "madvise", "memfd", "truncate", "eventfd", "poll", "send_fds", "recv_fds",
        "listdir", "readlink", "read_file", "write_file", "exists", "realpath",
    }
)  # fmt: skip
NEVER_FAIL = ("exists", "realpath")
"""`Host` promises that these two give an answer."""

RECORDED = ("open", "close", "ioctl", "mmap", "write_file")
"""What the simulated host itself names, if the file is one of its own."""

MAKE_FDS = ("open", "dup", "memfd", "eventfd")


class Killed(BaseException):
    """SIGKILL: no handler of the dead process may do anything any more."""


@frozen
class Step:
    """The call number `index` of a run, in words: ``ioctl VFIO_SET_IOMMU``, ``close group 1``."""

    index: int
    method: str
    label: str

    def __str__(self) -> str:
        return f"{self.index}-{self.label}"


@define(eq=False)
class FaultyHost:
    """Counts calls, and lets `strike` have its way before the one numbered `at`.

    Attributes:
        inner: The machine.
        at: The number of the call, from 0; None lets all of them pass.
        strike: Raises. A close that fails has closed all the same, as on Linux.
        steps: The calls so far.
        fds: What was opened and not closed.
        mappings: What was mapped, closed or not.
    """

    inner: SimHost
    at: int | None = None
    strike: Callable[[], None] = lambda: None
    steps: list[Step] = field(factory=list)
    dead: bool = False
    fds: set[int] = field(factory=set)
    mappings: list[Any] = field(factory=list)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return self._counted(name, found) if name in CALLS else found

    def _counted(self, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise Killed
            index = len(self.steps)
            self.steps.append(Step(index, method, _label(method, args)))
            if index == self.at:
                self._strike(method, call, args)
            if self.at is None and method in RECORDED:
                result = self._named(index, method, lambda: call(*args, **kwargs))
            else:
                result = call(*args, **kwargs)
            self._note(method, args, result)
            return result

        return counted

    def _named(self, index: int, method: str, call: Callable[[], Any]) -> Any:
        """Make a call, and give its step the name that the simulated host has for it."""
        known = len(self.inner.calls)
        try:
            return call()
        finally:
            if len(self.inner.calls) > known:
                self.steps[index] = Step(index, method, self.inner.calls[-1].name)

    def _strike(self, method: str, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self.strike()
        except Killed:
            self.dead = True
            raise
        except OSError:
            if method == "close":
                call(*args)
                self.fds.discard(args[0])
            raise

    def _note(self, method: str, args: tuple[Any, ...], result: Any) -> None:
        if method in MAKE_FDS:
            self.fds.add(result)
        elif method == "close":
            self.fds.discard(args[0])
        elif method == "mmap":
            self.mappings.append(result)

    def end_process(self) -> None:
        """What the kernel does when a process is gone: mappings, then files, in its own order."""
        for mapping in self.mappings:
            callback = getattr(mapping, "on_unmap", None)
            if callback is not None:
                mapping.on_unmap = None
                callback()
        self.inner.exit_process()
        for fd in self.fds & _open_fds():
            os.close(fd)


def _open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def _label(method: str, args: tuple[Any, ...]) -> str:
    path = args[0] if args and isinstance(args[0], str) and method != "memfd" else ""
    return f"{method} {path}".strip()
