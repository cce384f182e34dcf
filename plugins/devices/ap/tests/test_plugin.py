from __future__ import annotations

import pytest

from vfiocore.config import Config, Device, Object, OnOffAuto, Schema, TypeSchema, validate
from vfiocore.errors import ConfigError
from vfiocore.uapi.vfio import VFIO_DEVICE_API_AP_STRING
from vfiocore_ap import plugin

MDEV = "/sys/bus/mdev/devices/6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01"
SCHEMA = Schema.of(
    devices=[plugin.SCHEMA], objects=[TypeSchema("iommufd", "")], backend_links=["iommufd"]
)
IOMMUFD = Object.of("iommufd", id="iommufd0")


def problems(device: Device) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(Config.of(IOMMUFD, device), SCHEMA)
    return [str(problem) for problem in caught.value.problems]


def test_one_device_type_is_registered() -> None:
    (found,) = plugin.vfio_register_device_types()
    assert found.name == "vfio-ap"
    assert found.always_mdev
    assert found.needs_kvm
    assert found.device_api == VFIO_DEVICE_API_AP_STRING


@pytest.mark.parametrize("selector", [{"sysfsdev": MDEV}, {"fd": 9, "iommufd": "iommufd0"}])
def test_sysfsdev_or_a_passed_fd_selects_a_device(selector: dict[str, str]) -> None:
    (device,) = validate(Config.of(IOMMUFD, Device.of("vfio-ap", **selector)), SCHEMA).devices
    assert device.properties["enable-migration"] is OnOffAuto.AUTO


def test_a_device_has_to_be_selected() -> None:
    (problem,) = problems(Device.of("vfio-ap"))
    assert "give sysfsdev= or fd=" in problem


def test_a_passed_fd_needs_an_iommufd() -> None:
    (problem,) = problems(Device.of("vfio-ap", fd=9))
    assert "fd passing works only with an iommufd object" in problem


def test_there_is_no_host_property() -> None:
    (problem,) = problems(Device.of("vfio-ap", host="matrix", sysfsdev=MDEV))
    assert ".host: unknown key" in problem
