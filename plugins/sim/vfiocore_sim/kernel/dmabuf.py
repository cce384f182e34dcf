"""dma-bufs: their files, and what an IOAS has of them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore_sim.kernel.files import OpenFile
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    import mmap

    from vfiocore_sim.device import DmaBuf
    from vfiocore_sim.kernel.machine import Machine


class DmaBufFile(OpenFile):
    """The file of a dma-buf that vfio-pci exported (drivers/dma-buf/dma-buf.c)."""

    def __init__(self, machine: Machine, device: str, buffer: DmaBuf) -> None:
        super().__init__(machine)
        self.buffer = buffer
        self._device = device

    def __str__(self) -> str:
        return f"dma-buf of {self._device}"

    def read(self, size: int) -> bytes:
        """Nothing to read."""
        raise refused(errno.EINVAL)

    def write(self, data: bytes) -> int:
        """Nor to write."""
        raise refused(errno.EINVAL)

    def pread(self, size: int, offset: int) -> bytes:
        """Nor anywhere else."""
        raise refused(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:
        """Nor anywhere else."""
        raise refused(errno.ESPIPE)

    def mmap(self, length: int, prot: int, flags: int, offset: int) -> mmap.mmap:
        """``dma_buf_mmap_internal``: vfio-pci's are not mapped into processes."""
        raise refused(errno.EINVAL)


class DmaBufMemory:
    """A dma-buf as IOMMU_IOAS_MAP_FILE maps it, until it is revoked once (``iopt_pages_dmabuf``).

    Raises:
        OSError: ENODEV, it is revoked now; EOPNOTSUPP, it has more than one range; EINVAL, it is
            not that long.
    """

    def __init__(self, file: DmaBufFile, end: int) -> None:
        """``pages.c:iopt_alloc_dmabuf_pages``, of which the first `end` bytes are wanted."""
        buffer = file.buffer
        if end > buffer.size:
            raise refused(errno.EINVAL)
        if buffer.revoked:
            raise refused(errno.ENODEV)
        if len(buffer.ranges) != 1:
            raise refused(errno.EOPNOTSUPP)
        self.revoked: bool = False
        self._file = file
        file.hold()
        buffer.importers.append(self._revoke)

    def _revoke(self) -> None:
        """``pages.c:iopt_revoke_notify``: every page table loses it, and none gets it back."""
        self.revoked = True

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the dma-buf."""
        return self._file.buffer.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Store into it."""
        self._file.buffer.write(address, data)

    def check(self, offset: int, size: int) -> None:
        """Whatever became of it since, it can go into a page table, if only as nothing."""

    def close(self) -> None:
        """Drop the reference to the file."""
        self._file.buffer.importers.remove(self._revoke)
        self._file.drop()
