"""The fixtures that the topics of a frontend share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from attrs import frozen

from vfiocore.device import Device
from vfiocore.irq import Irq
from vfiocore.session import Session
from vfiocore.testing.checks import needs
from vfiocore.testing.under_test import DeviceUnderTest


@frozen
class Line:
    """An interrupt index, and what is declared of it.

    Attributes:
        irq: The index.
        fire: Makes the device signal its first vector.
        acknowledge: Tells the device that it was seen.
        lasts: True if the device goes on signalling until it is told.
    """

    irq: Irq
    fire: Callable[[], object]
    acknowledge: Callable[[], object]
    lasts: bool

    def end(self) -> None:
        """Leave the device quiet, and the index disabled."""
        self.acknowledge()
        self.irq.disable()


class DeviceTopic:
    """Base of a topic; whoever runs it gives the fixture ``device``."""

    @pytest.fixture
    def session(self, device: DeviceUnderTest) -> Iterator[Session]:
        """The session that the device is open in."""
        with device.open() as session:
            yield session

    @pytest.fixture
    def live(self, session: Session, device: DeviceUnderTest) -> Device:
        """The open device."""
        found: Device = session[device.id]
        return found

    @pytest.fixture
    def lines(self, live: Device, session: Session, device: DeviceUnderTest) -> list[Line]:
        """Every index that is declared to interrupt."""
        needs(device.interrupts, "DeviceUnderTest.interrupts is empty")
        return [_line(live.irq(index), session, device) for index in device.interrupts]


def _line(irq: Irq, session: Session, device: DeviceUnderTest) -> Line:
    return Line(
        irq,
        _bound(device.interrupts, irq.index, session),
        _bound(device.acknowledge, irq.index, session),
        lasts=irq.automasked and irq.index in device.acknowledge,
    )


def _bound(
    functions: Mapping[int, Callable[[Any], object]], index: int, session: Session
) -> Callable[[], object]:
    function = functions.get(index, _nothing)
    return lambda: function(session)


def _nothing(_session: Session) -> None:
    return
