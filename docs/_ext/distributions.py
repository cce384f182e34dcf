"""What each distribution of the repository has and needs, read from the project files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _ext.tables import code, table

ROOT = Path(__file__).parents[2]

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<extras>\[[\w,]+\])?(?P<range>.*)")


def projects() -> list[Mapping[str, Any]]:
    """The project files of the workspace, the core's first."""
    core = _read(ROOT)
    patterns = core["tool"]["uv"]["workspace"]["members"]
    folders = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return [core, *(_read(path) for path in folders if (path / "pyproject.toml").exists())]


def distributions() -> str:
    """Every distribution, with what it needs to run."""
    columns = ("distribution", "brings", "imports as", "entry point", "needs")
    return table(columns, map(_row, projects()))


def dependencies() -> str:
    """Every dependency from elsewhere, with its range, and what it is for."""
    return table(("package", "range", "for"), sorted(_needs()))


# --------------------------------------------------------------------------------------------------
def _read(folder: Path) -> Mapping[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def _row(project: Mapping[str, Any]) -> Sequence[str]:
    facts = project["project"]
    points = facts.get("entry-points", {}).get("vfiocore", {})
    (package,) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return (
        code(facts["name"]),
        facts["description"],
        code(package),
        ", ".join(code(f"{name} = {value}") for name, value in points.items()),
        ", ".join(map(code, facts["dependencies"])),
    )


def _needs() -> Iterator[Sequence[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for project in projects():
        facts, groups = project["project"], project.get("dependency-groups", {})
        name = facts["name"]
        uses = {"building": project["build-system"]["requires"], f"`{name}`": facts["dependencies"]}
        for extra, wanted in facts.get("optional-dependencies", {}).items():
            uses[f"`{name}[{extra}]`"] = wanted
        for group, wanted in groups.items():
            uses[f"group {group}"] = [item for item in wanted if isinstance(item, str)]
        for use, wanted in uses.items():
            for text in wanted:
                requirement = _REQUIREMENT.fullmatch(text)
                assert requirement is not None, text
                if not requirement["name"].startswith("vfiocore"):
                    key = (requirement["name"], requirement["range"])
                    users = found.setdefault(key, [])
                    users.extend([] if use in users else [use])
    for (name, wanted_range), users in found.items():
        yield code(name), code(wanted_range), ", ".join(users)
