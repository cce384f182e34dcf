from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from vfiocore.config import Device as DeviceConfig
from vfiocore.config.types import OnOffAuto
from vfiocore.container import Container, DeviceTarget
from vfiocore.host import LinuxHost
from vfiocore.registration import DeviceSetup
from vfiocore_pci.device import PciDevice

from .fake import NAME, FakeFunction


@pytest.fixture
def function() -> FakeFunction:
    return FakeFunction(host=LinuxHost(), fd=-1, name=NAME)


@pytest.fixture
def wrap() -> Iterator[Callable[[FakeFunction], PciDevice]]:
    opened: list[PciDevice] = []

    def make(access: FakeFunction) -> PciDevice:
        config = DeviceConfig("vfio-pci", "dev0", {"enable-migration": OnOffAuto.AUTO})
        container = Container(host=access.host, backend="fake", label="a container")
        device = PciDevice(
            DeviceSetup(
                config=config, target=DeviceTarget(NAME), access=access, container=container
            )
        )
        opened.append(device)
        return device

    yield make
    for device in opened:
        device.release()
