"""Reach devices through Linux VFIO from Python.

Configuration in QEMU's words is wired into live devices through plugins: backends for VFIO's
legacy interface (group and container) and for iommufd, frontends for pci, platform, ap and ccw
devices, on the machine itself or on a simulated one.
"""

from vfiocore.config.model import Config, PluginFilter
from vfiocore.framework import Framework, open_session
from vfiocore.hookspecs import API_VERSION, hookimpl
from vfiocore.session import Session

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "Config",
    "Framework",
    "PluginFilter",
    "Session",
    "__version__",
    "hookimpl",
    "open_session",
]
