"""Cryptographic adapters of s390 (AP) through VFIO: the device type ``vfio-ap`` of vfiocore."""

from __future__ import annotations

__version__ = "0.1.0"
