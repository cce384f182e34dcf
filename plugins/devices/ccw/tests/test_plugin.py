from __future__ import annotations

import pytest

from vfiocore.config import Config, Device, Object, Schema, TypeSchema, validate
from vfiocore.errors import ConfigError
from vfiocore.uapi.vfio import VFIO_DEVICE_API_CCW_STRING
from vfiocore_ccw import plugin

MDEV = "/sys/bus/mdev/devices/7e270a25-e163-4922-af60-757fc8ed48c6"
SCHEMA = Schema.of(
    devices=[plugin.SCHEMA], objects=[TypeSchema("iommufd", "")], backend_links=["iommufd"]
)
IOMMUFD = Object.of("iommufd", id="iommufd0")


def problems(device: Device) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(Config.of(IOMMUFD, device), SCHEMA)
    return [problem.path.rpartition(".")[2] for problem in caught.value.problems]


def test_one_device_type_is_registered() -> None:
    (found,) = plugin.vfio_register_device_types()
    assert found.name == "vfio-ccw"
    assert found.always_mdev
    assert not found.needs_kvm
    assert found.device_api == VFIO_DEVICE_API_CCW_STRING


def test_sysfsdev_alone_selects_a_device() -> None:
    (device,) = validate(Config.of(Device.of("vfio-ccw", sysfsdev=MDEV)), SCHEMA).devices
    assert device.properties["sysfsdev"] == MDEV
    assert device.properties["force-orb-pfch"] is False


def test_sysfsdev_is_required() -> None:
    assert problems(Device.of("vfio-ccw")) == ["sysfsdev"]


def test_sysfsdev_is_required_beside_a_passed_fd() -> None:
    assert problems(Device.of("vfio-ccw", fd=9, iommufd="iommufd0")) == ["sysfsdev"]


def test_a_passed_fd_needs_an_iommufd() -> None:
    assert problems(Device.of("vfio-ccw", fd=9, sysfsdev=MDEV)) == ["fd"]


def test_there_is_no_host_property() -> None:
    assert problems(Device.of("vfio-ccw", host="0.0.0001", sysfsdev=MDEV)) == ["host"]
