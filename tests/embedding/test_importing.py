"""An import changes nothing, and nothing is read from the environment unless somebody asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCHED = Path(__file__).with_name("watched.py")

RUDE = """
import atexit, logging, os, signal, threading
open(__file__).close()
os.getenv("VFIOCORE_RUDE")
atexit.register(print)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
logging.getLogger("rude").addHandler(logging.NullHandler())
thread = threading.Thread(target=str)
thread.start()
thread.join()
"""


def happenings(*words: str, path: Path | None = None) -> str:
    """What happens besides, in an interpreter of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(WATCHED), *words],
        env=environment | ({} if path is None else {"PYTHONPATH": str(path)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_every_module_does_nothing_else() -> None:
    assert happenings("import") == ""


@pytest.mark.parametrize("plugins", ["given", "installed"])
def test_a_session_reads_no_environment_and_changes_nothing_for_the_process(plugins: str) -> None:
    pytest.importorskip("vfiocore_sim")
    assert happenings(plugins) == ""


@pytest.fixture(scope="module")
def rude(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What happens when a package with no manners is imported."""
    path = tmp_path_factory.mktemp("rude")
    package = path / "vfiocore_rude"
    package.mkdir()
    (package / "__init__.py").write_text(RUDE)
    return happenings("import", "vfiocore_rude", path=path)


@pytest.mark.parametrize(
    "what", ["open", "reads $VFIOCORE_RUDE", "atexit", "signal", "log handlers", "a thread starts"]
)
def test_what_an_import_must_not_do_would_be_seen(rude: str, what: str) -> None:
    assert what in rude
