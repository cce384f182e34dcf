from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[2]
PROJECTS = {
    "vfiocore": ".",
    "vfiocore-legacy": "plugins/legacy",
    "vfiocore-iommufd": "plugins/iommufd",
    "vfiocore-sim": "plugins/sim",
    "vfiocore-pci": "plugins/devices/pci",
    "vfiocore-platform": "plugins/devices/platform",
    "vfiocore-ap": "plugins/devices/ap",
    "vfiocore-ccw": "plugins/devices/ccw",
}
DEPENDENCIES = ("attr", "attrs", "pluggy", "structlog", "typing_extensions")
CLI_DEPENDENCIES = ("click", "rich", "pygments", "markdown_it", "mdurl")


@frozen
class Distribution:
    """A project and what was built of it."""

    name: str
    project: Mapping[str, Any]
    wheel: Path
    sdist: Path

    @property
    def package(self) -> str:
        return self.name.replace("-", "_")

    def wheel_names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def wheel_text(self, name: str) -> str:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.read(name).decode()

    def sdist_names(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {name.partition("/")[2] for name in archive.getnames()}


def build(root: Path, target: str, into: Path) -> Path:
    """Build a wheel or an sdist of the project at `root`, as its build backend does."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the distributions, is not installed: use make setup")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    builder: Any = (WheelBuilder if target == "wheel" else SdistBuilder)(str(root))
    (made,) = builder.build(directory=str(into), versions=["standard"])
    return Path(made)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Distribution]:
    """Every distribution of the workspace, built once."""
    into = tmp_path_factory.mktemp("dist")
    made = {}
    for name, folder in PROJECTS.items():
        root = ROOT / folder
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        made[name] = Distribution(
            name, project, build(root, "wheel", into), build(root, "sdist", into)
        )
    return made


def unpack(sdist: Path, into: Path) -> Path:
    """Unpack an sdist; its folder."""
    with tarfile.open(sdist) as archive:
        # Python 3.11.2 does not know the argument that Python 3.14 wants to be given.
        archive.extraction_filter = lambda member, _path: member
        archive.extractall(into)
    return into / sdist.name.removesuffix(".tar.gz")


@pytest.fixture
def for_everybody() -> Iterator[Path]:
    """A folder that other users can enter and write to, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


@pytest.fixture
def unpacked_sdist(for_everybody: Path, distributions: Mapping[str, Distribution]) -> Path:
    """The folder of the core's sdist."""
    return unpack(distributions["vfiocore"].sdist, for_everybody)


@pytest.fixture(params=PROJECTS)
def distribution(
    request: pytest.FixtureRequest, distributions: Mapping[str, Distribution]
) -> Distribution:
    return distributions[request.param]


@pytest.fixture
def build_wheel() -> Callable[[Path, Path], Path]:
    return lambda root, into: build(root, "wheel", into)


@pytest.fixture
def python(
    tmp_path: Path, distributions: Mapping[str, Distribution]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python with only these wheels installed, and what the core depends on."""
    site = tmp_path / "site"
    site.mkdir()
    for module in (*DEPENDENCIES, *CLI_DEPENDENCIES):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            source = origin.parent if origin.name == "__init__.py" else origin
            (site / source.name).symlink_to(source)

    def run(code: str, *names: str) -> subprocess.CompletedProcess[str]:
        for name in names:
            with zipfile.ZipFile(distributions[name].wheel) as archive:
                archive.extractall(site)
        environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"]}
        # -S: no site-packages, where everything else is installed.
        return subprocess.run(
            [sys.executable, "-S", "-c", code],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
