"""The process's own memory, as the kernel and a device reach it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from vfiocore_sim.device import Store
from vfiocore_sim.kernel.intervals import U64_MAX, Span
from vfiocore_sim.refusal import refused

_F_GET_SEALS = 1034  # answered by memory files only: memfd, tmpfs, hugetlbfs
_MADV_POPULATE_READ = 22
_MADV_POPULATE_WRITE = 23
_POPULATE_PAGES = 16
_MAPS_LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (r|-)(w|-)", re.MULTILINE)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Chunk(NamedTuple):
    """A contiguous piece of a translated DMA access."""

    store: Store
    address: int
    size: int


class ProcessMemory:
    """User memory, read and written without ever touching a page that may have gone.

    `process_vm_readv` on oneself answers EFAULT where a plain copy would end the interpreter.
    Where a sandbox forbids it, addresses are looked up in /proc/self/maps before the copy.
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        #: Ranges that are device registers (VM_PFNMAP): mapped by `SimHost.mmap`.
        self.registers: dict[int, Span] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.process_vm_readv.restype = ctypes.c_ssize_t
        self._libc.process_vm_writev.restype = ctypes.c_ssize_t

    def read(self, address: int, size: int) -> bytes:
        """Copy out of the process: ``copy_from_user``."""
        buffer = ctypes.create_string_buffer(size)
        if not self._transfer(self._libc.process_vm_readv, buffer, address, size):
            self.check(address, size, write=False)
            ctypes.memmove(buffer, address, size)
        return buffer.raw

    def write(self, address: int, data: bytes) -> None:
        """Copy into the process: ``copy_to_user``."""
        size = len(data)
        buffer = ctypes.create_string_buffer(data, size)
        if not self._transfer(self._libc.process_vm_writev, buffer, address, size):
            self.check(address, size, write=True)
            ctypes.memmove(address, buffer, size)

    def check(self, address: int, size: int, *, write: bool) -> None:
        """Raise EFAULT unless the range can be pinned: mapped, and writable for `write`."""
        if self._populate(address, size, write=write):
            return
        wanted = address
        for span, readable, writable in self._areas():
            if span.last < wanted:
                continue
            if span.first > wanted or not readable or (write and not writable):
                break
            wanted = span.last + 1
            if wanted > address + size - 1:
                return
        raise refused(errno.EFAULT)

    def is_registers(self, address: int, size: int) -> bool:
        """True when the range touches a device region mapped into the process."""
        span = Span(address, address + size - 1)
        return any(span.meets(mapped) for mapped in self.registers.values())

    def _transfer(self, call: Callable[..., int], buffer: object, address: int, size: int) -> bool:
        """True when done, False when this system has no such call."""
        if address + size - 1 > U64_MAX:
            raise refused(errno.EFAULT)
        if not size:
            return True
        local = _IoVec(ctypes.addressof(buffer), size)  # type: ignore[arg-type]
        remote = _IoVec(address, size)
        one = ctypes.c_ulong(1)
        moved = call(
            os.getpid(), ctypes.byref(local), one, ctypes.byref(remote), one, ctypes.c_ulong(0)
        )
        if moved == size:
            return True
        if moved < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
            return False
        raise refused(errno.EFAULT)

    def _populate(self, address: int, size: int, *, write: bool) -> bool:
        """Fault a small range in as get_user_pages does; False leaves the answer to the maps."""
        page = self.page_size
        start = address & ~(page - 1)
        length = address + size - start
        if length > _POPULATE_PAGES * page or start + length > U64_MAX:
            return False
        advice = _MADV_POPULATE_WRITE if write else _MADV_POPULATE_READ
        result = self._libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)
        return bool(result == 0)

    @staticmethod
    def _areas() -> list[tuple[Span, bool, bool]]:
        with open("/proc/self/maps", "rb") as file:
            text = file.read()
        return [
            (Span(int(start, 16), int(end, 16) - 1), r == b"r", w == b"w")
            for start, end, r, w in _MAPS_LINE.findall(text)
        ]


class FileMemory:
    """Pages of a memfd, as IOMMU_IOAS_MAP_FILE maps them; keeps the file open by its own fd."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the file at offset `address`; EFAULT beyond its end."""
        data = os.pread(self._fd, size, address)
        if len(data) != size:
            raise refused(errno.EFAULT)
        return data

    def write(self, address: int, data: bytes) -> None:
        """Store into the file at offset `address`; EFAULT beyond its end."""
        # A write would grow the file; a device cannot.
        if address + len(data) > os.fstat(self._fd).st_size:
            raise refused(errno.EFAULT)
        os.pwrite(self._fd, data, address)

    def check(self, offset: int, size: int) -> None:
        """``memfd_pin_folios``: EINVAL for a file that is not memory, or that ends too early."""
        try:
            fcntl.fcntl(self._fd, _F_GET_SEALS)
        except OSError:
            raise refused(errno.EINVAL) from None
        if offset + size > os.fstat(self._fd).st_size:
            raise refused(errno.EINVAL)

    def close(self) -> None:
        """Drop the reference to the file."""
        os.close(self._fd)


class _PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_byte * 64),
    )


def addresses(mapping: mmap.mmap) -> Span:
    """Where a mapping lies in the process; `ctypes` itself tells it of writable ones only."""
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapping), ctypes.byref(buffer), 0)
    try:
        return Span(buffer.buf, buffer.buf + buffer.len - 1)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
