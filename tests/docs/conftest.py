from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documentation's own extension, importable as `_ext`."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
