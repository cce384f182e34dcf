"""A kernel that answers nonsense: whatever ioctls and reads are to return is given by the test."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from attrs import define

from vfiocore.access import DeviceAccess
from vfiocore.errors import VfioError
from vfiocore.host import LinuxHost


@define(eq=False)
class Replies(LinuxHost):
    """Writes `reply` over the argument of any ioctl, as much of it as fits.

    Attributes:
        reply: The bytes.
        room: What the first word, which tells how large the struct is, says instead; None leaves
            what `reply` has there.
        asked: How many ioctls there were.
    """

    reply: bytes
    room: Callable[[int], int] | None = None
    asked: int = 0

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        self.asked += 1
        view = memoryview(arg).cast("B")
        size = ctypes.c_uint32.from_buffer(arg)
        given = size.value
        count = min(len(view), len(self.reply))
        view[:count] = self.reply[:count]
        if self.room is not None:
            size.value = self.room(given) & 0xFFFFFFFF
        return 0

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return self.reply[offset : offset + size]


def device(reply: bytes, room: Callable[[int], int] | None = None) -> DeviceAccess:
    return DeviceAccess(host=Replies(reply, room), fd=-1, name="dev", owned=False)


def ends_well(act: Callable[[], object]) -> bool:
    """True if it gives a result, False if a typed error; anything else goes through."""
    try:
        act()
    except VfioError:
        return False
    return True
