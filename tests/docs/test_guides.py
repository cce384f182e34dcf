"""The guides for plugin authors are their examples, step by step, with no step missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .fences import files, shell_lines

ROOT = Path(__file__).parents[2]
GUIDES = {"backend": "backend", "frontend": "frontend", "wrapper": "quota"}
PLUGINS = {"backend": "loopback", "frontend": "edu", "wrapper": "quota"}
INSTALL = "pip install -e '.[test]' 'vfiocore[cli]'"
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")


@pytest.fixture(params=GUIDES)
def guide(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def text(guide: str) -> str:
    return (ROOT / "docs/plugins" / f"{guide}.md").read_text()


def code(content: str) -> list[str]:
    """The lines that are not blank: where blocks are joined there may be one more, or less."""
    return [line for line in content.splitlines() if line.strip()]


def example_files(guide: str) -> dict[str, str]:
    root = ROOT / "examples" / GUIDES[guide]
    return {
        str(path.relative_to(root)): path.read_text()
        for kind in ("*.py", "*.toml")
        for path in root.rglob(kind)
    }


def test_the_blocks_of_a_guide_are_the_files_of_the_example(guide: str) -> None:
    written, example = files(text(guide)), example_files(guide)
    assert written.keys() == example.keys()
    for name, content in written.items():
        assert code(content) == code(example[name]), name


@pytest.fixture
def followed(guide: str, tmp_path: Path) -> Path:
    """A folder that was empty, after every step of the guide up to the installation."""
    folder = tmp_path / "followed"
    folder.mkdir()
    for line in shell_lines(text(guide)):
        if line == INSTALL:
            break
        subprocess.run(["sh", "-ec", line], cwd=folder, check=True)
    else:
        pytest.fail(f"the guide does not say: {INSTALL}")
    for name, content in files(text(guide)).items():
        (folder / name).write_text(content)
    return folder


def test_whoever_follows_a_guide_in_an_empty_folder_has_a_plugin_whose_tests_pass(
    guide: str, followed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the examples: use make setup")
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install")
    run([*pip, *OFFLINE, "--target", str(site), str(followed)], followed)

    command = "from vfiocore.cli import main; main()"
    listed = run([sys.executable, "-c", command, "plugins"], site)
    assert re.search(rf"^{PLUGINS[guide]} .* loaded\b", listed, re.MULTILINE)
    assert " passed" in run([sys.executable, "-m", "pytest", "-q"], followed, site)


def run(command: list[str], folder: Path, site: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site or folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
