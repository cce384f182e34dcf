from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from vfiocore.cli import app

from .schema import faults

CARD = "0000:02:00.0"
COMMAND = [sys.executable, "-c", "from vfiocore.cli import main; main()"]


@frozen
class Result:
    """What a run of the command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document that was printed, which fits the schema."""
        document = json.loads(self.out)
        assert faults(document) == []
        return document


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command in this process."""

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as stop:
            app.run(list(arguments))
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def run_unread(run: Callable[..., Result]) -> Callable[..., Result]:
    """Run the command in this process, with a stdout whose reader has gone."""

    def unread(*arguments: str) -> Result:
        reader, writer = os.pipe()
        os.close(reader)
        # Closing it writes what is still to be written, as Python does at its end.
        with open(writer, "w", encoding="utf-8") as stdout, redirect_stdout(stdout):
            return run(*arguments)

    return unread


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def spawn(*arguments: str, before: str = "") -> subprocess.Popen[str]:
        command = [*COMMAND[:2], before + COMMAND[2], *arguments]
        pipe = subprocess.PIPE
        # Python ignores SIGINT where the parent did, as in a background job of a shell.
        wake = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
            )
        finally:
            signal.signal(signal.SIGINT, wake)
        started.append(process)
        return process

    yield spawn
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``--host`` for a machine with one card at 0000:02:00.0, made by `program`."""
    monkeypatch.syspath_prepend(os.path.dirname(__file__))

    def machine(program: str = "edu", more: str = "") -> str:
        path = tmp_path / "machine.toml"
        table = f'[[pci]]\nname = "{CARD}"\ndevice = "{program}"\ngroup = 1\n'
        path.write_text(f"{table}{more}\n")
        return f"sim:{path}"

    return machine


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install a plugin distribution ``vfiocore-NAME`` whose module has this text."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, text: str) -> None:
        module = f"vfiocore_{name}_of_a_test"
        monkeypatch.delitem(sys.modules, module, raising=False)  # that of another test
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / f"vfiocore_{name}-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: vfiocore-{name}\nVersion: 9.9\n"
        )
        (info / "entry_points.txt").write_text(f"[vfiocore]\n{name} = {module}\n")
        importlib.invalidate_caches()

    return install
