"""Channel-attached devices of s390 (CCW) through VFIO: the device type ``vfio-ccw`` of vfiocore."""

from __future__ import annotations

__version__ = "0.1.0"
