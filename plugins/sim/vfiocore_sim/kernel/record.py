"""What was asked of a simulated host, and errors to be given in place of an answer."""

from __future__ import annotations

import os
from collections import deque

from attrs import define, frozen


@frozen
class Call:
    """One call that passed the host.

    Attributes:
        operation: What was done to what: ``open /dev/vfio/1``, ``close group 1``, or an ioctl by
            its name, ``VFIO_GROUP_SET_CONTAINER``; ``0x1234`` for one the file does not know.
        target: The file it went to (``group 1``), or the path.
        result: What came back, when it is a number.
        errno: The error, or None.
    """

    operation: str
    target: str
    result: int | None = None
    errno: int | None = None

    @property
    def name(self) -> str:
        """The call in words: ``ioctl VFIO_SET_IOMMU``, ``close group 1``."""
        return f"ioctl {self.operation}" if " " not in self.operation else self.operation


@define
class _Trap:
    operation: str
    errno: int
    after: int
    times: int


class Recorder:
    """The last calls, oldest first, and the traps that tests have laid."""

    def __init__(self, limit: int) -> None:
        self.calls: deque[Call] = deque(maxlen=limit)
        self._traps: list[_Trap] = []

    def trap(self, operation: str, code: int, *, after: int, times: int) -> None:
        """Let `operation` fail with errno `code`, `times` times, after `after` good ones."""
        if times:
            self._traps.append(_Trap(operation, code, after, times))

    def clear_traps(self) -> None:
        """Take every trap away."""
        self._traps.clear()

    def check(self, operation: str) -> None:
        """Raise what a trap for this operation says."""
        for trap in self._traps:
            if trap.operation not in (operation, operation.partition(" ")[0]):
                continue
            if trap.after:
                trap.after -= 1
                continue
            trap.times -= 1
            if not trap.times:
                self._traps.remove(trap)
            raise OSError(trap.errno, os.strerror(trap.errno))
