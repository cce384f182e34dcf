"""Device memory without side effects: RAM that the device and a mapping of the user share."""

from __future__ import annotations

import mmap
import os


class RamArea:
    """A memfd-backed part of a region, from `offset` on, a whole number of pages long.

    Only such areas can be mapped: a store through a mapping cannot run a device program, so
    registers with side effects are reached by read and write alone.
    """

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size: int = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.fd: int = os.memfd_create("vfiocore-sim-ram", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self._memory = mmap.mmap(self.fd, self.size)

    def __contains__(self, offset: int) -> bool:
        return self.offset <= offset < self.offset + self.size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset` from the start of the area."""
        return self._memory[offset : offset + size]

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset` from the start of the area."""
        self._memory[offset : offset + len(data)] = data

    def clear(self) -> None:
        """Zero it, as a reset of the device does."""
        self._memory[:] = bytes(self.size)

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            self._memory.close()
        if hasattr(self, "fd"):
            os.close(self.fd)
