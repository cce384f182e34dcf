"""Devices behind nothing: registers and interrupts work, maps do not."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vfiocore.container import Capability
from vfiocore.errors import HostUnsupportedError, UnsupportedError
from vfiocore.framework import Framework
from vfiocore.host import Host, LinuxHost
from vfiocore.log import VfioWarning
from vfiocore.memory.backing import Backing
from vfiocore.memory.region import Ram
from vfiocore.session import Session
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology

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


def traces(host: Host, folder: str) -> dict[str, object]:
    """What is to be seen of a device that VFIO has, besides its group."""
    (name,) = host.listdir(f"{folder}/vfio-dev")
    own = f"{folder}/vfio-dev/{name}"
    return {
        "name": re.fullmatch("vfio[0-9]+", name) is not None,
        "device": host.realpath(f"{own}/device") == host.realpath(folder),
        "subsystem": host.realpath(f"{own}/subsystem"),
        "in its class": host.realpath(f"/sys/class/vfio-dev/{name}") == host.realpath(own),
        "number": host.exists(f"{own}/dev"),
        "node": host.exists(f"/dev/vfio/devices/{name}"),
    }


def test_a_device_without_an_iommu_has_the_folder_of_a_cdev_and_no_cdev(
    edu_noiommu: Device,
) -> None:
    machine = Topology().pci("0000:01:00.0", EduDevice, group=None, driver=None)
    simulated = SimHost(machine, noiommu=True)
    card = "/sys/bus/pci/devices/0000:01:00.0"
    simulated.write_file(f"{card}/driver_override", b"vfio-pci")
    simulated.write_file("/sys/bus/pci/drivers_probe", b"0000:01:00.0")
    found = traces(LinuxHost(), str(edu_noiommu.path))
    assert found == traces(simulated, card)
    assert (found["number"], found["node"]) == (False, False)


def test_iommufd_has_nothing_for_a_device_without_an_iommu(
    edu_noiommu: Device, framework: Framework
) -> None:
    with pytest.raises(HostUnsupportedError, match="no-IOMMU group"):
        Way.called("iommufd", framework).open(edu_noiommu)
