"""What works, and what is said, with the core alone, with each single plugin, and with all."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from .environments import NEWEST, OLDEST, Environment, download

ROOT = Path(__file__).parents[2]
CARD = "-device vfio-pci,id=card,host=0000:02:00.0"
PLUGINS = ("legacy", "iommufd", "sim", "pci", "platform", "ap", "ccw")
TYPES = {"pci": "vfio-pci", "platform": "vfio-platform", "ap": "vfio-ap", "ccw": "vfio-ccw"}

OPEN = """
from vfiocore import Framework
from vfiocore.errors import VfioError
try:
    with Framework(host={host!r}).open({words!r}) as session:
        print("open:", *session.devices)
except VfioError as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
STATES = """
from vfiocore import Framework
plugins = Framework().plugins
print(*(f"{info.name}={info.state}" for info in plugins.infos))
print(*(item.name for item in (*plugins.backends, *plugins.device_types, *plugins.hosts)))
"""


@pytest.fixture(scope="session")
def ours(distributions: Mapping[str, Any]) -> Path:
    """The folder with the wheels of this repository."""
    folder: Path = distributions["vfiocore"].wheel.parent
    return folder


@pytest.fixture(scope="session")
def wheels(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """That, and the one with what they need, as new as can be."""
    folder = tmp_path_factory.mktemp("newest")
    download(NEWEST, folder)
    return ours, folder


@pytest.fixture
def environment(tmp_path: Path, wheels: tuple[Path, Path]) -> Callable[..., Environment]:
    return lambda *requirements: Environment.make(tmp_path / "venv", wheels, *requirements)


# -- the core alone --------------------------------------------------------------------------------
def test_the_core_brings_three_dependencies_and_no_command_line(
    environment: Callable[..., Environment],
) -> None:
    made = environment("vfiocore")
    assert {name for name in made.installed() if name != "typing-extensions"} == {
        "vfiocore",
        "attrs",
        "pluggy",
        "structlog",
    }
    assert made.code("import vfiocore").returncode == 0
    assert made.code(STATES).stdout.split() == []
    assert "install vfiocore-pci" in made.code(OPEN.format(host="linux", words=CARD)).stdout
    assert "install vfiocore-sim" in made.code(OPEN.format(host="sim", words="")).stdout

    done = made.run(made.command, "plugins")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "vfiocore[cli]" in done.stderr


def test_the_extra_brings_the_command(environment: Callable[..., Environment]) -> None:
    made = environment("vfiocore[cli]")
    assert made.run(made.command, "--help").returncode == 0
    assert made.run(made.command, "devices").stderr == ""
    done = made.run(made.command, "demo")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "vfiocore-sim" in done.stderr


# -- one plugin ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_alone_is_loaded_and_the_rest_is_asked_for(
    environment: Callable[..., Environment], name: str
) -> None:
    made = environment(f"vfiocore-{name}")
    assert set(made.installed()) >= {"vfiocore", f"vfiocore-{name}"}
    states, names = made.code(STATES).stdout.splitlines()
    assert states == f"{name}=loaded"
    assert names == TYPES.get(name, name)
    said = made.code(OPEN.format(host="linux", words=CARD)).stdout
    assert said.startswith("MissingPluginError: no plugin provides ")
    assert ("install vfiocore-legacy" if name == "pci" else "install vfiocore-pci") in said


def test_what_fits_together_opens_and_what_is_missing_is_named(
    environment: Callable[..., Environment],
) -> None:
    made = environment("vfiocore-sim", "vfiocore-legacy", "vfiocore-pci")
    assert made.code(OPEN.format(host="sim", words=CARD)).stdout == "open: card\n"
    linked = f"-object iommufd,id=iommufd0 {CARD},iommufd=iommufd0"
    said = made.code(OPEN.format(host="sim", words=linked)).stdout
    assert (
        said
        == "MissingPluginError: no plugin provides backend 'iommufd': install vfiocore-iommufd\n"
    )


# -- all of them -----------------------------------------------------------------------------------
def test_all_together_run_the_demo_by_its_command(environment: Callable[..., Environment]) -> None:
    made = environment("vfiocore[cli]", *(f"vfiocore-{name}" for name in PLUGINS))
    done = made.run(made.command, "demo")
    assert done.returncode == 0, done.stderr
    assert "bytes through the IOMMU, all compared" in done.stdout


# -- the oldest ------------------------------------------------------------------------------------
def test_the_oldest_are_what_the_projects_lower_bounds_say() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    bounds = [
        *project["project"]["dependencies"],
        *extras["cli"],
        *extras["testing"],
        *project["dependency-groups"]["test"],
    ]
    for bound in bounds:
        found = re.fullmatch(r"([a-z]+)>=([\d.]+)", bound)
        assert found is not None, bound
        name, version = found.groups()
        assert OLDEST[name].startswith(version), bound


AWAY_FROM_THE_MACHINE = Path(__file__).with_name("away_from_the_machine.py")
SMOKE = (
    *(f"core/test_{name}.py" for name in ("framework", "log", "plugins")),
    *("config", "cli", "whole/test_devices.py"),
)
"""What leans on the dependencies, and one walk through everything."""


def test_the_sdists_tests_pass_with_the_oldest_dependencies_away_from_the_machine(
    ours: Path, for_everybody: Path, unpacked_sdist: Path
) -> None:
    """Without network, root or /dev, in a folder that has nothing but the sdist."""
    wheels = for_everybody / "oldest"
    download([f"{name}=={version}" for name, version in OLDEST.items()], wheels)
    names = [f"vfiocore-{name}" for name in PLUGINS]
    requirements = ["vfiocore[cli,testing]", *names, "hypothesis"]
    made = Environment.make(for_everybody / "venv", (ours, wheels), *requirements)
    assert {name: made.installed()[name] for name in OLDEST} == OLDEST

    tests = [f"tests/{name}" for name in SMOKE]
    guard = ("-p", AWAY_FROM_THE_MACHINE.stem, "-p", "no:cacheprovider")
    (unpacked_sdist / AWAY_FROM_THE_MACHINE.name).write_text(AWAY_FROM_THE_MACHINE.read_text())
    words: tuple[str | Path, ...] = (
        made.python,
        "-m",
        "pytest",
        "-q",
        *guard,
        *tests,
        f"--basetemp={for_everybody}/tmp",
    )
    done = made.run(*words, cwd=unpacked_sdist)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d{3,} passed", done.stdout)


def test_the_core_alone_passes_its_own_tests_and_says_which_are_left_out(
    for_everybody: Path, wheels: tuple[Path, Path], unpacked_sdist: Path
) -> None:
    made = Environment.make(for_everybody / "venv", wheels, "vfiocore[cli,testing]", "hypothesis")
    tests = ("tests/cli", "tests/config", "tests/core")
    words = (made.python, "-m", "pytest", "-q", *tests, f"--basetemp={for_everybody}/tmp")
    done = made.run(*words, cwd=unpacked_sdist)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d{3,} passed", done.stdout)
    assert "vfiocore-sim is not installed, so these are left out: " in done.stdout
