"""Open files of the simulated kernel, behind real file descriptors."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    import mmap

    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.user import UserArg


class OpenFile:
    """A ``struct file``: counted, released when the last reference goes.

    References are the fds (all dups and received copies together count one), every mapping of
    the file, and whatever other file holds it.
    """

    #: Names of the ioctls of this kind of file, by request number.
    requests: ClassVar[Mapping[int, str]] = {}

    def __init__(self, machine: Machine, *, rdev: int = 0) -> None:
        self.machine = machine
        self.rdev = rdev
        #: Where read and write go (``f_pos``).
        self.position: int = 0
        self._references = 1

    def __str__(self) -> str:
        """How the file is named in records of calls: ``group 7``."""
        raise NotImplementedError

    @property
    def mode(self) -> int:
        """The file type bits of ``st_mode``; an anonymous inode has none."""
        return stat.S_IFCHR if self.rdev else 0

    def hold(self) -> None:
        """Take a reference: ``get_file``."""
        self._references += 1

    def drop(self) -> None:
        """Give a reference back: ``fput``."""
        self._references -= 1
        if not self._references:
            self.release()

    @property
    def released(self) -> bool:
        """True when nothing refers to the file any more."""
        return not self._references

    def release(self) -> None:
        """The last reference is gone: ``file_operations.release``."""

    def ioctl(self, request: int, arg: UserArg) -> int:
        """Answer an ioctl."""
        raise refused(errno.ENOTTY)

    def read(self, size: int) -> bytes:
        """Answer a read at the file's own position."""
        data = self.pread(size, self.position)
        self.position += len(data)
        return data

    def write(self, data: bytes) -> int:
        """Answer a write at the file's own position."""
        count = self.pwrite(data, self.position)
        self.position += count
        return count

    def pread(self, size: int, offset: int) -> bytes:
        """Answer a read."""
        raise refused(errno.EINVAL)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Answer a write."""
        raise refused(errno.EINVAL)

    def mmap(self, length: int, prot: int, flags: int, offset: int) -> mmap.mmap:
        """Answer an mmap; ENODEV is what the kernel says for a file without the operation."""
        raise refused(errno.ENODEV)


class FileTable:
    """Which fd is which open file.

    A file's fd is the write end of a pipe whose read end stays here: an fd is recognised by its
    inode, so a dup and an fd received from a socket are the same open file, and the kernel of the
    real machine tells when the last copy was closed, whoever closed it, in whichever process.
    """

    def __init__(self) -> None:
        self._by_inode: dict[int, tuple[OpenFile, int]] = {}
        self._new: list[OpenFile] = []

    def install(self, file: OpenFile) -> int:
        """A new close-on-exec fd for `file`."""
        watch, fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._by_inode[os.fstat(fd).st_ino] = (file, watch)
        self._new.append(file)
        return fd

    def new_files(self) -> list[OpenFile]:
        """The files that were installed since this was last asked."""
        new, self._new = self._new, []
        return new

    def find(self, fd: int) -> OpenFile | None:
        """The simulated file behind an fd; None for a real one. EBADF when the fd is closed."""
        if fd < 0:
            raise refused(errno.EBADF)
        entry = self._by_inode.get(os.fstat(fd).st_ino)
        return entry[0] if entry else None

    def reap(self) -> list[OpenFile]:
        """Drop the references of files whose last fd was closed; those files."""
        poller = select.poll()
        inodes = {}
        for inode, (_file, watch) in self._by_inode.items():
            poller.register(watch, 0)
            inodes[watch] = inode
        closed = []
        for watch, _events in poller.poll(0):
            file, _ = self._by_inode.pop(inodes[watch])
            os.close(watch)
            closed.append(file)
        return closed

    def close_all(self) -> None:
        """Close every fd of this process that is a simulated file."""
        watches = {watch for _file, watch in self._by_inode.values()}
        for fd in sorted({int(name) for name in os.listdir("/proc/self/fd")} - watches):
            # The fd that listed the directory is gone by now.
            with contextlib.suppress(OSError):
                if self.find(fd) is not None:
                    os.close(fd)

    def __del__(self) -> None:
        for _file, watch in self._by_inode.values():
            os.close(watch)
