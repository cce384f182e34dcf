from __future__ import annotations

from collections.abc import Callable

import pytest

from vfiocore.config import Config, Device, Object, selector_check, selectors
from vfiocore.errors import Problem

Problems = Callable[[Config], tuple[Problem, ...]]
ValidDevice = Callable[[Config], Device]

IOMMUFD = Object.of("iommufd", id="iommufd0")


def test_a_device_without_any_selector_is_told_which_there_are(problems: Problems) -> None:
    assert problems(Config.of(Device.of("vfio-pci"))) == (
        Problem(
            "device[0] (vfio-pci)", "no host device is selected", "give host=, sysfsdev= or fd="
        ),
    )


@pytest.mark.parametrize(
    "properties",
    [
        {"host": "2:0.0"},
        {"sysfsdev": "/sys/bus/mdev/devices/x"},
        {"host": "2:0.0", "iommufd": "iommufd0"},
        {"sysfsdev": "/sys/bus/mdev/devices/x", "iommufd": "iommufd0"},
        {"fd": 23, "iommufd": "iommufd0"},
        {"fd": "nic", "iommufd": "iommufd0"},
        {"fd": 23, "iommufd": "iommufd0", "sysfsdev": "/sys/bus/mdev/devices/x"},
    ],
)
def test_these_selectors_are_fine(valid_device: ValidDevice, properties: dict[str, str]) -> None:
    device = valid_device(Config.of(IOMMUFD, Device("vfio-pci", None, properties)))

    assert device.type == "vfio-pci"


def test_host_with_sysfsdev_is_refused_and_says_what_to_remove(problems: Problems) -> None:
    (problem,) = problems(Config.of(Device.of("vfio-pci", host="2:0.0", sysfsdev="/sys/x")))

    assert problem.path == "device[0] (vfio-pci).host"
    assert problem.message == "host and sysfsdev both select the device"
    assert problem.hint is not None
    assert problem.hint.startswith("remove host=")


def test_host_with_fd_is_refused_and_says_what_to_remove(problems: Problems) -> None:
    (problem,) = problems(
        Config.of(IOMMUFD, Device.of("vfio-pci", host="2:0.0", fd=3, iommufd="iommufd0"))
    )

    assert problem.message == "host and fd both select the device"
    assert problem.hint is not None
    assert problem.hint.startswith("remove host=")


def test_an_fd_without_an_iommufd_is_refused(problems: Problems) -> None:
    (problem,) = problems(Config.of(Device.of("vfio-pci", fd=23)))

    assert problem.path == "device[0] (vfio-pci).fd"
    assert problem.message == "fd passing works only with an iommufd object (iommufd=)"


def test_an_fd_with_a_dangling_link_is_told_of_the_link_only(problems: Problems) -> None:
    (problem,) = problems(Config.of(Device.of("vfio-pci", fd=23, iommufd="iommufd0")))

    assert problem.path == "device[0] (vfio-pci).iommufd"


def test_an_fd_alone_is_refused_where_sysfs_must_be_read(problems: Problems) -> None:
    (problem,) = problems(Config.of(IOMMUFD, Device.of("vfio-platform", fd=23, iommufd="iommufd0")))

    assert problem == Problem(
        "device[0] (vfio-platform).fd",
        "fd needs sysfsdev beside it: its compatible string is read from sysfs",
        "add sysfsdev=PATH",
    )


def test_an_fd_with_sysfsdev_is_fine_where_sysfs_must_be_read(valid_device: ValidDevice) -> None:
    device = Device.of("vfio-platform", fd=23, sysfsdev="/sys/x", iommufd="iommufd0")

    assert valid_device(Config.of(IOMMUFD, device)).properties["sysfsdev"] == "/sys/x"


def test_a_platform_host_is_a_bare_name(problems: Problems) -> None:
    (problem,) = problems(Config.of(Device.of("vfio-platform", host="soc/eth0")))

    assert problem.message == '"soc/eth0" has a "/": a path goes into sysfsdev'


def test_a_check_may_be_given_the_properties_themselves() -> None:
    by_property = selector_check(selectors=(selectors.SYSFSDEV, selectors.FD))

    assert by_property == selector_check(selectors=("sysfsdev", "fd"))
    assert [p.hint for p in by_property(Device.of("vfio-ap"))] == ["give sysfsdev= or fd="]


def test_several_contradictions_come_at_once(problems: Problems) -> None:
    config = Config.of(Device.of("vfio-platform", host="eth0", sysfsdev="/sys/x", fd=3))

    assert [problem.path for problem in problems(config)] == [
        "device[0] (vfio-platform).host",
        "device[0] (vfio-platform).host",
        "device[0] (vfio-platform).fd",
    ]


def test_migration_is_auto_and_ballooning_off_unless_said() -> None:
    assert selectors.ENABLE_MIGRATION.default == "auto"
    assert selectors.X_BALLOON_ALLOWED.default is False
