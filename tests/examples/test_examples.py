"""The examples are distributions like any other: they build, install, are found, and pass."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {"backend": "loopback", "frontend": "edu", "quota": "quota"}
LINES = 150
BLANK = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


@pytest.fixture(scope="module", params=EXAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def site(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed from its sources, as pip does it."""
    pytest.importorskip("hatchling", reason="hatchling builds the examples: use make setup")
    site = tmp_path_factory.mktemp(name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(site)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    done = run([*pip, *options, str(ROOT / "examples" / name)], site)
    assert done.returncode == 0, done.stderr
    return site


def run(command: list[str], site: Path) -> subprocess.CompletedProcess[str]:
    """Run with what is installed here, and the example."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        command, env=environment, cwd=site, capture_output=True, text=True, check=False
    )


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank, nor comments, nor docstrings."""
    text = path.read_text()
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in BLANK:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(found)


def test_an_example_is_short(name: str) -> None:
    modules = (ROOT / "examples" / name / f"vfiocore_{EXAMPLES[name]}").glob("*.py")
    assert sum(map(lines_of_code, modules)) <= LINES


def test_an_installed_example_is_found(name: str, site: Path) -> None:
    code = "from vfiocore import Framework; print(*Framework().plugins.infos, sep='\\n')"
    done = run([sys.executable, "-c", code], site)
    assert done.returncode == 0, done.stderr
    plugin = EXAMPLES[name]
    assert f"{plugin} (vfiocore-{plugin} 0.1.0)" in done.stdout.splitlines()


def test_an_installed_example_passes_its_tests(name: str, site: Path) -> None:
    """Conformance included: that of the backend, and of the frontend."""
    tests = ROOT / "examples" / name / "tests"
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib"]
    # With the example's own configuration, which is none, and not this repository's.
    where = ["--rootdir", str(tests), "-c", str(tests.parent / "pyproject.toml")]
    done = run([sys.executable, "-m", "pytest", *options, *where, str(tests)], site)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_an_example_is_described(name: str) -> None:
    text = (ROOT / "examples" / name / "README.md").read_text()
    assert text.startswith(f"# vfiocore-{EXAMPLES[name]}\n")
    assert f"pip install vfiocore-{EXAMPLES[name]}" in text
