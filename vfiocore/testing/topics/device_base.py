"""The fixtures that the topics of a frontend share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vfiocore.device import Device
from vfiocore.session import Session
from vfiocore.testing.under_test import DeviceUnderTest


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
