"""The simulated devices that come with the simulated host."""

from __future__ import annotations

from vfiocore_sim.devices.ap import ApHost, ApMatrixDevice
from vfiocore_sim.devices.ccw import CcwDiskDevice
from vfiocore_sim.devices.edu import EduDevice
from vfiocore_sim.devices.ivshmem import IvshmemDevice
from vfiocore_sim.devices.nvme import NvmeDevice
from vfiocore_sim.devices.timer import TimerDevice

__all__ = [
    "ApHost",
    "ApMatrixDevice",
    "CcwDiskDevice",
    "EduDevice",
    "IvshmemDevice",
    "NvmeDevice",
    "TimerDevice",
]
