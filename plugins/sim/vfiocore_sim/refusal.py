"""How the simulated kernel says no."""

from __future__ import annotations

import os
from typing import NoReturn


def refused(code: int) -> OSError:
    """The OSError of an errno, to be raised."""
    return OSError(code, os.strerror(code))


def fail(code: int) -> NoReturn:
    """Raise the OSError of an errno."""
    raise refused(code)
