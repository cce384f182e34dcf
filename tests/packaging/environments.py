"""Fresh virtual environments, filled from a folder of wheels and from nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from attrs import frozen

OLDEST: Mapping[str, str] = {
    "attrs": "23.1.0",
    "pluggy": "1.4.0",
    "structlog": "23.1.0",
    "click": "8.1.0",
    "rich": "13.0.0",
    "pytest": "8.0.0",
    "hypothesis": "6.100.0",
}
"""The first release that each lower bound of pyproject.toml allows."""

NEWEST = tuple(OLDEST)

DOWNLOAD_SECONDS = 180


def pip(*words: str | Path, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run this environment's pip, which no configuration of the machine bends but for indexes."""
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def download(requirements: Sequence[str], into: Path) -> None:
    """Fetch wheels and what they need; a test that needs them is skipped if that cannot be done."""
    into.mkdir(exist_ok=True)
    words = ("download", "-q", "--only-binary=:all:", "-d", str(into), *requirements)
    try:
        done = pip(*words, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"no package index answers within {DOWNLOAD_SECONDS} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        pytest.skip(f"no package index has {', '.join(requirements)}: {lines[-1] if lines else ''}")


@frozen
class Environment:
    """A virtual environment.

    Attributes:
        root: Its folder.
    """

    root: Path

    @classmethod
    def make(cls, root: Path, wheels: Sequence[Path], *requirements: str) -> Environment:
        """Create one and install `requirements` from folders of wheels."""
        venv.create(root, with_pip=False, symlinks=True)
        made = cls(root)
        links = [f"--find-links={folder}" for folder in wheels]
        install = ("install", "-q", "--no-index", "--no-compile", *links, *requirements)
        done = pip("--python", made.python, *install)
        assert done.returncode == 0, done.stderr
        return made

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def command(self) -> Path:
        """The ``vfiocore`` command, whether it is there or not."""
        return self.root / "bin" / "vfiocore"

    def run(self, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; of the variables around it only these are seen."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return subprocess.run(
            [str(word) for word in words],
            cwd=cwd or self.root,
            env={**kept, "HOME": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )

    def code(self, text: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.python, "-I", "-c", text)

    def installed(self) -> dict[str, str]:
        """Every distribution and its version."""
        done = self.code(
            "from importlib.metadata import distributions\n"
            "for item in distributions(): print(item.name.lower(), item.version)"
        )
        return dict(line.split() for line in done.stdout.splitlines())
