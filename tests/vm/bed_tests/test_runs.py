"""Several guests at a time: each line tells whose it is, and none outlives the run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vm.bed.bed import Bed, prepare
from tests.vm.bed.folders import REPOSITORY
from tests.vm.bed.guest import Ending, Limits
from tests.vm.bed.machines import MACHINES
from tests.vm.bed.runs import Lines, Runs

from .test_guests import emulators_of

NAMES = ("x86_64-noiommu", "x86_64-virtio-iommu")


def test_lines_are_shown_whole_with_a_word_before_each() -> None:
    shown: list[str] = []
    lines = Lines("one| ", shown.append)
    for part in ("a", "b\nc", "\n", "d"):
        lines.add(part)
    assert shown == ["one| ab\n", "one| c\n"]
    lines.end()
    lines.end()
    assert shown[2:] == ["one| d\n"]


@pytest.fixture
def said() -> list[str]:
    """What the run tells besides what guests print."""
    return []


@pytest.fixture
def runs(tmp_path: Path, said: list[str]) -> Runs:
    return Runs(tmp_path, Limits(boot=120, whole=180), 2, said.append, said.append)


@pytest.fixture(scope="module")
def beds() -> list[Bed]:
    return [prepare(MACHINES[name], print) for name in NAMES]


@pytest.mark.vm
def test_guests_run_side_by_side_and_each_report_is_its_machines(
    runs: Runs, beds: list[Bed], said: list[str], tmp_path: Path
) -> None:
    reports = {bed.machine.name: report for bed, report in runs.run(beds, "uptime; exit 3")}
    assert {name: report.exit_code for name, report in reports.items()} == dict.fromkeys(NAMES, 3)
    for name, report in reports.items():
        assert f"{name}| {report.output}" in said
    assert emulators_of(tmp_path) == []


@pytest.mark.vm
def test_a_guest_that_does_not_boot_is_tried_once_more(
    runs: Runs, beds: list[Bed], said: list[str]
) -> None:
    no_init = replace(beds[0], machine=replace(beds[0].machine, kernel_words=("init=/usr",)))
    ((_, report),) = runs.run([no_init], "true")
    assert report.ending is Ending.NEVER_UP
    assert [text for text in said if "one more chance" in text] == [
        f"{NAMES[0]}: the guest did not come up; it is given one more chance"
    ]


@pytest.mark.vm
def test_all_guests_end_with_the_command(tmp_path: Path) -> None:
    machines = [f"--machine={name}" for name in NAMES]
    words = [*machines, f"--results={tmp_path}", "--at-once=2", "tests/vm/bed_tests/stuck.py"]
    command = subprocess.Popen(
        [sys.executable, "-m", "tests.vm.bed", "test", *words],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not all((tmp_path / name / "kernel").exists() for name in NAMES):
        assert time.monotonic() < deadline, "the guests do not come up"
        time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    assert command.wait(30) == 130
    assert emulators_of(tmp_path) == []
