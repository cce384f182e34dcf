"""What the page for packagers says is so: ranges, commands, and what a user is told."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

import vfiocore

from .fences import blocks, shell_lines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/packagers.md").read_text()
PLUGINS = sorted(
    path
    for pattern in ("plugins/*", "plugins/devices/*", "examples/*")
    for path in ROOT.glob(f"{pattern}/pyproject.toml")
)


def project(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(path.read_text())["project"]
    return found


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


# -- the tables ------------------------------------------------------------------------------------
def test_every_distribution_is_in_the_table(extension: None) -> None:
    from _ext import distributions

    assert "```{distributions}\n" in PAGE
    ours = [path for path in PLUGINS if not path.is_relative_to(ROOT / "examples")]
    names = [project(path)["name"] for path in (ROOT / "pyproject.toml", *ours)]
    listed = re.findall(r"^\| `([\w-]+)`", distributions.distributions(), re.MULTILINE)
    assert sorted(listed) == sorted(names)


def test_every_dependency_is_in_the_table_with_its_range(extension: None) -> None:
    from _ext import distributions

    assert "```{dependencies}\n" in PAGE
    text = distributions.dependencies()
    for line in ("| `attrs` | `>=23.1` | `vfiocore`, ", "| `click` | `>=8.1` | `vfiocore[cli]` |"):
        assert line in text
    assert "| `hatchling` | `>=1.26` | building |" in text


def test_nothing_that_others_make_has_an_upper_bound(extension: None) -> None:
    from _ext import distributions

    assert "<" not in distributions.dependencies()


def test_every_extra_is_described() -> None:
    for extra in project(ROOT / "pyproject.toml")["optional-dependencies"]:
        assert f"| `vfiocore[{extra}]` |" in PAGE


# -- ranges ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_a_plugin_wants_the_core_below_the_next_minor_version(path: Path) -> None:
    major, minor = map(int, vfiocore.__version__.split(".")[:2])
    wanted = f"vfiocore>={major}.{minor},<{major}.{minor + 1}"
    assert wanted in project(path)["dependencies"]
    assert f"`{wanted}`" in PAGE


# -- commands --------------------------------------------------------------------------------------
@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """An sdist, unpacked in a folder that has nothing else."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the distributions, is not installed: use make setup")
    from hatchling.builders.sdist import SdistBuilder

    builder = SdistBuilder(str(ROOT / "plugins/devices/ap"))
    (made,) = builder.build(directory=str(tmp_path / "dist"), versions=["standard"])
    with tarfile.open(made) as archive:
        # Python 3.11.2 does not know the argument that Python 3.14 wants to be given.
        archive.extraction_filter = lambda member, _path: member
        archive.extractall(tmp_path)
    return tmp_path / Path(made).name.removesuffix(".tar.gz")


def shell(command: str, folder: Path) -> str:
    """Run a command of the page with this environment's programs, as a shell does."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_commands_of_the_page_build_an_sdist_anew(unpacked: Path) -> None:
    pip, hatchling, *_ = shell_lines(section("Building"))
    shell(pip, unpacked)
    shell(hatchling, unpacked)
    made = sorted(path.name for path in (unpacked / "dist").iterdir())
    assert made == [f"{unpacked.name}-py3-none-any.whl", f"{unpacked.name}.tar.gz"]


def test_the_commands_of_the_page_make_completions(tmp_path: Path) -> None:
    commands = [line for line in shell_lines(section("Building")) if "_COMPLETE" in line]
    assert len(commands) == 3
    for command in commands:
        shell(command, tmp_path)
    assert all("vfiocore" in path.read_text() for path in tmp_path.iterdir())


def test_the_command_of_the_page_tests_an_sdist(unpacked: Path) -> None:
    (command,) = shell_lines(section("Testing"))
    assert " passed" in shell(command, unpacked)


# -- what a user is told ---------------------------------------------------------------------------
def test_without_its_extra_the_command_says_what_the_page_says() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from vfiocore.cli import main; main()"
    # -S: no site-packages, where click and rich are installed.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    quotes = [block.text for block in blocks(section("Shipping a part"))]
    assert f"$ vfiocore plugins\n{done.stderr}" in quotes
