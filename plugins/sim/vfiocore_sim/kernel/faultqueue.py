"""Where an iommufd tells of page faults (drivers/iommu/iommufd/eventq.c)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from vfiocore.uapi.iommufd import iommu_hwpt_page_response, iommu_hwpt_pgfault
from vfiocore_sim.kernel.files import OpenFile
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.iommufd import Iommufd


class FaultQueue:
    """``struct iommufd_fault``: always empty, as no simulated device asks for pages."""

    def __init__(self) -> None:
        self.open: bool = True


class FaultFile(OpenFile):
    """A stream of faults, and of answers to them."""

    def __init__(self, context: Iommufd, queue: FaultQueue) -> None:
        super().__init__(context.machine)
        context.hold()
        self._context = context
        self._queue = queue

    def __str__(self) -> str:
        return "fault queue"

    def read(self, size: int) -> bytes:
        """``iommufd_fault_fops_read``: never waits."""
        if size % ctypes.sizeof(iommu_hwpt_pgfault):
            raise refused(errno.ESPIPE)
        return b""

    def write(self, data: bytes) -> int:
        """``iommufd_fault_fops_write``: there is nothing to be answered."""
        if len(data) % ctypes.sizeof(iommu_hwpt_page_response):
            raise refused(errno.ESPIPE)
        if data:
            raise refused(errno.EINVAL)
        return 0

    def pread(self, size: int, offset: int) -> bytes:
        """A stream has no offsets."""
        raise refused(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:
        """A stream has no offsets."""
        raise refused(errno.ESPIPE)

    def release(self) -> None:
        """``iommufd_eventq_fops_release``."""
        self._queue.open = False
        self._context.drop()
