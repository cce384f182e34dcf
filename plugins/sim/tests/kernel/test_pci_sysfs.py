"""The attribute files of a PCI function that user space reads and writes."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore.uapi.pci_regs import PCI_HEADER_TYPE, PCI_HEADER_TYPE_MFD
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology
from vfiocore_sim.vfio.pci import Bar, PciDevice

CARD = "0000:02:00.0"
FOLDER = f"/sys/bus/pci/devices/{CARD}"


class ManyBars(PciDevice):
    """One BAR of each kind."""

    vendor_id, device_id, class_code = 0x1234, 0x5678, 0xFF0000
    bars = (
        Bar(index=0, size=0x1000),
        Bar(index=1, size=0x20, io=True),
        Bar(index=2, size=0x4000, wide=True, prefetchable=True),
    )


def machine(program: Any) -> SimHost:
    return SimHost(Topology().pci(CARD, program, group=1))


def test_the_resources_are_a_line_for_each_bar_and_window() -> None:
    lines = machine(ManyBars).read_file(f"{FOLDER}/resource").decode().splitlines()
    rows = [[int(word, 16) for word in line.split()] for line in lines]
    assert len(rows) == 13
    sizes = [last - first + 1 if flags else 0 for first, last, flags in rows]
    assert sizes == [0x1000, 0x20, 0x4000, *[0] * 10]
    assert [flags & 0x300 for _first, _last, flags in rows[:3]] == [0x200, 0x100, 0x200]
    assert rows[2][2] & 0x102000 == 0x102000  # 64 bits wide, prefetchable


def test_the_configuration_is_what_the_function_has() -> None:
    config = machine(EduDevice).read_file(f"{FOLDER}/config")
    assert len(config) in (256, 4096)
    assert config[:4] == bytes.fromhex("3412 e811")


def test_reset_methods_can_be_chosen_and_taken_back() -> None:
    host = machine(EduDevice)
    path = f"{FOLDER}/reset_method"
    before = host.read_file(path)
    assert before.split()
    first = before.split()[0]
    host.write_file(path, first + b"\n")
    assert host.read_file(path) == first + b"\n"
    host.write_file(path, b"\n")
    assert host.read_file(path) == b"\n"
    host.write_file(path, b"default\n")
    assert host.read_file(path) == before


def test_a_reset_method_that_does_not_exist_is_refused() -> None:
    host = machine(EduDevice)
    before = host.read_file(f"{FOLDER}/reset_method")
    with pytest.raises(OSError, match="Invalid") as caught:
        host.write_file(f"{FOLDER}/reset_method", b"hammer\n")
    assert caught.value.errno == errno.EINVAL
    assert host.read_file(f"{FOLDER}/reset_method") == before


@pytest.mark.parametrize(("name", "several"), [(CARD, False), ("0000:06:00.0", True)])
def test_the_header_says_whether_a_slot_has_several_functions(name: str, several: bool) -> None:
    header = SimHost().read_file(f"/sys/bus/pci/devices/{name}/config")
    assert bool(header[PCI_HEADER_TYPE] & PCI_HEADER_TYPE_MFD) == several
