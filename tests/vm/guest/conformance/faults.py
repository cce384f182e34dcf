"""What others do wrong, and tests that fail for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from tests.vm.guest.way import WAYS, Way

ANYHOW = frozenset(WAYS)


@dataclass(frozen=True)
class Fault:
    """What others do wrong.

    Attributes:
        reason: What it is.
        ways: The ways of opening devices in which it shows.
        run: False if it is not tried: the kernel does not come back from it, or the test waits in
            vain.
    """

    reason: str
    ways: frozenset[str] = ANYHOW
    run: bool = True


def expect(faults: Mapping[str, Fault], request: pytest.FixtureRequest, way: Way) -> None:
    """Let a test fail where that is known."""
    fault = faults.get(request.function.__name__)
    if fault is not None and way.name in fault.ways:
        request.applymarker(pytest.mark.xfail(reason=fault.reason, run=fault.run))
