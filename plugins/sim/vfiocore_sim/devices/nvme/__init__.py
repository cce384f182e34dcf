"""An NVMe-like controller with a RAM disk, far enough for a driver that reads and writes."""

from __future__ import annotations

from vfiocore_sim.devices.nvme.controller import NvmeDevice

__all__ = ["NvmeDevice"]
