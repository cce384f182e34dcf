from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore.sysfs import HostDevice, device_path, read_device
from vfiocore_iommufd.holders import holders, is_bound

CARD = "0000:02:00.0"
NODE = "/dev/vfio/devices/vfio0"


class HostWithProcesses:
    """A /proc: the open files of each process, or None for one of another user."""

    def __init__(self, **processes: list[str] | None) -> None:
        self.processes = {name.removeprefix("p"): files for name, files in processes.items()}

    def listdir(self, path: str) -> list[str]:
        if path == "/proc":
            return [*self.processes, "cpuinfo", "self"]
        files = self.processes[path.split("/")[2]]
        if files is None:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return [str(number) for number in range(len(files) + 1)]

    def readlink(self, path: str) -> str:
        if path == "/proc/self":
            return "7"
        pid, number = path.split("/")[2], int(path.split("/")[4])
        files = self.processes[pid] or []
        if number == len(files):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return files[number]

    def read_file(self, path: str) -> bytes:
        return f"program{path.split('/')[2]}\n".encode()


def held(own: int = 0, **processes: list[str] | None) -> str:
    host: Any = HostWithProcesses(**processes)
    return holders(host, NODE, own=own)


def test_programs_that_have_the_file_open_are_named() -> None:
    found = held(p11=["/dev/null", NODE], p12=["/dev/null"], p13=[NODE, NODE])
    assert found == "program11 (process 11), program13 (process 13)"


def test_a_program_whose_files_are_not_to_be_seen_is_left_out() -> None:
    assert held(p11=None, p12=[NODE]) == "program12 (process 12)"


@pytest.mark.parametrize(("count", "found"), [(1, ""), (2, "program7 (process 7)")])
def test_this_program_is_named_if_it_has_the_file_open_more_than_once(
    count: int, found: str
) -> None:
    assert held(own=1, p7=[NODE] * count) == found


def test_without_a_proc_nobody_is_named(host: Any) -> None:
    assert holders(host, NODE) == ""


# -- certain ---------------------------------------------------------------------------------------
@pytest.fixture
def card(host: Any) -> HostDevice:
    return read_device(host, device_path("pci", CARD))


def test_a_bound_device_is_seen_by_its_group(rig: Any, host: Any, card: HostDevice) -> None:
    assert not is_bound(host, card)
    rig.open(CARD)
    assert is_bound(host, card)


def test_a_look_at_the_group_leaves_it_closed(host: Any, card: HostDevice) -> None:
    is_bound(host, card)
    assert host.open_files() == []


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES])
def test_a_group_that_does_not_open_for_another_reason_proves_nothing(
    host: Any, card: HostDevice, number: int
) -> None:
    host.fail("open /dev/vfio/1", number)
    assert not is_bound(host, card)


def test_a_group_of_several_devices_proves_nothing(rig: Any, host: Any) -> None:
    rig.open("0000:06:00.1")
    assert not is_bound(host, read_device(host, device_path("pci", "0000:06:00.0")))
