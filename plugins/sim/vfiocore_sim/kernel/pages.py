"""Pages behind IOAS mappings, shared by copies (drivers/iommu/iommufd/pages.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore_sim.kernel.accounting import Charge
from vfiocore_sim.kernel.dmabuf import DmaBufMemory
from vfiocore_sim.kernel.intervals import Span, union
from vfiocore_sim.kernel.memory import Chunk, FileMemory
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.machine import Machine


class Pages:
    """``struct iopt_pages``: memory that was given to IOAS_MAP once, pinned once for all its users.

    `start` is the virtual address, or the offset in the file.
    """

    def __init__(
        self,
        machine: Machine,
        start: int,
        *,
        writable: bool,
        account: Charge,
        file: FileMemory | DmaBufMemory | None = None,
    ) -> None:
        self._machine = machine
        self.start = start
        self.writable = writable
        self.file = file
        self._account = account
        #: What each holder keeps pinned, as addresses.
        self._held: dict[object, Span] = {}
        self._charged = 0
        self._users = 0

    @property
    def from_file(self) -> bool:
        """True for a memory file: the only kind that can be handed to another process."""
        return isinstance(self.file, FileMemory)

    @property
    def of_device(self) -> bool:
        """True for a dma-buf: there are no pages of memory behind it."""
        return isinstance(self.file, DmaBufMemory)

    @property
    def revoked(self) -> bool:
        """True for a dma-buf that was taken back."""
        return isinstance(self.file, DmaBufMemory) and self.file.revoked

    def hold(self) -> None:
        """One more area refers to the pages."""
        self._users += 1

    def drop(self) -> None:
        """One area less; the last one closes the file."""
        self._users -= 1
        if not self._users and self.file is not None:
            self.file.close()

    def chunk(self, offset: int, size: int) -> Chunk:
        """The bytes at `offset` behind the start."""
        return Chunk(self.file or self._machine.memory, self.start + offset, size)

    def pin(self, holder: object, offset: int, size: int) -> None:
        """``iopt_pages_fill_xarray``: EFAULT for what cannot be pinned, ENOMEM beyond the limit."""
        address = self.start + offset
        self._check(address, size)
        self._held[holder] = self._whole_pages(address, size)
        try:
            self._recount()
        except OSError:
            del self._held[holder]
            raise

    def unpin(self, holder: object) -> None:
        """Give back what `pin` took; nothing happens when it was not pinned."""
        if self._held.pop(holder, None) is not None:
            self._recount()

    def _check(self, address: int, size: int) -> None:
        if self.file is not None:
            self.file.check(address, size)
            return
        memory = self._machine.memory
        memory.check(address, size, write=self.writable)
        if memory.is_registers(address, size):
            raise refused(errno.EFAULT)  # pin_user_pages does not take VM_PFNMAP

    def _whole_pages(self, address: int, size: int) -> Span:
        mask = self._machine.page_size - 1
        return Span(address & ~mask, (address + size - 1) | mask)

    def _recount(self) -> None:
        if self.of_device:
            return
        now = sum(span.last - span.first + 1 for span in union(self._held.values()))
        locked = self._machine.locked
        if now > self._charged:
            locked.pin(now - self._charged, self._account, limited=True)
        else:
            locked.unpin(self._charged - now, self._account)
        self._charged = now
