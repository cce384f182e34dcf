"""Every frontend of this repository passes the suite, on both backends."""

from __future__ import annotations

import pytest

from vfiocore.testing import DeviceSuite, DeviceUnderTest
from vfiocore.testing.topics.regions import Reset

from .frontends import BACKENDS, WithoutReset, ap, ccw, pci, platform

on_both_backends = pytest.mark.parametrize("backend", BACKENDS)


@on_both_backends
class TestPci(DeviceSuite):
    @pytest.fixture
    def device(self, backend: str) -> DeviceUnderTest:
        return pci(backend)


@on_both_backends
class TestPlatform(DeviceSuite):
    @pytest.fixture
    def device(self, backend: str) -> DeviceUnderTest:
        return platform(backend)


@on_both_backends
class TestPlatformWithoutReset(Reset):
    @pytest.fixture
    def device(self, backend: str) -> DeviceUnderTest:
        return platform(backend, WithoutReset)


@on_both_backends
class TestAp(DeviceSuite):
    @pytest.fixture
    def device(self, backend: str) -> DeviceUnderTest:
        return ap(backend)


@on_both_backends
class TestCcw(DeviceSuite):
    @pytest.fixture
    def device(self, backend: str) -> DeviceUnderTest:
        return ccw(backend)
