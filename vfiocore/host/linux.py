"""The machine this process runs on."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import socket
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from vfiocore.host.protocol import EVENTFD_DEFAULT, FileStat

if TYPE_CHECKING:
    from vfiocore.host.protocol import IoctlArgument

_HUGE_PAGE_SIZE = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
_MFD_HUGETLB = 4
_MFD_HUGE_SHIFT = 26
_ONLY_THE_USER = 0o600


class LinuxHost:
    """The running kernel, reached with as little as possible in between.

    Any number of instances are alike. `pread`, `pwrite` and `ioctl` are the
    interpreter's own functions, without a Python frame around them.
    """

    name = "linux"
    page_size: int = mmap.PAGESIZE

    @cached_property
    def huge_page_size(self) -> int | None:
        try:
            return int(self.read_file(_HUGE_PAGE_SIZE))
        except OSError:
            return None

    if TYPE_CHECKING:

        def pread(self, fd: int, size: int, offset: int) -> bytes: ...
        def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int: ...
        def read(self, fd: int, size: int) -> bytes: ...
        def write(self, fd: int, data: bytes) -> int: ...
        def close(self, fd: int) -> None: ...
        def dup(self, fd: int) -> int: ...
        def ioctl(self, fd: int, request: int, arg: IoctlArgument = 0) -> int: ...

    else:
        pread = staticmethod(os.pread)
        pwrite = staticmethod(os.pwrite)
        read = staticmethod(os.read)
        write = staticmethod(os.write)
        close = staticmethod(os.close)
        dup = staticmethod(os.dup)  # PEP 446: not inherited
        ioctl = staticmethod(fcntl.ioctl)

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        return os.open(path, flags | os.O_CLOEXEC, _ONLY_THE_USER)

    def fstat(self, fd: int) -> FileStat:
        stat = os.fstat(fd)
        return FileStat(stat.st_mode, stat.st_rdev, stat.st_size, stat.st_blksize)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def madvise(self, memory: mmap.mmap, advice: int, offset: int, length: int) -> None:
        # Not mmap.madvise, which keeps every other thread of Python waiting.
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory, offset))
        if self._libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def mmap(self, fd: int, length: int, *, prot: int, flags: int, offset: int = 0) -> mmap.mmap:
        return mmap.mmap(fd, length, flags, prot, offset=offset)

    @cached_property
    def _libc(self) -> ctypes.CDLL:
        return ctypes.CDLL(None, use_errno=True)

    def memfd(self, name: str, size: int, *, hugetlb: int | None = None) -> int:
        flags = os.MFD_CLOEXEC
        if hugetlb is not None:
            flags |= _MFD_HUGETLB | (hugetlb.bit_length() - 1) << _MFD_HUGE_SHIFT
        fd = os.memfd_create(name, flags)
        try:
            os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            raise
        return fd

    def memlock_limit(self) -> int | None:
        soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return None if soft == resource.RLIM_INFINITY else soft

    def cpu_count(self) -> int:
        return len(os.sched_getaffinity(0))

    def eventfd(self, initial: int = 0, flags: int = EVENTFD_DEFAULT) -> int:
        return os.eventfd(initial, flags)

    def poll(
        self, fds: Sequence[tuple[int, int]], timeout: float | None = None
    ) -> list[tuple[int, int]]:
        poller = select.poll()
        for fd, events in fds:
            poller.register(fd, events)
        return poller.poll(None if timeout is None else timeout * 1000)

    def send_fds(self, sock: int, data: bytes, fds: Sequence[int]) -> int:
        with _socket(sock) as peer:
            return socket.send_fds(peer, [data], list(fds))

    def recv_fds(self, sock: int, size: int, max_fds: int) -> tuple[bytes, list[int]]:
        # Not socket.recv_fds, which takes flags and (until Python 3.13 at least) drops them.
        fds = array.array("i")
        with _socket(sock) as peer:
            space = socket.CMSG_LEN(max_fds * fds.itemsize)
            data, messages, flags, _ = peer.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if flags & socket.MSG_CTRUNC:
            # The kernel dropped those for which there was no room; half a message is none.
            for fd in fds:
                os.close(fd)
            raise OSError(errno.EMSGSIZE, f"more than {max_fds} fds were sent")
        return data, list(fds)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def realpath(self, path: str) -> str:
        return os.path.realpath(path)

    def read_file(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def write_file(self, path: str, data: bytes) -> None:
        # One write(2): sysfs takes a store whole, and reports the driver's errno from it.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)


def _socket(sock: int) -> socket.socket:
    """A socket object that leaves the caller's fd open."""
    fd = os.dup(sock)
    try:
        return socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
