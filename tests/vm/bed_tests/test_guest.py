"""A guest's end is seen whatever it is, and nothing of it is left.

Programs that do as QEMU's guests do stand in for them: it is files that a guest is known by.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.vm.bed.folders import REPOSITORY
from tests.vm.bed.guest import Ending, Limits, Report, run

QUICK = Limits(boot=1, whole=2)
COMES_UP = "echo 6.12.1 > kernel; "


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the guest writes to; it is where the programs run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_script(folder: Path, script: str, limits: Limits = QUICK) -> tuple[Report, str]:
    """What came of a program, and what was shown meanwhile."""
    shown: list[str] = []
    report = run(["sh", "-c", script], folder, limits, shown.append)
    return report, "".join(shown)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def assert_ended(pid: int) -> None:
    """A killed process takes a moment to go."""
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} runs on"
        time.sleep(0.02)


def pid_in(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not path.exists() or not path.read_text(encoding="ascii").strip():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)
    return path.read_text(encoding="ascii").strip()


@pytest.mark.parametrize("code", [0, 1, 5])
def test_the_jobs_exit_code_comes_back(guest: Path, code: int) -> None:
    report, _ = run_script(guest, f"{COMES_UP} echo {code} > status")
    assert (report.ending, report.exit_code) == (Ending.DONE, code)
    assert report.ok is (code == 0)
    assert report.kernel == "6.12.1"


def test_the_jobs_output_is_shown_and_kept(guest: Path) -> None:
    report, shown = run_script(
        guest, f"{COMES_UP} echo one > output; sleep 0.3; echo two >> output; echo 0 > status"
    )
    assert shown == report.output == "one\ntwo\n"


def test_a_guest_that_ends_without_a_result_has_died(guest: Path) -> None:
    report, shown = run_script(guest, f"{COMES_UP} echo so far > output; echo panic > console")
    assert (report.ending, report.exit_code, report.ok) == (Ending.DIED, None, False)
    assert shown == "so far\n"
    assert report.console == "panic\n"


def test_a_guest_that_ends_before_its_init_never_came_up(guest: Path) -> None:
    report, _ = run_script(guest, "echo no such device: edu2 >&2; exit 1")
    assert report.ending is Ending.NEVER_UP
    assert report.emulator == "no such device: edu2"


def test_a_guest_that_does_not_come_up_in_time_is_ended(guest: Path) -> None:
    report, _ = run_script(guest, "sleep 100", Limits(boot=0.3, whole=50))
    assert report.ending is Ending.NEVER_UP
    assert report.seconds < 20


def test_a_guest_that_takes_too_long_is_ended_with_all_it_started(guest: Path) -> None:
    script = f"{COMES_UP} sleep 100 & echo $! > child; echo $$ > self; wait"
    report, _ = run_script(guest, script, Limits(boot=20, whole=1))
    assert (report.ending, report.exit_code) == (Ending.TOO_LONG, None)
    assert_ended(pid_in(guest / "self"))
    assert_ended(pid_in(guest / "child"))


def test_a_guest_can_be_stopped_from_another_thread(guest: Path) -> None:
    limits = Limits()
    threading.Timer(0.5, limits.stop.set).start()
    report, _ = run_script(guest, f"{COMES_UP} echo $$ > self; exec sleep 100", limits)
    assert (report.ending, report.exit_code) == (Ending.STOPPED, None)
    assert_ended(pid_in(guest / "self"))


def test_an_emulator_that_stays_on_after_the_result_is_ended(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.vm.bed.guest.POWER_OFF_SECONDS", 0.2)
    report, _ = run_script(guest, f"{COMES_UP} echo $$ > self; echo 0 > status; exec sleep 100")
    assert report.ok
    assert_ended(pid_in(guest / "self"))


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_guest_ends_with_whoever_runs_it(guest: Path, way: signal.Signals) -> None:
    program = (
        "import signal, sys; from pathlib import Path;"
        "from tests.vm.bed.guest import Limits, run;"
        # What is started in the background of a shell is born without a handler of SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "signal.signal(signal.SIGTERM, signal.default_int_handler);"
        "run(['sh', '-c', 'echo $$ > self; exec sleep 100'], Path('.'), Limits(), print)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    runner = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL
    )
    pid = int(wait_for(guest / "self"))
    runner.send_signal(way)
    runner.wait(20)
    assert_ended(pid)
