"""The backend and its card pass the suites that vfiocore gives to every author."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import partial

import pytest
from vfiocore_loopback import card, plugin

from vfiocore import Framework, Session
from vfiocore.device import Device
from vfiocore.host import LinuxHost
from vfiocore.memory import Access
from vfiocore.testing import (
    BackendSuite,
    BackendUnderTest,
    DeviceFault,
    DeviceSuite,
    DeviceUnderTest,
    Register,
)


class Loopback(BackendUnderTest):
    """What is promised; cards are asked directly what they reach, without a copy."""

    def device_read(self, device: Device, iova: int, size: int) -> bytes:
        return ctypes.string_at(self._reach(device, iova, size, Access.READ), size)

    def device_write(self, device: Device, iova: int, data: bytes) -> None:
        ctypes.memmove(self._reach(device, iova, len(data), Access.WRITE), data, len(data))

    def leftovers(self) -> Sequence[str]:
        return leftovers()

    def _reach(self, device: Device, iova: int, size: int, access: Access) -> int:
        assert isinstance(device.access, card.Card)
        try:
            return device.access.reach(iova, size, access)
        except card.UnitFault as fault:
            raise DeviceFault(str(fault)) from None


def leftovers() -> list[str]:
    """Slots that are taken, and cards that are powered."""
    files = [link for link in map(_target, os.listdir("/proc/self/fd")) if "loopback-card" in link]
    return [*plugin.TAKEN, *files]


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""  # that of the listing itself


class TestBackend(BackendSuite):
    @pytest.fixture
    def backend(self) -> BackendUnderTest:
        return Loopback(
            host=LinuxHost(),
            plugins=[plugin],
            name="loopback",
            devices=("loopback-card,slot=0", "loopback-card,slot=1"),
            max_mappings=64,
            checks_memory=False,
        )


class TestCard(DeviceSuite):
    @pytest.fixture
    def device(self) -> DeviceUnderTest:
        words = "-object loopback,id=unit0 -device loopback-card,id=device,slot=0,loopback=unit0"
        framework = Framework([plugin], autoload=False, host=LinuxHost())
        return DeviceUnderTest(
            open=partial(framework.open, words),
            leftovers=leftovers,
            registers=(
                Register(region=0, offset=card.SOURCE, width=8, initial=0, keeps=0x0102_0304_0506),
                Register(region=0, offset=card.STATUS, width=8, initial=0),
            ),
            interrupts={0: copy_nothing},
        )


def copy_nothing(session: Session) -> None:
    session["device"].region(0).write64(card.SIZE, 0)
