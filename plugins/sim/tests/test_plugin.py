"""What ``--host sim`` and ``--host sim:FILE`` make."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfiocore.host import Host
from vfiocore_sim.plugin import vfio_register_hosts
from vfiocore_sim.topology import TopologyError

MACHINE = """
[host]
memlock_limit = 65536

[[pci]]
name = "0000:01:00.0"
device = "edu"
group = 4
"""


def sim(path: Path | None = None) -> Host:
    (kind,) = vfio_register_hosts()
    assert kind.name == "sim"
    return kind.create(str(path) if path else None)


def test_without_a_file_the_machine_is_the_default_one() -> None:
    assert "0000:02:00.0" in sim().listdir("/sys/bus/pci/devices")


def test_a_file_describes_the_machine_and_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE)
    host = sim(path)
    assert "4" in host.listdir("/dev/vfio")
    assert host.memlock_limit() == 65536


def test_an_option_that_no_machine_has_is_named(tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE.replace("memlock_limit", "memlock"))
    with pytest.raises(TopologyError, match="memlock"):
        sim(path)
