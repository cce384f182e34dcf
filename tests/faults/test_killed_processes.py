"""A real process is killed by SIGKILL: nothing of it is left, and the next one works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .path import PATHS

TESTS = Path(__file__).parents[1]
SECONDS = 120
"""Far more than the walks take; a process that hangs is a failure, too."""

DENSE = "platform-iommufd"
SPARSE = 17
"""On the other paths only each of so many calls: their calls are those of the dense one, mostly."""


def started(home: Path, *words: str, **more: Any) -> subprocess.Popen[str]:
    """A Python that has nothing but an empty folder to leave things in."""
    folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"), str(home))
    return subprocess.Popen(
        [sys.executable, "-B", *words],
        cwd=home,
        env={**os.environ, **folders, "PYTHONPATH": str(TESTS)},
        start_new_session=True,
        text=True,
        **more,
    )


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "vfio" in name}


def is_gone(group: int) -> bool:
    """True if no process of a group is there any more."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@contextmanager
def killed_at_the_end(child: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with child:
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_after_a_process_is_killed_at_a_call_the_next_one_works(path: Any, home: Path) -> None:
    before = shared_memory()
    every = 1 if str(path) == DENSE else SPARSE
    child = started(
        home, "-m", "faults.killing", str(path), str(every),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = child.communicate(timeout=SECONDS)
    assert (child.returncode, errors) == (0, "")
    lines = [tuple(map(int, line.split())) for line in output.splitlines()]
    assert [line[0] for line in lines] == list(range(0, len(lines) * every, every))
    assert len(lines) > 1
    assert {line[1:] for line in lines} == {(-signal.SIGKILL, 0)}
    assert is_gone(child.pid)
    assert list(home.iterdir()) == []
    assert shared_memory() == before


RUN = (
    "run", "--host", "sim", "-object", "iommufd,id=iommufd0",
    "-device", "vfio-pci,id=edu,host=0000:02:00.0,iommufd=iommufd0",
)  # fmt: skip


def test_after_the_command_is_killed_it_runs_again(home: Path) -> None:
    main = ("-c", "from vfiocore.cli import main; main()")
    with killed_at_the_end(started(home, *main, *RUN, stdout=subprocess.PIPE)) as first:
        assert any("0000:02:00.0" in line for line in first.stdout or ())  # it holds its devices
    assert first.returncode == -signal.SIGKILL
    assert is_gone(first.pid)
    second = started(home, *main, *RUN, "--once", stdout=subprocess.PIPE)
    output, _ = second.communicate(timeout=SECONDS)
    assert (second.returncode, "0000:02:00.0" in output) == (0, True)
    assert list(home.iterdir()) == []
