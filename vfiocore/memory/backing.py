"""The process memory behind a region of RAM."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from attrs import field, frozen

from vfiocore.host import MAP_SHARED, PROT_READ, PROT_WRITE, Host
from vfiocore.memory.buffer import DmaBuffer, address_of

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
    def allocate(cls, host: Host, size: int, *, shared: bool = False) -> Self:
        """New zeroed memory; `shared` makes it a memfd."""
        buffer = DmaBuffer(host, size, shared=shared)
        return cls(buffer.vaddr, buffer.length, buffer.fd, owner=buffer, release=buffer.close)

    @classmethod
    def file(cls, host: Host, fd: int, size: int, offset: int = 0) -> Self:
        """The `size` bytes at `offset` (whole pages) of a memory file; the fd stays the caller's."""
        memory = host.mmap(fd, size, prot=PROT_READ | PROT_WRITE, flags=MAP_SHARED, offset=offset)
        return cls(address_of(memory), size, fd, offset, owner=memory, release=memory.close)

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
