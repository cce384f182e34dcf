"""Devices behind nothing: registers and interrupts work, maps do not."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vfiocore.container import Capability
from vfiocore.errors import HostUnsupportedError, UnsupportedError
from vfiocore.framework import Framework
from vfiocore.log import VfioWarning
from vfiocore.memory.backing import Backing
from vfiocore.memory.region import Ram
from vfiocore.session import Session

from . import edu as card_of
from .devices import Device
from .way import Way


@contextmanager
def opened(way: Way, device: Device) -> Iterator[Session]:
    """A session with a device, after the warning about what the device can do."""
    with pytest.warns(VfioWarning, match="can read and write all memory"):
        session = way.open(device)
    with session:
        yield session


def test_registers_and_interrupts_work_without_an_iommu(edu_noiommu: Device, noiommu: Way) -> None:
    with opened(noiommu, edu_noiommu) as session, card_of.running(session["dev0"]) as vector:
        bar = session["dev0"].bars[0]
        assert bar.read32(card_of.IDENTITY) == 0x010000ED
        for _ in range(10):
            bar.write32(card_of.IRQ_RAISE, 1)
            assert vector.wait(timeout=card_of.SECONDS) == 1
            bar.write32(card_of.IRQ_ACK, 1)


def test_memory_cannot_be_mapped_without_an_iommu(edu_noiommu: Device, noiommu: Way) -> None:
    assert_not_mapped(edu_noiommu, noiommu)


def test_memory_cannot_be_mapped_for_a_platform_device_without_an_iommu(
    platform_noiommu: Device, noiommu: Way
) -> None:
    assert_not_mapped(platform_noiommu, noiommu)


def assert_not_mapped(device: Device, way: Way) -> None:
    with opened(way, device) as session:
        assert session["dev0"].container.capabilities == Capability.NO_IOMMU
        with pytest.raises(UnsupportedError, match="there is no IOMMU") as caught:
            session.dma_alloc(session.host.page_size)
        assert caught.value.errno == errno.ENOTTY
        with Backing.allocate(session.host, session.host.page_size) as backing:
            ram = Ram("ram", session.host.page_size, backing=backing)
            with pytest.raises(UnsupportedError):
                session.memory.root.add(ram, 0)
            assert session.memory.root.children == []


def test_a_device_without_an_iommu_is_not_opened_unless_that_is_asked_for(
    edu_noiommu: Device, framework: Framework
) -> None:
    with pytest.raises(HostUnsupportedError, match="could write anywhere in memory") as caught:
        Way.called("type1v2", framework).open(edu_noiommu)
    assert "noiommu=on" in (caught.value.hint or "")


def test_iommufd_has_nothing_for_a_device_without_an_iommu(
    edu_noiommu: Device, framework: Framework
) -> None:
    with pytest.raises(HostUnsupportedError, match="no-IOMMU group"):
        Way.called("iommufd", framework).open(edu_noiommu)
