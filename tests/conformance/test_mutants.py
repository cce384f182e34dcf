"""The suite catches backends and frontends that are wrong, and says what is wrong with them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

import vfiocore_pci.plugin
from vfiocore.log import VfioWarning
from vfiocore.testing import BackendUnderTest, DeviceUnderTest

from . import backends, frontends
from .mutants import CAUGHT, CAUGHT_FRONTENDS, Caught, Frontend, Honest, HonestIommufd

pytest_plugins = ["pytester"]

MODULES = {
    "LifeCycle": "life_cycle",
    "MapAndUnmap": "mapping",
    "BatchRollback": "mapping",
    "OverlapAndLimits": "limits",
    "Ranges": "limits",
    "AttachAndDetach": "attach",
    "Sharing": "attach",
    "TeardownLeaks": "leaks",
    "Errors": "mistakes",
    "Threads": "threads",
    "Regions": "regions",
    "Reset": "regions",
    "Irqs": "irqs",
}

QUIET = ("-q", "--capture=no", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
"""Options of the runs inside; hypothesis would look for what it knows in each."""


@define(eq=False)
class Run:
    """A plugin of pytest that gives the fixtures of the suites, and takes down how it went.

    Attributes:
        make: Makes what the fixtures give, for each test anew.
        passed: How many tests passed.
        failed: Those that failed, by name, with what they said.
        skipped: Those that could not be run, by name, with the reason.
    """

    make: Callable[[], Any]
    passed: int = 0
    skipped: dict[str, str] = field(factory=dict)
    failed: dict[str, str] = field(factory=dict)

    @pytest.fixture
    def backend(self) -> BackendUnderTest:
        given: BackendUnderTest = self.make()
        return given

    @pytest.fixture
    def device(self) -> DeviceUnderTest:
        given: DeviceUnderTest = self.make()
        return given

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2].partition("[")[0]
        if report.failed:
            self.failed[name] = self.failed.get(name, "") + str(report.longrepr)
        elif report.skipped:
            self.skipped[name] = str(report.longrepr)
        elif report.passed and report.when == "call":
            self.passed += 1


def run(folder: Path, topic: str, make: Callable[[], Any], test: str = "") -> Run:
    """Run a topic, or one test of it, as its user would: in a file with one class."""
    file = folder / f"test_{topic.lower()}.py"
    file.write_text(
        f"from vfiocore.testing.topics.{MODULES[topic]} import {topic}\n\n\n"
        f"class TestMutant({topic}):\n    pass\n"
    )
    seen = Run(make)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VfioWarning)
        chosen = f"{file}::TestMutant::{test}" if test else str(file)
        pytest.main([*QUIET, "--import-mode=importlib", chosen], plugins=[seen])
    return seen


# -- backends --------------------------------------------------------------------------------------
@pytest.mark.parametrize("caught", CAUGHT, ids=lambda caught: caught.plugin.__name__)
def test_a_bad_backend_is_caught_where_it_is_bad(tmp_path: Path, caught: Caught) -> None:
    topic, _, test = caught.test.partition(".")
    outcome = run(tmp_path, topic, caught.backend, test)
    assert test in outcome.failed
    assert caught.says in outcome.failed[test]


BACKEND_TOPICS = [topic for topic in MODULES if topic not in ("Regions", "Reset", "Irqs")]


@pytest.mark.parametrize("topic", BACKEND_TOPICS)
@pytest.mark.parametrize(
    ("plugin", "on"), [(Honest, backends.legacy), (HonestIommufd, backends.iommufd)]
)
def test_what_mutants_are_made_of_passes(tmp_path: Path, topic: str, plugin: Any, on: Any) -> None:
    outcome = run(tmp_path, topic, Caught(plugin, "", "", on).backend)
    assert outcome.failed == {}
    assert outcome.passed


@pytest.mark.parametrize("topic", BACKEND_TOPICS)
def test_a_backend_of_which_the_least_is_said_passes(tmp_path: Path, topic: str) -> None:
    outcome = run(tmp_path, topic, backends.the_least)
    assert outcome.failed == {}
    assert outcome.passed


@pytest.mark.parametrize("topic", ["MapAndUnmap", "OverlapAndLimits", "AttachAndDetach", "Sharing"])
@pytest.mark.parametrize("make", [backends.that_dies_of_faults, backends.that_writes_what_it_reads])
def test_what_devices_do_not_bear_is_not_tried(tmp_path: Path, topic: str, make: Any) -> None:
    outcome = run(tmp_path, topic, make)
    assert outcome.failed == {}
    assert outcome.passed


@pytest.mark.parametrize(
    ("make", "test", "reason"),
    [
        (
            backends.the_least,
            "Errors.test_too_much_memory_is_a_memlock_error",
            "declared: memlock_limit=None, no limit that a test could reach",
        ),
        (
            backends.the_least,
            "Errors.test_a_failed_map_is_a_dma_error",
            "BackendUnderTest.faults is None: nothing can be made to fail",
        ),
        (
            backends.the_least,
            "Sharing.test_memory_of_a_shared_container_is_pinned_once",
            "what is pinned cannot be seen",
        ),
        (
            backends.without_mappable_regions,
            "Errors.test_another_devices_bar_is_mapped_or_refused",
            "0000:02:00.0 has no region that can be mapped",
        ),
    ],
)
def test_what_cannot_be_tested_is_skipped_with_the_reason(
    tmp_path: Path, make: Callable[[], Any], test: str, reason: str
) -> None:
    topic, _, name = test.partition(".")
    outcome = run(tmp_path, topic, make, name)
    assert outcome.passed == 0
    assert outcome.failed == {}
    assert reason in outcome.skipped[name]


# -- addresses -------------------------------------------------------------------------------------
ROOM = 256
"""How many pages in a row the suite wants."""


def test_few_addresses_from_0_on_will_do(tmp_path: Path) -> None:
    outcome = run(tmp_path, "MapAndUnmap", lambda: backends.with_addresses(ROOM))
    assert outcome.failed == {}
    assert outcome.passed


def test_too_few_addresses_are_told(tmp_path: Path) -> None:
    name = "test_a_device_reads_what_is_mapped"
    outcome = run(tmp_path, "MapAndUnmap", lambda: backends.with_addresses(ROOM - 1), name)
    text = f"no {ROOM * backends.PAGE:#x} bytes in a row are usable in 0x0-"
    assert text in outcome.failed[name]


# -- frontends -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "test"), CAUGHT_FRONTENDS)
def test_a_bad_frontend_is_caught_where_it_is_bad(tmp_path: Path, kind: Any, test: str) -> None:
    plugins = [p for p in frontends.PLUGINS if p is not vfiocore_pci.plugin]
    topic, _, name = test.partition(".")
    frontend = Frontend(kind)
    outcome = run(tmp_path, topic, lambda: frontends.pci("legacy", [*plugins, frontend]), name)
    frontend.release()
    assert name in outcome.failed


def test_a_line_of_which_nobody_said_how_to_acknowledge_it_is_told(tmp_path: Path) -> None:
    card = frontends.pci("legacy")
    card.acknowledge = {}
    name = "test_an_interrupt_arrives"
    outcome = run(tmp_path, "Irqs", lambda: card, name)
    assert "has to be in DeviceUnderTest.acknowledge" in outcome.failed[name]


# -- the kit itself --------------------------------------------------------------------------------
def test_assertions_of_the_suite_are_explained(pytester: pytest.Pytester) -> None:
    """In a process of its own, where nothing has imported the suite before pytest rewrites it."""
    pytester.makepyfile(
        """
        from vfiocore.testing import checks

        def test_it():
            with checks.refused(ValueError, "it"):
                raise ValueError
            checks.nothing_left(lambda: ["a file"], "nothing")
        """
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["E*after nothing this is left: a file*", "E*assert not *a file*"])


def test_importing_the_kit_warns_of_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import vfiocore.testing\n\ndef test_it():\n    pass\n")
    result = pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_without_pytest_the_kit_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import importlib
    import sys

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pytest":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "vfiocore.testing")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vfiocore\[testing\]'"):
        importlib.import_module("vfiocore.testing")
