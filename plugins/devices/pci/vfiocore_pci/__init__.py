"""PCI devices behind vfio-pci and its variant drivers: the device type ``vfio-pci``."""

from __future__ import annotations

__version__ = "0.1.0"
