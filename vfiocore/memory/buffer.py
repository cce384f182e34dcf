"""Memory for DMA."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vfiocore.errors import ClosedError, kernel_error
from vfiocore.host import (
    MADV_HUGEPAGE,
    MAP_ANONYMOUS,
    MAP_HUGE_SHIFT,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    Host,
)
from vfiocore.memory.hugepages import check_pool_size, pool_error
from vfiocore.memory.populate import populate as fill

if TYPE_CHECKING:
    import mmap


def address_of(memory: mmap.mmap | bytearray | memoryview) -> int:
    """Where in this process the writable `memory` begins.

    The address is good for as long as the object neither closes nor resizes: nothing holds it.
    """
    # The ctypes object exports the buffer, and would keep an mmap from closing: it ends here.
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class DmaBuffer:
    """Zeroed memory that devices can reach, at `iova`, once its creator has mapped it.

    Use as a context manager, or `close` it. A memoryview of it is its `view` (the buffer itself
    has the buffer protocol with Python 3.12).

    The memory is chosen so that it maps fast. Private memory as large as a huge page is aligned to
    one and advised to consist of them (MADV_HUGEPAGE); with it a map has a small part of the pages
    to pin. `shared` memory is a memfd, which other processes can have too and which iommufd can
    map by file; it has huge pages where /sys/kernel/mm/transparent_hugepage/shmem_enabled lets it.
    `hugetlb` memory comes from a pool that the machine's owner has set aside. Whichever it is, its
    pages are there before it is mapped.

    Attributes:
        size: As asked for, in bytes: what `view`, `read` and `write` can reach.
        length: In whole pages, or a multiple of `align`, in bytes: what is to be mapped.
        vaddr: The address in this process, aligned to a page and to `align`.
        large_page: The size in bytes of the largest page that it may consist of. An IOMMU uses
            pages as large only at an IOVA that is a multiple of it.
        fd: The memfd of shared memory, else None; the buffer closes it.
        fd_offset: Where in the memfd it begins, in bytes.
        release: Called once by `close`, before the memory goes: unmaps it from every device.

    Args:
        host: Where the memory comes from.
        size: In bytes.
        shared: Make it a memfd.
        align: What address and length have to be multiples of, in bytes: a power of two. An IOMMU
            may have larger pages than the host.
        hugetlb: Take it from the pool of huge pages of this size in bytes; `length` is then a
            multiple of it.
        populate: Let it have its pages from the beginning (Linux 5.14). Without, they come one by
            one, when they are first used, and all at once when it is mapped.
        threads: How many threads populate it; chosen by its length if None.
        release: See above.

    Raises:
        ValueError: `size` is not positive.
        UnsupportedError: EINVAL, the machine has no huge pages of the size `hugetlb`.
        KernelError: ENOMEM, the pool of huge pages is short; the hint says what to do.
        OSError: ENOMEM or EAGAIN from mmap, EMFILE from memfd_create, ENOMEM or EHWPOISON when
            populating.
    """

    def __init__(
        self,
        host: Host,
        size: int,
        *,
        shared: bool = False,
        align: int = 1,
        hugetlb: int | None = None,
        populate: bool = True,
        threads: int | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        if size <= 0:
            raise ValueError(f"a buffer of {size} bytes")
        if hugetlb is not None:
            check_pool_size(host, hugetlb)
        self._host = host
        self._hugetlb = hugetlb
        self.size = size
        self.release = release
        step = max(align, host.page_size)
        unit = max(step, hugetlb or 0)
        self.length: int = -(-size // unit) * unit
        self.large_page: int = self._large_page()
        self.fd: int | None = None
        self.fd_offset: int
        self._memory, self.fd_offset = self._place(step, shared=shared)
        try:
            self._prepare(populate=populate, threads=threads)
        except BaseException:
            self._memory.close()
            self._close_fd()
            raise
        self.vaddr: int = address_of(self._memory) + self.fd_offset
        view = memoryview(self._memory)[self.fd_offset : self.fd_offset + size]
        self._view: memoryview | None = view
        self._iova: int | None = None

    def _large_page(self) -> int:
        if self._hugetlb is not None:
            return self._hugetlb
        huge = self._host.huge_page_size
        return self._host.page_size if huge is None or huge > self.length else huge

    def _place(self, step: int, *, shared: bool) -> tuple[mmap.mmap, int]:
        """Memory, and where in it the buffer begins, in bytes."""
        # The kernel aligns what is from a pool, and files where it has huge pages for them.
        align = step if shared or self._hugetlb is not None else max(step, self.large_page)
        memory = self._map(self.length, shared=shared)
        offset = -address_of(memory) % align
        if not offset:
            return memory, 0
        # With that much more, a multiple of it is inside, wherever an mmap begins.
        memory.close()
        self._close_fd()
        memory = self._map(self.length + align, shared=shared)
        return memory, -address_of(memory) % align

    def _map(self, room: int, *, shared: bool) -> mmap.mmap:
        try:
            return self._map_shared(room) if shared else self._map_private(room)
        except OSError as error:
            if self._hugetlb is None:
                raise
            raise pool_error(self._host, error, self._hugetlb, room) from error

    def _map_private(self, room: int) -> mmap.mmap:
        flags = MAP_PRIVATE | MAP_ANONYMOUS
        if self._hugetlb is not None:
            flags |= MAP_HUGETLB | (self._hugetlb.bit_length() - 1) << MAP_HUGE_SHIFT
        return self._host.mmap(-1, room, prot=PROT_READ | PROT_WRITE, flags=flags)

    def _map_shared(self, room: int) -> mmap.mmap:
        self.fd = self._host.memfd("vfiocore-dma", room, hugetlb=self._hugetlb)
        try:
            return self._host.mmap(self.fd, room, prot=PROT_READ | PROT_WRITE, flags=MAP_SHARED)
        except BaseException:
            self._close_fd()
            raise

    def _prepare(self, *, populate: bool, threads: int | None) -> None:
        if self._hugetlb is None and self.large_page > self._host.page_size:
            _ask_for_huge_pages(self._host, self._memory, self.fd_offset, self.length)
        if populate:
            fill(
                self._host,
                self._memory,
                self.fd_offset,
                self.length,
                step=self.large_page,
                threads=threads,
            )

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._view is None

    @property
    def iova(self) -> int:
        """The address on the device's side.

        Raises:
            ClosedError: The buffer is closed.
            LookupError: It is not mapped for a device.
        """
        self._open_view()
        if self._iova is None:
            raise LookupError("the buffer is not mapped for a device")
        return self._iova

    @iova.setter
    def iova(self, iova: int) -> None:
        self._iova = iova

    @property
    def view(self) -> memoryview:
        """The `size` bytes themselves, writable, format ``B``; numpy and struct take it as it is.

        Memory that is still looked at when the buffer closes stays until the last view is gone;
        devices no longer reach it.

        Raises:
            ClosedError: The buffer is closed.
        """
        return self._open_view()

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes at `offset`.

        Raises:
            ClosedError: The buffer is closed.
            ValueError: The bytes are not all inside.
        """
        view = self._open_view()
        self._check(offset, size)
        return bytes(view[offset : offset + size])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data`, as bytes, at `offset`.

        Raises:
            ClosedError: The buffer is closed.
            ValueError: The bytes do not all fit.
        """
        view = self._open_view()
        source = memoryview(data).cast("B")
        self._check(offset, len(source))
        view[offset : offset + len(source)] = source

    def close(self) -> None:
        """Unmap from the devices, then free; a second time nothing.

        When `release` raises, the buffer stays open and its memory stays: a device may still
        reach it. `close` can be called again.
        """
        if self._view is None:
            return
        if self.release is not None:
            self.release()
            self.release = None
        view, self._view = self._view, None
        try:
            view.release()
            self._memory.close()
        except BufferError:
            pass  # somebody still looks at it; the mmap goes with the last view
        finally:
            del self._memory
            self._close_fd()

    def _close_fd(self) -> None:
        if self.fd is None:
            return
        fd, self.fd = self.fd, None
        try:
            self._host.close(fd)
        except OSError as error:
            raise kernel_error(
                error, "close", "DMA buffer", detail=f"{self.size:#x} bytes"
            ) from error

    def _open_view(self) -> memoryview:
        if self._view is None:
            raise ClosedError("the DMA buffer is closed")
        return self._view

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"{size} bytes at {offset:#x} in a buffer of {self.size:#x}")

    def __len__(self) -> int:
        return self.size

    def __buffer__(self, flags: int, /) -> memoryview:
        return self._open_view()

    def __enter__(self) -> Self:
        self._open_view()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._view is None:
            return f"<DmaBuffer of {self.size:#x} bytes, closed>"
        where = "not mapped" if self._iova is None else f"at iova {self._iova:#x}"
        return f"<DmaBuffer of {self.size:#x} bytes, {where}>"


def _ask_for_huge_pages(host: Host, memory: mmap.mmap, offset: int, length: int) -> None:
    try:
        host.madvise(memory, MADV_HUGEPAGE, offset, length)
    except OSError as error:
        # mm/madvise.c: a kernel without CONFIG_TRANSPARENT_HUGEPAGE does not know the advice.
        if error.errno != errno.EINVAL:
            raise
