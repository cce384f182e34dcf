"""The page about what was proved is made from the reports of the guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.bed.errors import BedError
from tests.vm.bed.machines import MACHINES
from tests.vm.bed.proof import Outcome, outcomes, page, topic

CASES = """
<testcase classname="tests.vm.guest.test_edu" name="test_a_card[type1v2]" />
<testcase classname="tests.vm.guest.test_edu" name="test_a_card[iommufd-4]" />
<testcase classname="tests.vm.guest.test_edu" name="test_a_card[iommufd-5]" />
<testcase classname="tests.vm.guest.test_edu.TestType1.Errors" name="test_it"><skipped /></testcase>
<testcase classname="tests.vm.guest.test_edu" name="test_a_fact" />
"""
REPORT = f"<testsuites><testsuite>{CASES}</testsuite></testsuites>"
EDU = "tests/vm/guest/test_edu.py"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    module = tmp_path / EDU
    module.parent.mkdir(parents=True)
    module.write_text('"""A card moves data.\n\nAnd more."""\n')
    return tmp_path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for machine in MACHINES:
        folder = tmp_path / "results" / machine
        folder.mkdir(parents=True)
        (folder / "junit.xml").write_text(REPORT)
        (folder / "kernel").write_text("7.2.1\n")
    return tmp_path / "results"


def test_a_report_tells_module_way_and_verdict() -> None:
    assert list(outcomes(REPORT)) == [
        Outcome(EDU, "type1v2", "passed"),
        Outcome(EDU, "iommufd", "passed"),
        Outcome(EDU, "iommufd", "passed"),
        Outcome(EDU, "", "skipped"),
        Outcome(EDU, "", "passed"),
    ]


def test_a_topic_is_the_first_line_of_what_a_module_says(repository: Path) -> None:
    assert topic(repository / EDU) == "A card moves data"


def test_the_page_counts_what_passed_by_way(results: Path, repository: Path) -> None:
    lines = page(results, repository).splitlines()

    cell = "type1v2 1<br>iommufd 2<br>1"
    assert f"| A card moves data | {' | '.join([cell] * len(MACHINES))} |" in lines
    assert any(line.startswith("| `s390x` |") and line.endswith("| 7.2.1 | 4 |") for line in lines)


def test_a_failure_is_not_hidden(results: Path, repository: Path) -> None:
    failed = REPORT.replace('name="test_a_fact" />', 'name="test_a_fact"><failure /></testcase>')
    (results / "x86_64" / "junit.xml").write_text(failed)

    assert "type1v2 1<br>iommufd 2<br>0, **1 failed**" in page(results, repository)


def test_a_machine_without_a_report_is_an_error(results: Path, repository: Path) -> None:
    (results / "s390x" / "junit.xml").unlink()
    with pytest.raises(BedError, match="no report of the machine s390x"):
        page(results, repository)
