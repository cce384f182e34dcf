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
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    Host,
)

if TYPE_CHECKING:
    import mmap

_WORTH_A_HUGE_PAGE = 2 << 20


def address_of(memory: mmap.mmap | bytearray | memoryview) -> int:
    """Where in this process the writable `memory` begins.

    The address is good for as long as the object neither closes nor resizes: nothing holds it.
    """
    # The ctypes object exports the buffer, and would keep an mmap from closing: it ends here.
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class DmaBuffer:
    """Zeroed memory that devices can reach, at `iova`, once its creator has mapped it.

    Use as a context manager, or `close` it. Of anonymous private memory, which gets transparent
    huge pages and so maps several times as fast; `shared` memory is a memfd, which other
    processes can have too and which iommufd can map by file.

    Attributes:
        size: As asked for, in bytes: what `view`, `read` and `write` can reach.
        length: In whole pages, or a multiple of `align`, in bytes: what is to be mapped.
        vaddr: The address in this process, aligned to a page and to `align`.
        fd: The memfd of shared memory, else None; the buffer closes it.
        fd_offset: Where in the memfd it begins, in bytes.
        release: Called once by `close`, before the memory goes: unmaps it from every device.

    Args:
        host: Where the memory comes from.
        size: In bytes.
        shared: Make it a memfd.
        align: What address and length have to be multiples of, in bytes: a power of two. An IOMMU
            may have larger pages than the host.
        release: See above.

    Raises:
        ValueError: `size` is not positive.
        OSError: ENOMEM or EAGAIN from mmap, EMFILE from memfd_create.
    """

    def __init__(
        self,
        host: Host,
        size: int,
        *,
        shared: bool = False,
        align: int = 1,
        release: Callable[[], None] | None = None,
    ) -> None:
        if size <= 0:
            raise ValueError(f"a buffer of {size} bytes")
        self._host = host
        self.size = size
        step = max(align, host.page_size)
        self.length: int = -(-size // step) * step
        self.release = release
        self.fd: int | None = None
        self._memory = self._map(self.length, shared=shared)
        self.fd_offset: int = -address_of(self._memory) % step
        if self.fd_offset:  # with a step more, a multiple of it is inside, wherever an mmap begins
            self._memory.close()
            self._close_fd()
            self._memory = self._map(self.length + step, shared=shared)
            self.fd_offset = -address_of(self._memory) % step
        self.vaddr: int = address_of(self._memory) + self.fd_offset
        view = memoryview(self._memory)[self.fd_offset : self.fd_offset + size]
        self._view: memoryview | None = view
        self._iova: int | None = None

    def _map(self, room: int, *, shared: bool) -> mmap.mmap:
        prot = PROT_READ | PROT_WRITE
        if not shared:
            memory = self._host.mmap(-1, room, prot=prot, flags=MAP_PRIVATE | MAP_ANONYMOUS)
            _ask_for_huge_pages(memory, room)
            return memory
        self.fd = self._host.memfd("vfiocore-dma", room)
        try:
            return self._host.mmap(self.fd, room, prot=prot, flags=MAP_SHARED)
        except BaseException:
            self._close_fd()
            raise

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


def _ask_for_huge_pages(memory: mmap.mmap, length: int) -> None:
    if MADV_HUGEPAGE is None or length < _WORTH_A_HUGE_PAGE:
        return
    try:
        memory.madvise(MADV_HUGEPAGE)
    except OSError as error:
        # mm/madvise.c: a kernel without CONFIG_TRANSPARENT_HUGEPAGE does not know the advice.
        if error.errno != errno.EINVAL:
            memory.close()
            raise
