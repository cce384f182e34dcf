"""Topologies, in Python and in TOML."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from vfiocore import sysfs
from vfiocore_sim.device import SimDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import (
    AP_MATRIX_UUID,
    CCW_DISK_UUID,
    Topology,
    TopologyError,
)


def test_the_default_machine_has_all_kinds_of_devices() -> None:
    host = SimHost()
    assert host.listdir("/sys/bus/pci/devices") == [
        "0000:02:00.0",
        "0000:03:00.0",
        "0000:04:00.0",
        "0000:04:00.1",
        "0000:05:00.0",
        "0000:06:00.0",
        "0000:06:00.1",
        "0000:07:00.0",
    ]
    assert host.listdir("/sys/bus/platform/devices") == ["10000000.timer"]
    assert host.listdir("/sys/bus/mdev/devices") == sorted([AP_MATRIX_UUID, CCW_DISK_UUID])
    disk = sysfs.read_device(host, f"/sys/bus/mdev/devices/{CCW_DISK_UUID}")
    assert disk.path == f"/sys/devices/css0/0.0.0001/{CCW_DISK_UUID}"


def test_two_hosts_of_one_topology_do_not_share_devices() -> None:
    topology = Topology.default()
    first, second = SimHost(topology), SimHost(topology)
    assert first.device("0000:02:00.0") is not second.device("0000:02:00.0")


def test_a_device_object_belongs_to_one_host() -> None:
    topology = Topology().pci("0000:01:00.0", SimDevice(), group=1)
    SimHost(topology)
    with pytest.raises(ValueError, match="factory"):
        SimHost(topology)


def test_a_topology_is_read_from_toml() -> None:
    topology = Topology.from_toml("""
        [host]
        memlock_limit = 65536

        [groups.1]
        aperture = [0, 0xffffffff]
        reserved = [{ first = 0x8000000, last = 0x80fffff, kind = "msi" }]

        [[pci]]
        name = "0000:01:00.0"
        device = "edu"
        options = { dma_mask = 32 }
        group = 1

        [[pci]]
        name = "0000:01:00.1"
        group = 1
        driver = "e1000e"
        files = { vendor = "0x8086" }

        [[platform]]
        name = "1000.timer"
        device = "vfiocore_sim.device:SimDevice"
        group = 2

        [[subchannel]]
        name = "0.0.0002"

        [[mdev]]
        name = "11111111-2222-3333-4444-555555555555"
        parent = "0.0.0002"
        device = "vfiocore_sim.device:SimDevice"

        [[ap_matrix]]
        name = "21111111-2222-3333-4444-555555555555"
    """)
    host = SimHost(topology, **topology.host_options)
    assert host.memlock_limit() == 65536
    assert host.read_file("/sys/bus/pci/devices/0000:01:00.1/vendor") == b"0x8086\n"
    regions = host.read_file("/sys/kernel/iommu_groups/1/reserved_regions")
    assert regions == b"0x0000000008000000 0x00000000080fffff msi\n"
    assert len(host.listdir("/sys/bus/mdev/devices")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pci = [", "not TOML"),
        ("[[usb]]\nname = 'x'", "unknown tables: usb"),
        ("[[pci]]\nnom = 'x'", r"pci\[0\]"),
        ("[[mdev]]\nname = 'x'\nparent = 'y'", "no device y"),
        ("[groups.1]\nspeed = 1", r"groups\.1"),
        ("[[pci]]\nname = '0000:01:00.0'\ngroup = 1\ndevice = 'toaster'", "no device program"),
        ("[[pci]]\nname = '0000:01:00.0'\ngroup = 1\ndevice = 'os:getcwd'", "SimDevice"),
        ("[[pci]]\nname = '0000:01:00.0'\ngroup = 1\ndevice = 'no_such:X'", "no_such"),
    ],
)
def test_a_topology_that_cannot_be_says_why(text: str, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        SimHost(Topology.from_toml(text))


def test_a_name_is_used_once() -> None:
    topology = Topology().pci("0000:01:00.0", group=1)
    with pytest.raises(TopologyError, match="two pci devices"):
        topology.pci("0000:01:00.0", group=2)


def test_third_parties_name_their_devices_by_module_and_class() -> None:
    text = "[[pci]]\nname = '0000:01:00.0'\ngroup = 1\ndevice = 'vfiocore_sim.device:SimDevice'"
    assert isinstance(SimHost(Topology.from_toml(text)).device("0000:01:00.0"), SimDevice)


def test_the_plugin_makes_a_host_from_a_file(tmp_path: Any) -> None:
    from vfiocore_sim import plugin

    (kind,) = plugin.vfio_register_hosts()
    path = tmp_path / "machine.toml"
    path.write_text("[host]\npage_size = 65536\n[[ap_matrix]]\n")
    assert kind.create(str(path)).page_size == 65536
    assert kind.create(None).page_size == mmap.PAGESIZE


def test_a_page_is_no_smaller_than_the_real_one() -> None:
    with pytest.raises(ValueError, match="multiple"):
        SimHost(Topology(), page_size=mmap.PAGESIZE // 2)


def test_larger_pages_are_the_unit_of_mapping(machine: Any, buffer: Any, refused: Any) -> None:
    import errno

    page = 16 * mmap.PAGESIZE
    kernel = machine(page_size=page)
    container, _groups = kernel.container_with(1)
    memory = buffer(32)
    aligned = -(-memory.address // page) * page
    assert kernel.info(container).page_sizes & -kernel.info(container).page_sizes == page
    with refused(errno.EINVAL):
        kernel.map(container, 0, aligned, mmap.PAGESIZE)
    kernel.map(container, 0, aligned, page)
