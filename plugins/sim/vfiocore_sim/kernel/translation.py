"""What an IOMMU domain is to a device: from an iova to bytes, or a reason why not."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from vfiocore_sim.device import DmaFault
from vfiocore_sim.kernel.intervals import U64_MAX
from vfiocore_sim.kernel.memory import Chunk, ProcessMemory
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.node import Node


@frozen
class Fault:
    """A DMA access that did not go through.

    `iova` and `size` (bytes) are the access as the device made it.
    """

    device: str
    iova: int
    size: int
    write: bool
    reason: str


class Untranslatable(Exception):  # noqa: N818 - an answer of the page table
    """An access that the page table does not let through; the text says why."""


@frozen
class Translated:
    """A stretch of IOVAs that a device reaches.

    Attributes:
        iova: Where it begins.
        size: In bytes.
        readable: The device may read there.
        writable: The device may write there.
    """

    iova: int
    size: int
    readable: bool = True
    writable: bool = True


class Translation(Protocol):
    """A page table as a device's accesses meet it."""

    def entries(self) -> Iterable[Translated]:
        """What it lets through, by rising IOVA."""

    def translate(self, iova: int, size: int, *, write: bool) -> list[Chunk]:
        """The bytes behind `iova`; Untranslatable when a page is missing or forbids it."""

    def written(self, iova: int, size: int) -> None:
        """A device wrote there: dirty tracking."""

    def pin(self, node: Node, iova: int, size: int, *, write: bool) -> None:
        """Pin pages for the driver of an emulated device; OSError."""

    def unpin(self, node: Node, iova: int, size: int) -> None:
        """Give them back."""


class PhysicalMemory:
    """What a no-IOMMU device reaches: everything.

    A process cannot learn what a simulated machine's physical addresses would be, so a physical
    address is the process's own virtual address.
    """

    def __init__(self, memory: ProcessMemory) -> None:
        self._memory = memory

    def entries(self) -> Iterable[Translated]:
        """All there is."""
        return (Translated(0, U64_MAX + 1),)

    def translate(self, iova: int, size: int, *, write: bool) -> list[Chunk]:
        """Straight through."""
        return [Chunk(self._memory, iova, size)]

    def written(self, iova: int, size: int) -> None:
        """Nobody tracks."""

    def pin(self, node: Node, iova: int, size: int, *, write: bool) -> None:
        """Only emulated devices pin, and they have no physical DMA."""
        raise refused(errno.EINVAL)

    def unpin(self, node: Node, iova: int, size: int) -> None:
        """Nothing was pinned."""


class Port:
    """The `DmaPort` of one device."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def read(self, iova: int, size: int) -> bytes:
        """Read `size` bytes at `iova` as the device does."""
        with self._node.machine.lock:
            chunks = self._translate(iova, size, write=False)
            try:
                return b"".join(chunk.store.read(chunk.address, chunk.size) for chunk in chunks)
            except OSError:
                raise self._fault(iova, size, "the memory behind it is gone", write=False) from None

    def write(self, iova: int, data: bytes) -> None:
        """Write `data` at `iova` as the device does."""
        with self._node.machine.lock:
            position = 0
            for chunk in self._translate(iova, len(data), write=True):
                piece = bytes(data[position : position + chunk.size])
                try:
                    chunk.store.write(chunk.address, piece)
                except OSError:
                    reason = "the memory behind it is gone"
                    raise self._fault(iova, len(data), reason, write=True) from None
                position += chunk.size
            translation = self._node.translation()
            if translation is not None and data:
                translation.written(iova, len(data))

    def pin(self, iova: int, size: int, *, write: bool) -> None:
        """``vfio_main.c:vfio_pin_pages``."""
        with self._node.machine.lock:
            self._domain().pin(self._node, iova, size, write=write)

    def unpin(self, iova: int, size: int) -> None:
        """``vfio_main.c:vfio_unpin_pages``."""
        with self._node.machine.lock:
            self._domain().unpin(self._node, iova, size)

    def _domain(self) -> Translation:
        translation = self._node.translation()
        if translation is None:
            raise refused(errno.EINVAL)
        return translation

    def _translate(self, iova: int, size: int, *, write: bool) -> list[Chunk]:
        if not size:
            return []
        translation = self._node.translation()
        if translation is None:
            raise self._fault(iova, size, "the device is attached to no domain", write=write)
        try:
            return translation.translate(iova, size, write=write)
        except Untranslatable as refusal:
            raise self._fault(iova, size, str(refusal), write=write) from None

    def _fault(self, iova: int, size: int, reason: str, *, write: bool) -> DmaFault:
        fault = Fault(self._node.name, iova, size, write, reason)
        self._node.machine.add_fault(fault)
        kind = "write" if write else "read"
        return DmaFault(f"{fault.device}: DMA {kind} of {size} bytes at iova {iova:#x}: {reason}")
