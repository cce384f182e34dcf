"""``vfiocore plugin new`` makes a distribution that is in order from its first day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from vfiocore.cli.app import run

KINDS = ("backend", "device", "wrapper")
Command = Callable[..., int]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run ``vfiocore plugin new`` in an empty folder; its exit code."""

    def call(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            run(["plugin", "new", *words, "--into", str(tmp_path)])
        return int(ended.value.code or 0)

    return call


def passes(folder: Path, *tool: str) -> None:
    environment = {**os.environ, "MYPYPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", *tool],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_of_a_new_plugin_pass(command: Command, tmp_path: Path, kind: str) -> None:
    assert command("acme-two", "--kind", kind) == 0
    passes(tmp_path / "vfiocore-acme-two", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_is_found_by_its_entry_point(
    command: Command, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    from vfiocore import Framework

    assert command(f"acme-{kind}", "--kind", kind) == 0
    folder = tmp_path / f"vfiocore-acme-{kind}"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"vfiocore-acme-{kind}"
    ((name, value),) = project["entry-points"]["vfiocore"].items()
    monkeypatch.syspath_prepend(folder)
    plugin = EntryPoint(name, value, "vfiocore").load()
    (info,) = Framework([plugin], autoload=False).plugins.infos
    assert name == f"acme-{kind}"
    assert info.state == "loaded"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tool",
    [
        ("mypy", "--strict", "--no-incremental", "vfiocore_acme"),
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--check", "--line-length", "100", "--no-cache", "."),
    ],
    ids=lambda tool: " ".join(tool[:2]),
)
def test_a_new_plugin_is_typed_and_tidy(
    command: Command, tmp_path: Path, kind: str, tool: tuple[str, ...]
) -> None:
    pytest.importorskip(tool[0], reason=f"{tool[0]} is in the group lint: use make lint")
    assert command("acme", "--kind", kind) == 0
    passes(tmp_path / "vfiocore-acme", *tool)


def test_a_prefix_in_the_name_is_not_doubled(command: Command, tmp_path: Path) -> None:
    assert command("vfiocore-acme") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["vfiocore-acme"]


@pytest.mark.parametrize("name", ["Acme", "acme_card", "4c", "a-", "a/b", ".."])
def test_a_name_that_cannot_be_is_refused(
    command: Command, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(name) == 2
    assert f"{name!r} is not made of lower-case words with hyphens" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "vfiocore-acme" / "mine"
    mine.parent.mkdir()
    mine.touch()
    assert command("acme") == 2
    assert "vfiocore-acme is there already" in capsys.readouterr().err
    assert list(mine.parent.iterdir()) == [mine]


def test_what_was_made_is_told(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("acme")
    folder = tmp_path / "vfiocore-acme"
    assert capsys.readouterr().out.splitlines() == [
        f"made {folder}; its tests run with:",
        f"  cd {folder} && pip install -e '.[test]' && pytest",
    ]


def test_what_was_made_is_told_as_json(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("acme", "--kind", "wrapper", "--json")
    document = json.loads(capsys.readouterr().out)
    folder = tmp_path / "vfiocore-acme"
    assert document.keys() == {"schema", "kind", "path", "files"}
    assert (document["schema"], document["kind"]) == (1, "plugin-new")
    assert document["path"] == str(folder)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(document["files"]) == there
