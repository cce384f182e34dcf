"""Which tests can be run: those whose plugins are installed.

In a checkout that is all of them (``make test``). Somebody who has the core's sdist alone, such as
a distribution that builds the core first, runs those of the core.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

IMPORT = re.compile(
    r"^\s*(?:from|import) (?:(vfiocore_\w+)|\.(\w*))(?: import ([\w, ]+))?", re.MULTILINE
)

PLUGINS = ("legacy", "iommufd", "sim", "pci", "platform", "ap", "ccw")

FOLDERS = {"cli": {f"vfiocore_{name}" for name in PLUGINS}}
"""Tests that name plugins in configurations, where no import tells."""

left_out: dict[str, set[str]] = {}


@cache
def plugins_of(path: Path) -> frozenset[str]:
    """The plugins that a test imports, itself or through the modules beside it."""
    if not path.exists():
        return frozenset()
    found: set[str] = set()
    for package, module, names in IMPORT.findall(path.read_text(encoding="utf-8")):
        found.update([package] if package else [])
        beside = [module] if module else re.findall(r"\w+", names)
        for name in beside if not package else []:
            found |= plugins_of(path.with_name(f"{name}.py"))
    return frozenset(found)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what cannot be imported."""
    source = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    if source.suffix != ".py":
        return None
    wanted = plugins_of(source) | FOLDERS.get(source.parent.name, set())
    missing = {name for name in wanted if not importlib.util.find_spec(name)}
    for name in missing:
        left_out.setdefault(name, set()).add(collection_path.name)
    return True if missing else None


def pytest_terminal_summary(terminalreporter: object) -> None:
    """Say what was left out, and why."""
    for name, files in sorted(left_out.items()):
        distribution = name.replace("_", "-")
        terminalreporter.write_line(  # type: ignore[attr-defined]
            f"{distribution} is not installed, so these are left out: {', '.join(sorted(files))}"
        )
