"""Real guests: whatever becomes of one, its result comes back and nothing is left behind."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vm.bed.architectures import ARCHITECTURES
from tests.vm.bed.bed import Bed, prepare
from tests.vm.bed.folders import REPOSITORY
from tests.vm.bed.guest import Ending, Limits, Report
from tests.vm.bed.machines import MACHINES

pytestmark = pytest.mark.vm

LIMITS = Limits(boot=120, whole=180)

USE_ALL_MEMORY = """\
echo 2 >/proc/sys/vm/panic_on_oom
echo 1000000000 >/proc/sys/vm/min_free_kbytes
cat /proc/meminfo
"""


def emulators_of(folder: Path) -> list[str]:
    """The processes that have a folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has ended since
        if any(str(folder) in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where guests leave what they give back; nothing else may be left of them."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield tmp_path / "results"
    assert list(temporary.iterdir()) == []
    assert emulators_of(tmp_path) == []


@pytest.fixture(scope="module", params=ARCHITECTURES)
def bed(request: pytest.FixtureRequest) -> Bed:
    """Guests of each architecture, with little memory."""
    return prepare(replace(MACHINES[request.param], memory="512M"), print)


@pytest.fixture(scope="module")
def one_bed() -> Bed:
    return prepare(MACHINES["x86_64"], print)


def run(bed: Bed, job: str, results: Path, limits: Limits = LIMITS) -> Report:
    return bed.run(job, results, limits, lambda _: None)


# -- on every architecture -------------------------------------------------------------------------
def test_a_guest_is_of_its_architecture_and_its_exit_code_comes_back(
    bed: Bed, results: Path
) -> None:
    report = run(bed, "uname -m; exit 7", results)
    assert (report.ending, report.exit_code) == (Ending.DONE, 7)
    assert report.output.split() == [bed.machine.architecture.name]
    assert report.kernel


def test_of_a_guest_that_panics_the_console_comes_back(bed: Bed, results: Path) -> None:
    report = run(bed, USE_ALL_MEMORY, results)
    assert (report.ending, report.exit_code) == (Ending.DIED, None)
    assert "Kernel panic - not syncing: Out of memory" in report.console


# -- what is the same on all -----------------------------------------------------------------------
def test_a_guest_that_hangs_is_ended(one_bed: Bed, results: Path) -> None:
    report = run(one_bed, "echo waiting; sleep 1000", results, replace(LIMITS, whole=30))
    assert report.ending is Ending.TOO_LONG
    assert report.output == "waiting\n"


def test_a_guest_that_does_not_boot_is_ended(one_bed: Bed, results: Path) -> None:
    no_init = replace(one_bed.machine, kernel_words=("init=/usr",))
    report = run(replace(one_bed, machine=no_init), "true", results)
    assert report.ending is Ending.NEVER_UP
    assert "Kernel panic" in report.console


def test_a_device_that_qemu_does_not_know_is_told_in_its_words(one_bed: Bed, results: Path) -> None:
    machine = replace(one_bed.machine, devices=("-device", "no-such-card"))
    report = run(replace(one_bed, machine=machine), "true", results)
    assert report.ending is Ending.NEVER_UP
    assert "'no-such-card' is not a valid device model name" in report.emulator


def test_a_guest_cannot_change_the_source_tree(one_bed: Bed, results: Path) -> None:
    report = run(one_bed, "touch /source/README.md", results)
    assert report.exit_code == 1
    assert "Read-only file system" in report.output


# -- the command -----------------------------------------------------------------------------------
def bed_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.vm.bed", *words]


def run_tests(results: Path, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = bed_command("test", "--machine=x86_64", f"--results={results}", *options, "--", path)
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_failing_tests_fail_the_command_and_are_in_the_junit_report(results: Path) -> None:
    done = run_tests(results, "tests/vm/bed_tests/failing.py", "--test-seconds=2")
    assert done.returncode == 1
    assert "took longer than 2 s" in done.stdout
    assert "x86_64  failed, exit code 1" in done.stderr
    (suite,) = ET.parse(results / "x86_64/junit.xml").getroot()
    assert [suite.get(name) for name in ("tests", "failures", "errors")] == ["3", "2", "0"]


def test_a_test_that_no_signal_reaches_ends_the_run_and_shows_where_it_was(results: Path) -> None:
    done = run_tests(results, "tests/vm/bed_tests/stuck.py", "--test-seconds=2")
    assert done.returncode == 1
    assert "in test_that_heeds_no_signal" in done.stdout


def test_a_shell_has_our_packages_and_ends_with_the_guest(tmp_path: Path) -> None:
    words = bed_command("shell", "--arch", "x86_64")
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        words, cwd=REPOSITORY, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        seen = read_until(ours, b"# ")
        os.write(ours, b"vfiocore devices | grep -c mdev; echo $((40 + 2))-ready; exit\n")
        seen += read_until(ours, b"42-ready")
        assert shell.wait(60) == 0
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
    assert b"\n2\r" in seen  # two sample devices


def read_until(terminal: int, end: bytes) -> bytes:
    """What comes from a terminal, up to some words."""
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + 120
    seen = b""
    while end not in seen:
        assert time.monotonic() < deadline, seen.decode(errors="replace")
        time.sleep(0.05)
        try:
            seen += os.read(terminal, 1 << 16)
        except BlockingIOError:
            continue
    return seen
