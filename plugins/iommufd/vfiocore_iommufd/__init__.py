"""The iommufd backend of vfiocore: device cdevs bound to ``/dev/iommu`` (Linux 6.6)."""

from __future__ import annotations

__version__ = "0.1.0"

NODE = "/dev/iommu"
