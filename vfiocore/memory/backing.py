"""The process memory behind a region of RAM."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self

from attrs import field, frozen

from vfiocore.errors import KernelError, kernel_error
from vfiocore.host import MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, Host
from vfiocore.memory.buffer import DmaBuffer, address_of
from vfiocore.memory.populate import populate as fill

if TYPE_CHECKING:
    import mmap


@frozen(eq=False)
class Backing:
    """The memory behind a `Ram`.

    Made directly for an embedder's own pointer; it must outlive every address space that shows
    it, which `owner` can see to.

    Attributes:
        address: Where it begins in this process.
        size: In bytes.
        fd: A memory file with the same memory, so that it can be mapped by file, else None.
        fd_offset: Where in the file it begins, in bytes.
        owner: Whatever has to stay alive while the address is in use.
    """

    address: int
    size: int
    fd: int | None = None
    fd_offset: int = 0
    owner: object = field(default=None, repr=False)
    _release: Callable[[], None] | None = field(default=None, repr=False, kw_only=True)

    @classmethod
    def of(cls, memory: mmap.mmap | bytearray | memoryview) -> Self:
        """Memory that is there already, any writable buffer.

        While the backing is open an mmap cannot be closed, nor a bytearray resized.
        """
        view = memoryview(memory).cast("B")
        return cls(address_of(view), len(view), owner=view, release=view.release)

    @classmethod
    def allocate(
        cls,
        host: Host,
        size: int,
        *,
        shared: bool = False,
        hugetlb: int | None = None,
        populate: bool = True,
        threads: int | None = None,
    ) -> Self:
        """New zeroed memory, chosen and made as a `DmaBuffer` is.

        Args:
            host: Where the memory comes from.
            size: In bytes.
            shared: Make it a memfd.
            hugetlb: Take it from the pool of huge pages of this size in bytes.
            populate: Let it have its pages from the beginning.
            threads: How many threads populate it; chosen by its size if None.

        Raises:
            UnsupportedError: EINVAL, the machine has no huge pages of the size `hugetlb`.
            KernelError: ENOMEM, the pool of huge pages is short; the hint says what to do.
            OSError: ENOMEM and others, the memory is not to be had.
        """
        buffer = DmaBuffer(
            host, size, shared=shared, hugetlb=hugetlb, populate=populate, threads=threads
        )
        return cls(
            buffer.vaddr,
            buffer.length,
            buffer.fd,
            buffer.fd_offset,
            owner=buffer,
            release=buffer.close,
        )

    @classmethod
    def file(cls, host: Host, fd: int, size: int, offset: int = 0) -> Self:
        """The `size` bytes at `offset` (whole pages) of a memory file; the fd stays the caller's."""
        memory = host.mmap(fd, size, prot=PROT_READ | PROT_WRITE, flags=MAP_SHARED, offset=offset)
        return cls(address_of(memory), size, fd, offset, owner=memory, release=memory.close)

    @classmethod
    def at_path(
        cls,
        host: Host,
        path: str,
        size: int,
        *,
        shared: bool = False,
        populate: bool = True,
        threads: int | None = None,
    ) -> Self:
        """The first `size` bytes of the file at `path`, such as one in /dev/shm or in hugetlbfs.

        A file that does not exist, or is empty, is given the size. In a directory a file without a
        name is made, which goes with the memory. It is mapped by address on every backend.

        Args:
            host: Where the file is.
            path: A file or a directory.
            size: In bytes.
            shared: What is written goes into the file. Without, it stays in this process.
            populate: Let it have its pages from the beginning.
            threads: How many threads populate it; chosen by its size if None.

        Raises:
            KernelError: EINVAL, the file is smaller; ENOMEM, the pool behind hugetlbfs is short;
                EACCES and others from open.
            OSError: ENOMEM and others, the memory is not to be had.
        """
        fd = _open_file(host, path)
        try:
            length = _room_in(host, fd, path, size)
            flags = MAP_SHARED if shared else MAP_PRIVATE
            memory = host.mmap(fd, length, prot=PROT_READ | PROT_WRITE, flags=flags)
        finally:
            host.close(fd)
        try:
            if populate:
                step = host.huge_page_size or host.page_size
                fill(host, memory, 0, length, step=step, threads=threads)
        except BaseException:
            memory.close()
            raise
        return cls(address_of(memory), length, owner=memory, release=memory.close)

    def close(self) -> None:
        """Let go of the memory, which no address space may show any more."""
        if self._release is not None:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_IN_PLACE = MappingProxyType({errno.ENOENT: os.O_CREAT, errno.EISDIR: os.O_TMPFILE})
"""What opens a path, after it could not be opened as a file that is there."""


def _open_file(host: Host, path: str) -> int:
    try:
        return host.open(path, os.O_RDWR)
    except OSError as error:
        flags = _IN_PLACE.get(error.errno or 0)
        if flags is None:
            raise kernel_error(error, "open", path) from error
    try:
        return host.open(path, os.O_RDWR | flags)
    except OSError as error:
        raise kernel_error(error, "open", path) from error


def _room_in(host: Host, fd: int, path: str, size: int) -> int:
    """How many bytes of the file to map, in whole pages of its own kind."""
    file = host.fstat(fd)
    unit = max(file.block_size, host.page_size)
    length = -(-size // unit) * unit
    if not file.size:
        host.truncate(fd, length)
        return length
    if file.size < size:
        raise KernelError(
            errno.EINVAL,
            "open",
            path,
            f"the file has {file.size:#x} bytes, {size:#x} are wanted",
        )
    # What lies behind the end of a file is no memory.
    return min(length, -(-file.size // host.page_size) * host.page_size)
