from __future__ import annotations

import errno
import os

import pytest

from vfiocore.errors import DeviceNotFoundError, HostUnsupportedError
from vfiocore.sysfs import (
    device_number,
    device_path,
    group_devices,
    list_devices,
    mdev_api,
    read_device,
    read_text,
)
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import AP_MATRIX_UUID

EDU = "0000:02:00.0"


@pytest.fixture
def machine() -> SimHost:
    return SimHost()


def test_a_device_is_read_through_its_link(machine: SimHost) -> None:
    device = read_device(machine, device_path("pci", EDU))
    assert (device.name, device.bus, device.driver, device.group) == (EDU, "pci", "vfio-pci", 1)
    assert device.path.startswith("/sys/devices/")
    assert device.cdev == "vfio0"
    assert not device.is_mdev


def test_a_device_on_a_host_driver_has_no_cdev(machine: SimHost) -> None:
    device = read_device(machine, device_path("pci", "0000:04:00.1"))
    assert (device.driver, device.cdev) == ("e1000e", None)


def test_a_mediated_device_is_known_by_its_bus(machine: SimHost) -> None:
    assert all(device.is_mdev for device in list_devices(machine, "mdev"))


def test_a_device_that_is_not_there_is_an_error(machine: SimHost) -> None:
    with pytest.raises(DeviceNotFoundError, match="0000:ff") as caught:
        read_device(machine, device_path("pci", "0000:ff:00.0"))
    assert caught.value.errno == errno.ENOENT


def test_the_devices_of_a_bus_are_sorted(machine: SimHost) -> None:
    names = [device.name for device in list_devices(machine, "pci")]
    assert names == sorted(names)
    assert EDU in names


def test_a_bus_that_does_not_exist_has_no_devices(machine: SimHost) -> None:
    assert list_devices(machine, "no-such-bus") == []


def test_the_devices_of_a_group_are_all_named(machine: SimHost) -> None:
    names = [device.name for device in group_devices(machine, 3)]
    assert names == ["0000:04:00.0", "0000:04:00.1"]


def test_a_group_that_does_not_exist_is_an_error(machine: SimHost) -> None:
    with pytest.raises(DeviceNotFoundError):
        group_devices(machine, 999)


def test_a_device_that_is_unplugged_while_the_bus_is_read_is_left_out(
    machine: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = machine.listdir

    def listdir(path: str) -> list[str]:
        names = real(path)
        return [*names, "0000:ff:00.0"] if path.endswith("/pci/devices") else names

    monkeypatch.setattr(machine, "listdir", listdir)
    assert [device.name for device in list_devices(machine, "pci")] == real("/sys/bus/pci/devices")


def test_the_number_of_a_cdev_is_that_of_its_node(machine: SimHost) -> None:
    device = read_device(machine, device_path("pci", EDU))
    fd = machine.open(f"/dev/vfio/devices/{device.cdev}")
    rdev = machine.fstat(fd).rdev
    assert device_number(machine, device) == (os.major(rdev), os.minor(rdev))
    machine.close(fd)


def test_a_device_without_a_cdev_says_what_that_takes(machine: SimHost) -> None:
    device = read_device(machine, device_path("pci", "0000:04:00.1"))
    with pytest.raises(HostUnsupportedError, match="legacy backend"):
        device_number(machine, device)


def test_a_mediated_device_says_what_its_interface_is(machine: SimHost) -> None:
    assert mdev_api(machine, read_device(machine, device_path("mdev", AP_MATRIX_UUID))) == "vfio-ap"


def test_a_device_that_is_not_mediated_does_not_say(machine: SimHost) -> None:
    assert mdev_api(machine, read_device(machine, device_path("pci", EDU))) is None


def test_an_attribute_that_cannot_be_read_is_none(machine: SimHost) -> None:
    path = read_device(machine, device_path("pci", EDU)).path
    assert read_text(machine, f"{path}/vendor") == "0x1234"
    assert read_text(machine, f"{path}/no-such-attribute") is None
