from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documentation's own extension, importable as `_ext`."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder on the import path; modules that came from it are forgotten again."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("VFIOCORE_PLUGINS", raising=False)
    yield tmp_path
    for name in set(sys.modules) - before:
        source = getattr(sys.modules[name], "__file__", None) or ""
        if source.startswith(os.fspath(tmp_path)):
            del sys.modules[name]
