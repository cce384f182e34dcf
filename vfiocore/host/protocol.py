"""The system-call seam: one narrow protocol for everything that leaves the process.

A host is passed in, never global, never monkeypatched. Every method raises `OSError` with the
kernel's errno and nothing else; what an errno *means* is decided above the seam.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import ctypes

    #: What ``ioctl`` takes by reference: anything writable with the buffer protocol.
    IoctlArgument: TypeAlias = (
        int | bytes | bytearray | memoryview | ctypes.Structure | ctypes.Array[ctypes.c_char]
    )

EVENTFD_DEFAULT = os.EFD_CLOEXEC | os.EFD_NONBLOCK
"""Eventfds are non-blocking: a reader polls first and never hangs on a spurious wake-up."""

EVENTFD_ONE = (1).to_bytes(8, sys.byteorder)
"""What adds one to an eventfd."""

POLLIN = select.POLLIN
POLLNVAL = select.POLLNVAL

# Re-exported so that nothing above the seam imports mmap for its constants.
PROT_READ = mmap.PROT_READ
PROT_WRITE = mmap.PROT_WRITE
MAP_SHARED = mmap.MAP_SHARED
MAP_PRIVATE = mmap.MAP_PRIVATE
MAP_ANONYMOUS = mmap.MAP_ANONYMOUS
# The interpreter names neither the rest of what it passes on nor, in every build, these.
MAP_HUGETLB = 0x40000
MAP_HUGE_SHIFT = 26
MADV_HUGEPAGE = 14
MADV_POPULATE_WRITE = 23


class FileStat(NamedTuple):
    """What the library asks of ``fstat``.

    Attributes:
        mode: The file type bits among others.
        rdev: The device number.
        size: In bytes.
        block_size: What the file system likes to be used by, in bytes: a huge page in hugetlbfs.
    """

    mode: int
    rdev: int
    size: int = 0
    block_size: int = 0


@runtime_checkable
class Host(Protocol):
    """A machine that answers system calls: the real one, a simulated one, or a recording.

    File descriptors are real in every implementation (a simulated device is a memfd), so
    ``poll``, ``mmap`` and an embedder's own event loop work on each.
    """

    @property
    def name(self) -> str:
        """How the host is named in configuration and messages: ``linux``, ``sim``."""

    @property
    def page_size(self) -> int:
        """The size of a page of memory in bytes: 4, 16 or 64 KiB."""

    @property
    def huge_page_size(self) -> int | None:
        """The size of a transparent huge page in bytes; None where the kernel has none."""

    # -- files -------------------------------------------------------------------------------
    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        """Open a node; the fd is close-on-exec. A file that is created is the user's alone."""

    def close(self, fd: int) -> None:
        """Close an fd that this host opened or received."""

    def dup(self, fd: int) -> int:
        """Duplicate an fd, close-on-exec."""

    def fstat(self, fd: int) -> FileStat:
        """What kind of file an fd is, and how large."""

    def truncate(self, fd: int, size: int) -> None:
        """Give a file `size` bytes; new ones are zero."""

    def read(self, fd: int, size: int) -> bytes:
        """Read at the file's own position: eventfds and streams."""

    def write(self, fd: int, data: bytes) -> int:
        """Write at the file's own position; the number of bytes taken."""

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read up to `size` bytes at `offset` (bytes)."""

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at `offset` (bytes); the number of bytes taken."""

    def ioctl(self, fd: int, request: int, arg: IoctlArgument = 0) -> int:
        """Issue one ioctl; a buffer is updated in place; the kernel's return value."""

    # -- memory ------------------------------------------------------------------------------
    def madvise(self, memory: mmap.mmap, advice: int, offset: int, length: int) -> None:
        """Advise on `length` bytes at `offset` (whole pages) of writable memory from `mmap`.

        Other threads go on meanwhile, also with Python.
        """

    def mmap(self, fd: int, length: int, *, prot: int, flags: int, offset: int = 0) -> mmap.mmap:
        """Map `length` bytes of `fd` (or of nothing, with -1 and ``MAP_ANONYMOUS``)."""

    def memfd(self, name: str, size: int, *, hugetlb: int | None = None) -> int:
        """A new memory file of `size` bytes, close-on-exec.

        `hugetlb` takes its pages from the pool of that size, in bytes.
        """

    def memlock_limit(self) -> int | None:
        """The soft RLIMIT_MEMLOCK of this process in bytes; None when it has none."""

    def cpu_count(self) -> int:
        """How many CPUs this process may run on."""

    # -- events ------------------------------------------------------------------------------
    def eventfd(self, initial: int = 0, flags: int = EVENTFD_DEFAULT) -> int:
        """A new eventfd."""

    def poll(
        self, fds: Sequence[tuple[int, int]], timeout: float | None = None
    ) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds (None: for ever) for ``(fd, events)``; those ready."""

    # -- passing fds -------------------------------------------------------------------------
    def send_fds(self, sock: int, data: bytes, fds: Sequence[int]) -> int:
        """Send `data` with fds over the Unix socket `sock` (SCM_RIGHTS)."""

    def recv_fds(self, sock: int, size: int, max_fds: int) -> tuple[bytes, list[int]]:
        """Receive up to `size` bytes and `max_fds` fds, close-on-exec, which the caller then owns.

        EMSGSIZE if more fds were sent; then none of them stays open.
        """

    # -- sysfs -------------------------------------------------------------------------------
    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def exists(self, path: str) -> bool:
        """True when `path` can be reached; never raises."""

    def readlink(self, path: str) -> str:
        """The target of a link as it is stored."""

    def realpath(self, path: str) -> str:
        """`path` with every link resolved; parts that do not exist are kept."""

    def read_file(self, path: str) -> bytes:
        """The whole of an attribute file."""

    def write_file(self, path: str, data: bytes) -> None:
        """Store into an attribute file with one write."""
