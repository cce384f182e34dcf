"""BARs as dma-bufs, for other devices to reach (drivers/vfio/pci/vfio_pci_dmabuf.c)."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FEATURE_GET,
    VFIO_PCI_ROM_REGION_INDEX,
    vfio_device_feature_dma_buf,
    vfio_region_dma_range,
)
from vfiocore_sim.device import DmaBuf
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.base import Feature

if TYPE_CHECKING:
    from vfiocore_sim.device import Store
    from vfiocore_sim.vfio.pci.layout import Bar

_HEAD_SIZE = ctypes.sizeof(vfio_device_feature_dma_buf)
_RANGE_SIZE = ctypes.sizeof(vfio_region_dma_range)
_LARGEST_COPY = 4 << 20  # KMALLOC_MAX_SIZE
_TOP_BIT = 1 << 63
_ADDRESSES = 1 << 64


class DmaBufs:
    """The dma-bufs of one function.

    Args:
        find_bar: The BAR of an index, or None.
        memory_of: What a BAR's bytes are read and written through.
        export: Makes a file of a dma-buf, with these open flags; the fd.
        live: Whether the BARs answer now.
    """

    def __init__(
        self,
        find_bar: Callable[[int], Bar | None],
        memory_of: Callable[[int], Store],
        export: Callable[[DmaBuf, int], int],
        live: Callable[[], bool],
    ) -> None:
        self._find_bar = find_bar
        self._memory_of = memory_of
        self._export = export
        self._live = live
        self._exported: WeakSet[DmaBuf] = WeakSet()

    def feature(self) -> Feature:
        """``vfio_pci_core_feature_dma_buf``."""
        return Feature(VFIO_DEVICE_FEATURE_GET, _HEAD_SIZE, self._get, self._ranges_size)

    def _ranges_size(self, head: bytes) -> int:
        """How many bytes of ranges follow."""
        wanted = vfio_device_feature_dma_buf.from_buffer_copy(head)
        if not wanted.nr_ranges or wanted.flags:
            fail(errno.EINVAL)
        bars = range(VFIO_PCI_ROM_REGION_INDEX)
        if wanted.region_index not in bars or self._find_bar(wanted.region_index) is None:
            fail(errno.ENODEV)
        size = int(wanted.nr_ranges) * _RANGE_SIZE
        if size > _LARGEST_COPY:
            fail(errno.ENOMEM)
        return size

    def _get(self, data: bytes) -> int:
        wanted = vfio_device_feature_dma_buf.from_buffer_copy(data)
        ranges = tuple(struct.iter_unpack("=QQ", data[_HEAD_SIZE:]))
        _check_ranges(ranges)
        bar = self._find_bar(wanted.region_index)
        assert bar is not None  # `_ranges_size` found it
        if bar.io:
            fail(errno.EINVAL)
        _check_inside(ranges, bar.size)
        buffer = DmaBuf(self._memory_of(bar.index), ranges)
        if not self._live():
            buffer.revoke()
        fd = self._export(buffer, wanted.open_flags)
        self._exported.add(buffer)
        return fd

    def revoke(self) -> None:
        """``vfio_pci_dma_buf_move``: nobody reaches a BAR through what was mapped so far."""
        for buffer in self._exported:
            buffer.revoke()

    def restore(self) -> None:
        """``vfio_pci_dma_buf_move``: the dma-bufs can be mapped again."""
        for buffer in self._exported:
            buffer.revoked = False

    def close(self) -> None:
        """``vfio_pci_dma_buf_cleanup``: the files that are left are of no use any more."""
        self.revoke()
        self._exported.clear()


def _check_ranges(ranges: tuple[tuple[int, int], ...]) -> None:
    """``validate_dmabuf_input``."""
    if any(not length or (offset | length) % mmap.PAGESIZE for offset, length in ranges):
        fail(errno.EINVAL)
    if sum(length for _, length in ranges) >= _TOP_BIT:
        fail(errno.EINVAL)


def _check_inside(ranges: tuple[tuple[int, int], ...], size: int) -> None:
    """``vfio_pci_core_fill_phys_vec``, for a BAR that has any address but 0."""
    for offset, length in ranges:
        if offset + length >= _ADDRESSES - mmap.PAGESIZE:
            fail(errno.EOVERFLOW)
        if offset + length > size:
            fail(errno.EINVAL)
