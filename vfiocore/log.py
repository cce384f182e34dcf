"""Events for an application that logs with structlog, and warnings for one that does not.

The library never configures structlog, and says nothing until the application did. It does not
import structlog either: an application that configured it has imported it.
"""

from __future__ import annotations

import sys
import warnings


class VfioWarning(UserWarning):
    """Something works, but not as one may expect; said once, where it happens."""


def info(event: str, **facts: object) -> None:
    """Log a dotted `event` with facts whose keys carry units (``size_bytes``)."""
    _emit("info", event, facts)


def warn(event: str, message: str, **facts: object) -> None:
    """Log `event` as a warning; without a configured structlog, warn the Python way."""
    if not _emit("warning", event, {"message": message, **facts}):
        warnings.warn(message, VfioWarning, stacklevel=3)


def _emit(level: str, event: str, facts: dict[str, object]) -> bool:
    structlog = sys.modules.get("structlog")
    if structlog is None or not structlog.is_configured():
        return False
    getattr(structlog.get_logger("vfiocore"), level)(event, **facts)
    return True
