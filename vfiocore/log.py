"""Events for an application that logs, and warnings for one that does not.

The library never configures structlog, and says nothing until the application did, or gave its
framework a logger. It does not import structlog either: an application that configured it has
imported it.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any, Protocol

from attrs import frozen


class VfioWarning(UserWarning):
    """Something works, but not as one may expect; said once, where it happens."""


class Logger(Protocol):
    """What events are given to: one of structlog's loggers, or anything that has its calls."""

    def info(self, event: str, **facts: Any) -> Any:
        """Something happened."""

    def warning(self, event: str, **facts: Any) -> Any:
        """Something works, but not as one may expect."""


@frozen
class Log:
    """Where the events of one framework go.

    Attributes:
        logger: Its own logger; if None, what the application configured structlog to, if it did.
    """

    logger: Logger | None = None

    def info(self, event: str, **facts: object) -> None:
        """Log a dotted `event` with facts whose keys carry units (``size_bytes``)."""
        logger = self._logger()
        if logger is not None:
            logger.info(event, **facts)

    def warn_of(self, event: str, message: str, **facts: object) -> None:
        """Log `event` as a warning; where nobody logs, warn the Python way."""
        logger = self._logger()
        if logger is None:
            warnings.warn(message, VfioWarning, stacklevel=3)
        else:
            logger.warning(event, message=message, **facts)

    def _logger(self) -> Logger | None:
        if self.logger is not None:
            return self.logger
        structlog = sys.modules.get("structlog")
        if structlog is None or not structlog.is_configured():
            return None
        configured: Logger = structlog.get_logger("vfiocore")
        return configured
