"""Memory at addresses that are the same in every process, so that answers can be compared."""

from __future__ import annotations

import ctypes
import mmap
import os

BASE = 0x7000_0000
"""Below 2 GiB: an ioctl takes it as a plain number. Programs and libraries are elsewhere."""

PAGES = 64
READ_ONLY = BASE + PAGES * mmap.PAGESIZE
"""One page that can only be read; after it there is nothing."""

NOTHING = READ_ONLY + mmap.PAGESIZE
"""An address where no memory is."""

_MAP_FIXED_NOREPLACE = 0x100000
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)


class Memory:
    """`PAGES` pages of zeros that can be written, and one that cannot."""

    def __init__(self) -> None:
        self._map(BASE, (PAGES + 1) * mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
        ctypes.memset(READ_ONLY, 0x5A, mmap.PAGESIZE)
        self._call("mprotect", READ_ONLY, mmap.PAGESIZE, mmap.PROT_READ)

    def close(self) -> None:
        """Give it all back."""
        self._call("munmap", BASE, (PAGES + 1) * mmap.PAGESIZE)

    @staticmethod
    def page(number: int) -> int:
        """The address of a page."""
        assert number < PAGES
        return BASE + number * mmap.PAGESIZE

    @staticmethod
    def store(address: int, data: bytes) -> None:
        """Put bytes there."""
        ctypes.memmove(address, data, len(data))

    @staticmethod
    def load(address: int, size: int) -> bytes:
        """The bytes there."""
        return ctypes.string_at(address, size)

    def before_nothing(self, data: bytes) -> int:
        """Put bytes at the end of the last page, so that nothing follows them; their address.

        What follows can be read only as far as they go, and they cannot be written.
        """
        address = NOTHING - len(data)
        self._call("mprotect", READ_ONLY, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
        self.store(address, data)
        self._call("mprotect", READ_ONLY, mmap.PAGESIZE, mmap.PROT_READ)
        return address

    @staticmethod
    def _map(address: int, size: int, protection: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
        found = _libc.mmap(address, size, protection, flags, -1, 0)
        if found != address:
            code = ctypes.get_errno()
            raise OSError(code, f"no memory at {address:#x}: {os.strerror(code)}")

    @staticmethod
    def _call(name: str, address: int, *arguments: int) -> None:
        sizes = (ctypes.c_size_t(arguments[0]), *map(ctypes.c_int, arguments[1:]))
        if getattr(_libc, name)(ctypes.c_void_p(address), *sizes):
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")
