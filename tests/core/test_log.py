from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from vfiocore import log
from vfiocore.log import VfioWarning


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
    log.info("device.opened", size_bytes=3)
    assert events == [{"event": "device.opened", "size_bytes": 3, "log_level": "info"}]


def test_a_warning_is_an_event_where_structlog_is_configured(
    events: list[structlog.types.EventDict],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.warn("migration.forced", "it will be slow", device="dev")
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
    log.info("device.opened", id="x")
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("unconfigured")
def test_a_warning_is_a_python_warning_without_a_configured_structlog() -> None:
    with pytest.warns(VfioWarning, match="it will be slow"):
        log.warn("migration.forced", "it will be slow")


def test_the_library_does_not_import_structlog_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "structlog")
    log.info("device.opened")
    assert "structlog" not in sys.modules
