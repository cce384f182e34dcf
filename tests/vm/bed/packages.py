"""Python packages for the guests: ours from the source tree, the others from the package index."""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .folders import made_whole
from .tools import run_program

PYTHON = "3.11"
"""The guests' Python."""

PROJECTS = ("pyproject.toml", "plugins/*/pyproject.toml", "plugins/devices/*/pyproject.toml")

Say = Callable[[str], None]


def our_projects(repository: Path) -> list[Path]:
    """The folders of the core and of every plugin, relative to the repository."""
    found = [path.parent for pattern in PROJECTS for path in sorted(repository.glob(pattern))]
    return [folder.relative_to(repository) for folder in found]


def write_metadata(repository: Path, into: Path) -> None:
    """Write what an installation would: names, versions, entry points.

    Plugins are found by it; the modules themselves are on the guest's path.
    """
    for folder in our_projects(repository):
        project = _project(repository / folder)
        information = into / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n",
            encoding="utf-8",
        )
        (information / "entry_points.txt").write_text(_entry_points(project), encoding="utf-8")


def third_party(repository: Path, cache: Path, say: Say) -> Path:
    """The folder with everybody else's packages, fetched if it is not there.

    Raises:
        BedError: They cannot be had.
    """
    wanted = requirements(repository)
    recipe = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
    folder = cache / f"python{PYTHON}-{recipe}"
    if not folder.is_dir():
        say(f"fetching Python packages: {', '.join(wanted)}")
        with made_whole(folder) as draft:
            _fetch(wanted, draft)
    return folder


def requirements(repository: Path) -> list[str]:
    """What the core with its extras, and the tests, need."""
    with (repository / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)
    extras = settings["project"]["optional-dependencies"]
    groups = [
        settings["project"]["dependencies"],
        *extras.values(),
        settings["dependency-groups"]["test"],
    ]
    return sorted({requirement for group in groups for requirement in group})


def _fetch(wanted: list[str], into: Path) -> None:
    # Wheels without compiled code run on every architecture, and so does this folder.
    only_pure = ("--only-binary=:all:", "--implementation=py", "--abi=none", "--platform=any")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = (f"--python-version={PYTHON}", "--no-compile", f"--target={into}")
    failure = "the guests' Python packages are not to be had"
    run_program([*pip, *only_pure, *options, *wanted], failure)


def _project(folder: Path) -> dict[str, Any]:
    with (folder / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def _entry_points(project: dict[str, Any]) -> str:
    groups = dict(project.get("entry-points", {}))
    groups["console_scripts"] = project.get("scripts", {})
    return "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in groups.items()
    )
