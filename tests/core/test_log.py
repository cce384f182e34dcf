from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from vfiocore.log import Log, VfioWarning

LOG = Log()


@pytest.fixture
def events() -> Iterator[list[structlog.types.EventDict]]:
    """What an application that has configured structlog gets."""
    seen = structlog.testing.LogCapture()
    structlog.configure(processors=[seen])
    yield seen.entries
    structlog.reset_defaults()


@pytest.fixture
def unconfigured() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def test_an_event_reaches_a_configured_structlog(events: list[structlog.types.EventDict]) -> None:
    LOG.info("device.opened", size_bytes=3)
    assert events == [{"event": "device.opened", "size_bytes": 3, "log_level": "info"}]


def test_a_warning_is_an_event_where_structlog_is_configured(
    events: list[structlog.types.EventDict],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LOG.warn_of("migration.forced", "it will be slow", device="dev")
    assert events == [
        {
            "event": "migration.forced",
            "message": "it will be slow",
            "device": "dev",
            "log_level": "warning",
        }
    ]


@pytest.mark.usefixtures("unconfigured")
def test_nothing_is_printed_before_the_application_configures_structlog(
    capsys: pytest.CaptureFixture[str],
) -> None:
    LOG.info("device.opened", id="x")
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("unconfigured")
def test_a_warning_is_a_python_warning_without_a_configured_structlog() -> None:
    with pytest.warns(VfioWarning, match="it will be slow"):
        LOG.warn_of("migration.forced", "it will be slow")


def test_the_library_does_not_import_structlog_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "structlog")
    LOG.info("device.opened")
    assert "structlog" not in sys.modules


# -- a logger of one's own -------------------------------------------------------------------------
class Own:
    """A logger of an application that has nothing to do with structlog."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **facts: object) -> None:
        self.entries.append(("info", event, facts))

    def warning(self, event: str, **facts: object) -> None:
        self.entries.append(("warning", event, facts))


def test_a_logger_of_its_own_gets_everything_and_structlog_nothing(
    events: list[structlog.types.EventDict],
) -> None:
    own = Own()
    log = Log(own)
    log.info("device.opened", size_bytes=3)
    log.warn_of("migration.forced", "it will be slow", device="dev")
    assert own.entries == [
        ("info", "device.opened", {"size_bytes": 3}),
        ("warning", "migration.forced", {"message": "it will be slow", "device": "dev"}),
    ]
    assert events == []


@pytest.mark.usefixtures("unconfigured")
def test_a_logger_of_its_own_needs_no_structlog_and_makes_no_python_warning() -> None:
    own = Own()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Log(own).warn_of("migration.forced", "it will be slow")
    assert [event for _, event, _ in own.entries] == ["migration.forced"]
