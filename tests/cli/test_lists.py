"""``vfiocore plugins``, ``devices`` and ``show``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vfiocore.cli.readiness import missing
from vfiocore.sysfs import read_device
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology

Run = Callable[..., Any]


def rows(text: str) -> dict[str, str]:
    """A table by its first column, without the heading."""
    return {line.split()[0]: line for line in text.splitlines()[1:]}


# -- plugins ---------------------------------------------------------------------------------------
def test_every_installed_plugin_is_listed_with_what_it_provides(run: Run) -> None:
    items = run("plugins", "--json").document["items"]
    provided = {what for item in items for what in item["provides"]}
    assert provided >= {
        "backend legacy",
        "backend iommufd",
        "device type vfio-pci",
        "device type vfio-platform",
        "device type vfio-ap",
        "device type vfio-ccw",
        "host sim",
    }
    assert {item["state"] for item in items} == {"loaded"}


def test_a_broken_plugin_is_a_row_and_no_warning(
    run: Run, distribution: Callable[[str, str], None]
) -> None:
    distribution("odd", "1 / 0")
    result = run("plugins")
    assert result.code == 0
    assert result.err == ""
    row = rows(result.out)["odd"]
    assert "broken" in row
    assert "ZeroDivisionError" in row


@pytest.mark.parametrize(
    ("variable", "states"),
    [
        ("-sim", {"sim": "blocked", "pci": "loaded"}),
        ("-vfiocore-sim", {"sim": "blocked", "pci": "loaded"}),
        ("pci,legacy", {"sim": "blocked", "pci": "loaded", "legacy": "loaded"}),
        ("", {"sim": "loaded", "pci": "loaded"}),
    ],
)
def test_the_environment_says_which_plugins_may_be_imported(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, states: dict[str, str]
) -> None:
    monkeypatch.setenv("VFIOCORE_PLUGINS", variable)
    items = run("plugins", "--json").document["items"]
    found = {item["name"]: item["state"] for item in items}
    assert {name: found[name] for name in states} == states


def test_what_a_blocked_plugin_provides_is_missed_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFIOCORE_PLUGINS", "-sim")
    result = run("devices", "--host", "sim")
    assert result.code == 2
    assert "vfiocore-sim" in result.err
    assert "blocked" in result.err


# -- devices ---------------------------------------------------------------------------------------
def test_devices_are_listed_with_what_they_lack(run: Run) -> None:
    found = rows(run("devices", "--host", "sim").out)
    assert found["0000:02:00.0"].split() == [
        *("0000:02:00.0", "pci", "vfio-pci", "1", "vfio0", "yes")
    ]
    assert found["0000:04:00.0"].endswith("no: its group has 0000:04:00.1 (e1000e)")
    assert found["0000:04:00.1"].endswith("no: e1000e has it, bind it to vfio-pci")
    assert found["10000000.timer"].endswith("yes")


@pytest.mark.parametrize(
    ("driver", "group", "lacks"),
    [
        ("vfio-pci", 1, ""),
        ("e1000e", None, "not in an IOMMU group"),
        (None, 1, "bind it to vfio-pci"),
        ("e1000e", 1, "e1000e has it, bind it to vfio-pci"),
    ],
)
def test_what_a_device_lacks_is_told_in_a_few_words(
    driver: str | None, group: int | None, lacks: str
) -> None:
    topology = Topology().pci("0000:02:00.0", EduDevice, group=group, driver=driver)
    host = SimHost(topology)
    assert missing(host, read_device(host, "/sys/bus/pci/devices/0000:02:00.0")) == lacks


@pytest.mark.parametrize(
    ("driver", "class_"), [("pci-stub", b"0x020000\n"), ("pcieport", b"0x060400\n"), (None, b"")]
)
def test_a_neighbour_that_leaves_dma_to_user_space_is_not_in_the_way(
    driver: str | None, class_: bytes
) -> None:
    topology = Topology().pci("0000:02:00.0", EduDevice, group=1)
    topology.pci("0000:02:00.1", group=1, driver=driver, files={"class": class_})
    host = SimHost(topology)
    assert missing(host, read_device(host, "/sys/bus/pci/devices/0000:02:00.0")) == ""


def test_devices_can_be_limited_to_a_bus(run: Run) -> None:
    document = run("devices", "--json", "--host", "sim", "--bus", "mdev").document
    assert {item["bus"] for item in document["items"]} == {"mdev"}
    assert all(item["ready"] and item["missing"] is None for item in document["items"])


def test_this_machine_can_always_be_listed(run: Run) -> None:
    document = run("devices", "--json", "--host", "linux").document
    assert document["host"] == "linux"


# -- show ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    ["0000:04:00.0", "/sys/bus/pci/devices/0000:04:00.0", "10000000.timer"],
)
def test_a_device_is_found_by_name_or_path(run: Run, name: str) -> None:
    device = run("show", "--json", "--host", "sim", name).document["device"]
    assert device["path"].endswith(name.rpartition("/")[2])


def test_a_device_is_shown_with_its_group(run: Run) -> None:
    result = run("show", "0000:04:00.0", "--host", "sim")
    assert result.code == 0
    assert "in group 3: 0000:04:00.1 (e1000e)" in result.out
    assert "ready   no: its group has 0000:04:00.1 (e1000e)" in result.out


def test_a_type_is_shown_with_its_properties(run: Run) -> None:
    document = run("show", "--json", "vfio-pci").document
    names = [prop["name"] for prop in document["properties"]]
    assert {"host", "sysfsdev", "fd", "iommufd", "x-balloon-allowed", "enable-migration"} <= {
        *names
    }
    assert document["of"] == "device"
    assert all(prop["help"] for prop in document["properties"])


def test_an_object_is_shown_too(run: Run) -> None:
    result = run("show", "iommufd")
    assert result.out.startswith("-object iommufd: ")
    assert "fd" in rows(result.out)


def test_what_is_neither_device_nor_type_is_told_with_the_types(run: Run) -> None:
    result = run("show", "vfio-pic", "--host", "sim")
    assert result.code == 3
    assert "no type is called so" in result.err
    assert "vfio-pci" in result.err
