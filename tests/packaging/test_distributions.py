"""Eight distributions: each builds, carries what it should, and installs alone beside the core."""

from __future__ import annotations

import importlib
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

Python = Callable[..., "subprocess.CompletedProcess[str]"]

EXPECTED_ENTRY_POINTS = {
    "vfiocore": "[console_scripts]\nvfiocore = vfiocore.cli:main\n",
    **{
        f"vfiocore-{name}": f"[vfiocore]\n{name} = vfiocore_{name}.plugin\n"
        for name in ("legacy", "iommufd", "sim", "pci", "platform", "ap", "ccw")
    },
}
PLUGINS = [name for name in EXPECTED_ENTRY_POINTS if name != "vfiocore"]


# -- what is in them -------------------------------------------------------------------------------
def test_a_wheel_has_its_package_its_types_and_nothing_else(distribution: Any) -> None:
    names = distribution.wheel_names()
    assert f"{distribution.package}/__init__.py" in names
    assert f"{distribution.package}/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {
        distribution.package,
        f"{distribution.package}-0.1.0.dist-info",
    }


def test_a_wheel_has_every_module_of_its_package(distribution: Any) -> None:
    package = Path(importlib.import_module(distribution.package).__path__[0])
    modules = {
        f"{distribution.package}/{path.relative_to(package)}" for path in package.rglob("*.py")
    }
    assert modules <= distribution.wheel_names()


def test_a_wheel_is_found_through_its_entry_point(distribution: Any) -> None:
    text = distribution.wheel_text(f"{distribution.package}-0.1.0.dist-info/entry_points.txt")
    assert text == EXPECTED_ENTRY_POINTS[distribution.name]


def test_an_sdist_carries_its_tests_and_readme(distribution: Any) -> None:
    names = distribution.sdist_names()
    assert {"pyproject.toml", "README.md"} <= names
    assert [name for name in names if name.startswith("tests/") and "/test_" in name]


def test_a_wheel_builds_from_the_sdist_alone(
    distribution: Any, build_wheel: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    with tarfile.open(distribution.sdist) as archive:
        # Python 3.11.2 does not know the argument that Python 3.14 wants to be given.
        archive.extraction_filter = lambda member, _path: member
        archive.extractall(tmp_path)
    (root,) = tmp_path.iterdir()
    wheel = build_wheel(root, tmp_path)
    assert wheel.read_bytes() == distribution.wheel.read_bytes()


def test_the_core_depends_on_three_distributions(distributions: Mapping[str, Any]) -> None:
    project = distributions["vfiocore"].project
    names = {text.partition(">")[0] for text in project["dependencies"]}
    assert names == {"attrs", "pluggy", "structlog"}
    assert set(project["optional-dependencies"]) == {"cli", "testing"}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_fits_the_core_it_was_made_with(
    distributions: Mapping[str, Any], name: str
) -> None:
    assert "vfiocore>=0.1,<0.2" in distributions[name].project["dependencies"]


def test_all_versions_are_one(distribution: Any) -> None:
    module = importlib.import_module(distribution.package)
    text = distribution.wheel_text(f"{distribution.package}-0.1.0.dist-info/METADATA")
    metadata = Parser().parsestr(text)
    assert metadata["Name"] == distribution.name
    assert metadata["Version"] == module.__version__ == distribution.project["version"] == "0.1.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0"


# -- installed -------------------------------------------------------------------------------------
OPEN = """
import sys
from vfiocore import Framework
from vfiocore.errors import VfioError
try:
    with Framework(host="{host}").open("-device vfio-pci,id=edu,host=0000:02:00.0") as session:
        print(session["edu"].name)
except VfioError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""
STATES = """
from vfiocore import Framework
print(*(f"{info.name}={info.state}" for info in Framework().plugins.infos))
"""
COMMAND = "from vfiocore.cli import main; main()"


def test_the_core_works_alone_and_says_what_to_install(python: Python) -> None:
    done = python(OPEN.format(host="linux"), "vfiocore")
    assert "vfiocore-pci" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_works_with_the_core_alone(python: Python) -> None:
    done = python(f"import sys; sys.argv = ['vfiocore', 'devices']; {COMMAND}", "vfiocore")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_backend_is_named(python: Python) -> None:
    done = python(OPEN.format(host="linux"), "vfiocore", "vfiocore-pci")
    assert "vfiocore-legacy" in done.stderr


def test_a_missing_host_is_named(python: Python) -> None:
    done = python(OPEN.format(host="sim"), "vfiocore", "vfiocore-pci", "vfiocore-legacy")
    assert "vfiocore-sim" in done.stderr


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_installs_alone_beside_the_core(python: Python, name: str) -> None:
    done = python(STATES, "vfiocore", name)
    assert done.stdout == f"{name.removeprefix('vfiocore-')}=loaded\n", done.stderr


def test_four_wheels_are_a_working_machine(python: Python) -> None:
    wheels = ("vfiocore", "vfiocore-pci", "vfiocore-legacy", "vfiocore-sim")
    done = python(OPEN.format(host="sim"), *wheels)
    assert (done.stdout, done.stderr) == ("0000:02:00.0\n", "")


def test_all_wheels_together_run_the_demo(python: Python) -> None:
    code = f"import sys; sys.argv = ['vfiocore', 'demo']; {COMMAND}"
    done = python(code, *EXPECTED_ENTRY_POINTS)
    assert done.returncode == 0, done.stderr
    assert "bytes through the IOMMU, all compared" in done.stdout
