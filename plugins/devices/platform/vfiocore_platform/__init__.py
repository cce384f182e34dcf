"""Platform devices behind vfio-platform: the device type ``vfio-platform``."""

from __future__ import annotations

__version__ = "0.1.0"
