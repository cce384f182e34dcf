from __future__ import annotations

from collections.abc import Iterator

import pytest

from vfiocore_sim.host import SimHost

from .machine import NOTHING, Way, left_behind


@pytest.fixture
def host() -> SimHost:
    return SimHost()


@pytest.fixture(params=["legacy", "iommufd", "passed"])
def way(request: pytest.FixtureRequest, host: SimHost) -> Iterator[Way]:
    """Each way of opening devices; whatever a test does, nothing may be left behind."""
    way = Way(request.param, host)
    yield way
    way.close_passed()
    assert left_behind(host) == NOTHING


@pytest.fixture
def legacy(host: SimHost) -> Iterator[Way]:
    yield Way("legacy", host)
    assert left_behind(host) == NOTHING


@pytest.fixture
def iommufd(host: SimHost) -> Iterator[Way]:
    yield Way("iommufd", host)
    assert left_behind(host) == NOTHING
