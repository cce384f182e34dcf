"""Reach devices through Linux VFIO from Python.

Configuration in QEMU's words is wired into live devices through plugins: backends for VFIO's
legacy interface (group and container) and for iommufd, frontends for pci, platform, ap and ccw
devices, on the machine itself or on a simulated one.

The names of this module are imported when they are first used, so that a plugin that needs one
of them does not pay for all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "API_VERSION": "vfiocore.hookspecs",
    "Config": "vfiocore.config.model",
    "Framework": "vfiocore.framework",
    "PluginFilter": "vfiocore.config.model",
    "Session": "vfiocore.session",
    "hookimpl": "vfiocore.hookspecs",
    "open_session": "vfiocore.framework",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
