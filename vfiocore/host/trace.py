"""A host around a host: what passes the seam is written down, one JSON object a line."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from vfiocore._errnos import errno_name
from vfiocore.host.protocol import EVENTFD_DEFAULT, FileStat, Host

if TYPE_CHECKING:
    import mmap

    from vfiocore.host.protocol import IoctlArgument

T = TypeVar("T")


class TraceHost:
    """Passes every call on to `inner` and writes it to `sink` after it came back.

    A line has ``seq``, ``ns`` (duration), ``call``, ``args``, and ``result`` or ``errno``.
    Bytes are hex strings. For an ioctl by reference ``arg`` is the buffer before the call and
    ``out`` the buffer after it, if it changed. Accesses through an mmap do not pass the seam.
    """

    def __init__(self, inner: Host, sink: TextIO) -> None:
        self._inner = inner
        self._sink = sink
        self._seq = 0
        self._lock = threading.Lock()  # lines of two threads must not mix

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def page_size(self) -> int:
        return self._inner.page_size

    @property
    def huge_page_size(self) -> int | None:
        return self._inner.huge_page_size

    # -- files -------------------------------------------------------------------------------
    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        return self._traced("open", self._inner.open, path, flags)

    def close(self, fd: int) -> None:
        return self._traced("close", self._inner.close, fd)

    def dup(self, fd: int) -> int:
        return self._traced("dup", self._inner.dup, fd)

    def fstat(self, fd: int) -> FileStat:
        return self._traced("fstat", self._inner.fstat, fd)

    def truncate(self, fd: int, size: int) -> None:
        return self._traced("truncate", self._inner.truncate, fd, size)

    def read(self, fd: int, size: int) -> bytes:
        return self._traced("read", self._inner.read, fd, size)

    def write(self, fd: int, data: bytes) -> int:
        return self._traced("write", self._inner.write, fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return self._traced("pread", self._inner.pread, fd, size, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        return self._traced("pwrite", self._inner.pwrite, fd, data, offset)

    def ioctl(self, fd: int, request: int, arg: IoctlArgument = 0) -> int:
        if isinstance(arg, int):
            return self._traced("ioctl", self._inner.ioctl, fd, request, arg)
        before = bytes(arg)
        record: dict[str, Any] = {}

        def call(fd: int, request: int, _before: bytes) -> int:
            try:
                return self._inner.ioctl(fd, request, arg)
            finally:
                after = bytes(arg)
                if after != before:
                    record["out"] = after.hex()

        return self._traced("ioctl", call, fd, request, before, extra=record)

    # -- memory ------------------------------------------------------------------------------
    def madvise(self, memory: mmap.mmap, advice: int, offset: int, length: int) -> None:
        return self._traced("madvise", self._inner.madvise, memory, advice, offset, length)

    def mmap(self, fd: int, length: int, *, prot: int, flags: int, offset: int = 0) -> mmap.mmap:
        def call(fd: int, length: int, prot: int, flags: int, offset: int) -> mmap.mmap:
            return self._inner.mmap(fd, length, prot=prot, flags=flags, offset=offset)

        return self._traced("mmap", call, fd, length, prot, flags, offset)

    def memfd(self, name: str, size: int, *, hugetlb: int | None = None) -> int:
        def call(name: str, size: int, hugetlb: int | None) -> int:
            return self._inner.memfd(name, size, hugetlb=hugetlb)

        return self._traced("memfd", call, name, size, hugetlb)

    def memlock_limit(self) -> int | None:
        return self._traced("memlock_limit", self._inner.memlock_limit)

    def cpu_count(self) -> int:
        return self._traced("cpu_count", self._inner.cpu_count)

    # -- events ------------------------------------------------------------------------------
    def eventfd(self, initial: int = 0, flags: int = EVENTFD_DEFAULT) -> int:
        return self._traced("eventfd", self._inner.eventfd, initial, flags)

    def poll(
        self, fds: Sequence[tuple[int, int]], timeout: float | None = None
    ) -> list[tuple[int, int]]:
        return self._traced("poll", self._inner.poll, fds, timeout)

    # -- passing fds -------------------------------------------------------------------------
    def send_fds(self, sock: int, data: bytes, fds: Sequence[int]) -> int:
        return self._traced("send_fds", self._inner.send_fds, sock, data, fds)

    def recv_fds(self, sock: int, size: int, max_fds: int) -> tuple[bytes, list[int]]:
        return self._traced("recv_fds", self._inner.recv_fds, sock, size, max_fds)

    # -- sysfs -------------------------------------------------------------------------------
    def listdir(self, path: str) -> list[str]:
        return self._traced("listdir", self._inner.listdir, path)

    def exists(self, path: str) -> bool:
        return self._traced("exists", self._inner.exists, path)

    def readlink(self, path: str) -> str:
        return self._traced("readlink", self._inner.readlink, path)

    def realpath(self, path: str) -> str:
        return self._traced("realpath", self._inner.realpath, path)

    def read_file(self, path: str) -> bytes:
        return self._traced("read_file", self._inner.read_file, path)

    def write_file(self, path: str, data: bytes) -> None:
        return self._traced("write_file", self._inner.write_file, path, data)

    # ----------------------------------------------------------------------------------------
    def _traced(
        self, call: str, function: Callable[..., T], *args: Any, extra: dict[str, Any] | None = None
    ) -> T:
        record: dict[str, Any] = {"call": call, "args": [_plain(value) for value in args]}
        start = time.perf_counter_ns()
        try:
            result = function(*args)
            record["result"] = _plain(result)
        except OSError as error:
            record["errno"] = errno_name(error.errno)
            raise
        else:
            return result
        finally:
            record["ns"] = time.perf_counter_ns() - start
            self._write(record | (extra or {}))

    def _write(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._seq += 1
            self._sink.write(json.dumps({"seq": self._seq} | record) + "\n")


def _plain(value: object) -> object:
    """`value` as JSON can say it."""
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return type(value).__name__
