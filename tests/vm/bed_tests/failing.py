"""Tests for a guest: one passes, one fails, one takes too long."""

from __future__ import annotations

import time


def test_that_passes() -> None:
    pass


def test_that_fails() -> None:
    assert 1 + 1 == 3


def test_that_takes_too_long() -> None:
    time.sleep(1000)
