from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest

from vfiocore.config import FdRef
from vfiocore.errors import ConfigError
from vfiocore.fds import FdTable
from vfiocore.host import LinuxHost

ENVIRON = {"LISTEN_PID": "42", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "nic:iommu:disk"}

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def fds() -> Iterator[list[int]]:
    made = [os.memfd_create(f"passed-{number}") for number in range(2)]
    yield made
    for fd in made:
        os.close(fd)


def resolve(table: FdTable, name: str) -> int:
    return table.resolve(FdRef(name=name), 'device[0] "nic0" (vfio-pci).fd')


# -- names -----------------------------------------------------------------------------------------
def test_a_number_is_the_fd() -> None:
    assert FdTable().resolve(FdRef(number=23), "path") == 23


def test_a_registered_name_is_its_fd() -> None:
    table = FdTable()
    table.register("nic", 23)
    assert resolve(table, "nic") == 23


def test_an_unknown_name_is_an_error_with_the_known_ones_and_the_path() -> None:
    table = FdTable()
    with pytest.raises(ConfigError, match="named: none"):
        resolve(table, "nic")
    table.register("b", 3)
    table.register("a", 4)
    with pytest.raises(ConfigError) as caught:
        resolve(table, "nic")
    (problem,) = caught.value.problems
    assert problem.path == 'device[0] "nic0" (vfio-pci).fd'
    assert problem.message == "no fd named 'nic' was passed; named: a, b"


@pytest.mark.parametrize("name", ["", "9p"])
def test_a_name_that_would_read_as_a_number_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be named"):
        FdTable().register(name, 3)


def test_a_name_is_for_one_fd() -> None:
    table = FdTable()
    table.register("nic", 3)
    table.register("nic", 3)
    with pytest.raises(ValueError, match="fd 3 is named 'nic' already"):
        table.register("nic", 4)
    assert resolve(table, "nic") == 3


# -- systemd ---------------------------------------------------------------------------------------
def test_systemd_passes_fds_from_3_on_by_name() -> None:
    table = FdTable.from_listen_fds(ENVIRON, 42)
    assert [resolve(table, name) for name in ("nic", "iommu", "disk")] == [3, 4, 5]


def test_fds_for_another_process_are_not_ours() -> None:
    with pytest.raises(ConfigError):
        resolve(FdTable.from_listen_fds(ENVIRON, 43), "nic")


@pytest.mark.parametrize("names", ["", "unnamed::9p", "nic:a:b:c:d"])
def test_names_that_are_missing_or_too_many_do_no_harm(names: str) -> None:
    FdTable.from_listen_fds(ENVIRON | {"LISTEN_FDNAMES": names}, 42)


def test_names_beyond_the_number_of_fds_are_nobodys() -> None:
    table = FdTable.from_listen_fds(ENVIRON | {"LISTEN_FDS": "1"}, 42)
    assert resolve(table, "nic") == 3
    with pytest.raises(ConfigError):
        resolve(table, "iommu")


def test_two_fds_of_one_name_are_an_error() -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDNAMES: fd 3 is named 'a' already"):
        FdTable.from_listen_fds(ENVIRON | {"LISTEN_FDNAMES": "a:b:a"}, 42)


def test_a_number_of_fds_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS: 'many' is not a number"):
        FdTable.from_listen_fds(ENVIRON | {"LISTEN_FDS": "many"}, 42)


# -- sockets ---------------------------------------------------------------------------------------
def sent(pair: Pair, fds: list[int], message: bytes) -> socket.socket:
    ours, theirs = pair
    LinuxHost().send_fds(theirs.fileno(), message, fds)
    return ours


def open_now() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_fds_come_over_a_socket_with_their_names(pair: Pair, fds: list[int]) -> None:
    ours = sent(pair, fds, json.dumps(["nic", "iommu"]).encode())
    table = FdTable()
    assert table.receive(LinuxHost(), ours.fileno()) == ["nic", "iommu"]
    for name, original in zip(("nic", "iommu"), fds, strict=True):
        received = resolve(table, name)
        assert received != original
        assert os.fstat(received).st_ino == os.fstat(original).st_ino
        assert not os.get_inheritable(received)
        os.close(received)


@pytest.mark.parametrize(
    "message", [b'["nic"]', b'["a", "b", "c"]', b"not json", b'{"a": 1}', b"[1, 2]", b'["a", "9"]']
)
def test_names_that_do_not_fit_close_what_was_received(
    pair: Pair, fds: list[int], message: bytes
) -> None:
    ours = sent(pair, fds, message)
    before = open_now()
    table = FdTable()
    with pytest.raises(ValueError):  # noqa: PT011 - each has a reason of its own
        table.receive(LinuxHost(), ours.fileno())
    assert open_now() == before
    with pytest.raises(ConfigError, match="named: none"):
        resolve(table, "a")


def test_a_name_that_is_taken_refuses_the_message_and_keeps_the_first(
    pair: Pair, fds: list[int]
) -> None:
    table = FdTable()
    table.register("nic", fds[0])
    ours = sent(pair, fds, b'["iommu", "nic"]')
    before = open_now()
    with pytest.raises(ValueError, match="is named 'nic' already"):
        table.receive(LinuxHost(), ours.fileno())
    assert open_now() == before
    assert resolve(table, "nic") == fds[0]
    with pytest.raises(ConfigError):
        resolve(table, "iommu")


def test_a_closed_socket_brings_no_names(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    assert FdTable().receive(LinuxHost(), ours.fileno()) == []
