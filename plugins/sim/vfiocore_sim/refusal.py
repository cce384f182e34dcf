"""How the simulated kernel says no."""

from __future__ import annotations

import os


def refused(code: int) -> OSError:
    """The OSError of an errno, to be raised."""
    return OSError(code, os.strerror(code))
