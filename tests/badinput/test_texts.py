"""Whatever sysfs, configuration space and the channel subsystem hold: a result or a typed error."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.access import DeviceAccess, RegionInfo
from vfiocore.errors import ConfigError, MalformedReplyError, VfioError
from vfiocore.fds import FdTable
from vfiocore.host import LinuxHost
from vfiocore.region import Area, Region
from vfiocore.sysfs import HostDevice, device_number, in_the_way, read_device
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import s390_cio, vfio
from vfiocore_ap.matrix import parse_matrix
from vfiocore_ccw.completion import Completion
from vfiocore_ccw.subchannel import ChannelReport, Subchannel, SubchannelId
from vfiocore_pci.config_space import ConfigSpace
from vfiocore_pci.msix import find_msix_table, without_table

from .replies import Replies, ends_well

CARD = HostDevice("0000:02:00.0", "pci", "/sys/devices/card", "vfio-pci", 1, "vfio0")

ANY_NAME = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30)


# -- sysfs -----------------------------------------------------------------------------------------
@define(eq=False)
class Files(LinuxHost):
    """A machine of a few files, links and folders."""

    files: dict[str, bytes] = field(factory=dict)
    links: dict[str, str] = field(factory=dict)
    folders: dict[str, list[str]] = field(factory=dict)

    def read_file(self, path: str) -> bytes:
        text: bytes = _found(self.files, path)
        return text

    def readlink(self, path: str) -> str:
        target: str = _found(self.links, path)
        return target

    def listdir(self, path: str) -> list[str]:
        names: list[str] = _found(self.folders, path)
        return names

    def exists(self, path: str) -> bool:
        return True

    def realpath(self, path: str) -> str:
        return path


def _found(items: dict[str, Any], path: str) -> Any:
    if path not in items:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return items[path]


def number_of(text: bytes) -> tuple[int, int]:
    return device_number(Files({f"{CARD.path}/vfio-dev/vfio0/dev": text}), CARD)


@given(st.integers(0, (1 << 12) - 1), st.integers(0, (1 << 20) - 1))
def test_a_device_number_is_read(major: int, minor: int) -> None:
    assert number_of(f"{major}:{minor}\n".encode()) == (major, minor)


@given(st.one_of(st.binary(max_size=20), st.from_regex(rb"[0-9:\s-]{0,12}", fullmatch=True)))
def test_any_device_number_fits_the_systems_own_or_is_malformed(text: bytes) -> None:
    ends_well(lambda: os.makedev(*number_of(text)))


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"511", b"511:", b":3", b"-1:3", b"5 11:3", b"4096:0", b"0:1048576"]
)
def test_a_text_that_is_no_device_number_is_told_with_its_file(text: bytes) -> None:
    with pytest.raises(MalformedReplyError) as caught:
        number_of(text)
    assert f"{CARD.path}/vfio-dev/vfio0/dev" in str(caught.value)
    assert repr(text) in str(caught.value)


@given(ANY_NAME, ANY_NAME, ANY_NAME, st.lists(ANY_NAME, max_size=3))
def test_any_directory_is_a_device_or_malformed(
    group: str, driver: str, bus: str, cdevs: list[str]
) -> None:
    path = "/sys/devices/card"
    links = {"iommu_group": f"../{group}", "driver": driver, "subsystem": f"/sys/bus/{bus}"}
    host = Files(
        links={f"{path}/{name}": target for name, target in links.items()},
        folders={f"{path}/vfio-dev": cdevs},
    )
    ends_well(lambda: read_device(host, path))


@pytest.mark.parametrize("name", ["seven", "-7", "٣", "0x7", "9" * 5000])
def test_a_group_that_is_no_number_is_malformed(name: str) -> None:
    host = Files(links={"/card/iommu_group": f"../../{name}"})
    with pytest.raises(MalformedReplyError, match="/card/iommu_group"):
        read_device(host, "/card")


@given(st.lists(ANY_NAME, max_size=3), st.binary(max_size=10))
def test_any_group_has_devices_in_the_way_or_none(names: list[str], kind: bytes) -> None:
    root = "/sys/kernel/iommu_groups/1/devices"
    host = Files(
        files={f"{root}/{name}/class": kind for name in names},
        links={f"{root}/{name}/driver": "../e1000e" for name in names},
        folders={root: names},
    )
    found = in_the_way(host, 1)
    assert [device.driver for device in found] == ["e1000e"] * len(found)


# -- AP --------------------------------------------------------------------------------------------
@given(st.one_of(st.text(max_size=40), st.from_regex(r"[0-9a-fx_.+\-\s]{0,20}", fullmatch=True)))
def test_any_matrix_has_numbers_in_bounds_or_is_malformed(text: str) -> None:
    with contextlib.suppress(MalformedReplyError):
        matrix = parse_matrix(text, text.replace(".", ""))
        numbers = (*matrix.adapters, *matrix.domains, *matrix.control_domains)
        assert all(0 <= number <= 255 for number in numbers)


@pytest.mark.parametrize("line", ["0x5.0004", "-5.0004", "1_0.0004", "05.00044", "100.0004", "05"])
def test_a_line_that_only_looks_like_a_queue_is_malformed(line: str) -> None:
    with pytest.raises(MalformedReplyError, match="no line of an AP matrix"):
        parse_matrix(line)


# -- configuration space ---------------------------------------------------------------------------
def config_space(content: bytes) -> ConfigSpace:
    access = DeviceAccess(host=Replies(content), fd=-1, name="card", owned=False)
    info = RegionInfo(7, vfio.VFIO_REGION_INFO_FLAG_READ, len(content), 0)
    return ConfigSpace(Region(access, info, "card config", "little", ()))


def with_list(content: bytes) -> bytes:
    """Configuration space that claims to have a list of capabilities."""
    status = pci.PCI_STATUS
    return content[:status] + pci.PCI_STATUS_CAP_LIST.to_bytes(2, "little") + content[status + 2 :]


SIZES = st.sampled_from([64, 256, 300, 4096])


@given(st.data(), SIZES)
def test_any_configuration_space_has_capabilities_or_is_malformed(
    data: st.DataObject, size: int
) -> None:
    seed = data.draw(st.binary(min_size=64, max_size=64))
    config = config_space(with_list((seed * (size // 64 + 1))[:size]))
    ends_well(config.capabilities)
    ends_well(lambda: find_msix_table(config))


@given(st.binary(min_size=192, max_size=192))
def test_any_links_between_capabilities_end(links: bytes) -> None:
    ends_well(config_space(with_list(bytes(64) + links)).capabilities)


@given(st.binary(min_size=1920, max_size=1920))
def test_any_links_between_extended_capabilities_end(links: bytes) -> None:
    headers = b"".join(b"\x01\x00" + links[start : start + 2] for start in range(0, 1920, 2))
    ends_well(config_space(bytes(256) + headers).capabilities)


@given(st.integers(0, 1 << 32), st.integers(1, 1 << 20), st.binary(min_size=12, max_size=12))
def test_what_is_left_of_a_bar_beside_any_table_is_inside_of_it(
    start: int, size: int, capability: bytes
) -> None:
    content = bytearray(with_list(bytes(256)))
    content[pci.PCI_CAPABILITY_LIST] = 0x40
    content[0x40:0x4C] = bytes([pci.PCI_CAP_ID_MSIX, 0]) + capability[2:]
    table = find_msix_table(config_space(bytes(content)))
    assert table is not None
    for area in without_table([Area(start, size)], table, 4096):
        assert area.size > 0
        assert start <= area.offset
        assert area.offset + area.size <= start + size
        assert area.offset + area.size <= table.offset or table.offset + table.size <= area.offset


# -- channel subsystem -----------------------------------------------------------------------------
@given(st.binary(min_size=96, max_size=96))
def test_any_response_block_is_a_completion(block: bytes) -> None:
    completion = Completion.from_irb(block)
    assert completion.ok == (not completion.problems)
    assert completion.irb == block
    assert len(completion.sense) <= 32


@given(st.binary(min_size=52, max_size=52))
def test_any_information_block_is_a_subchannel(block: bytes) -> None:
    assert Subchannel.from_bytes(block).raw == block


@given(st.binary(min_size=4, max_size=4))
def test_any_word_is_a_channel_report(word: bytes) -> None:
    assert ChannelReport.from_bytes(word).raw == word
    assert s390_cio.CRW.from_buffer_copy(word) is not None


@given(st.one_of(st.text(max_size=12), st.from_regex(r"[0-9a-f.]{0,9}", fullmatch=True)))
def test_any_name_is_a_subchannel_or_a_value_error(name: str) -> None:
    try:
        found = SubchannelId.parse(name)
    except ValueError:
        return
    assert SubchannelId.parse(str(found)) == found


# -- fds that are passed ---------------------------------------------------------------------------
@given(st.dictionaries(st.sampled_from(["LISTEN_FDS", "LISTEN_FDNAMES"]), st.text(max_size=20)))
def test_any_environment_is_a_table_or_a_configuration_error(environ: dict[str, str]) -> None:
    with contextlib.suppress(ConfigError):
        FdTable.from_listen_fds({**environ, "LISTEN_PID": "1"}, 1)


@pytest.mark.parametrize("count", ["9" * 5000, "-1", "²", "many"])
def test_a_count_that_is_none_is_a_configuration_error(count: str) -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        FdTable.from_listen_fds({"LISTEN_PID": "1", "LISTEN_FDS": count}, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.one_of(st.binary(min_size=1, max_size=40), JSON.map(lambda it: json.dumps(it).encode())))
def test_any_message_leaves_no_fd_open_that_has_no_name(message: bytes) -> None:
    assert_received_or_closed(message)


@pytest.mark.parametrize("message", [b"[" * 60000, b'["a"' * 2, b"1" * 5000, b'["\xff"]', b"[]"])
def test_a_message_that_is_no_list_of_names_leaves_no_fd_open(message: bytes) -> None:
    assert_received_or_closed(message)


class Counting(LinuxHost):
    """Knows what it received and has not closed."""

    def __init__(self) -> None:
        self.received: set[int] = set()

    def recv_fds(self, sock: int, size: int, max_fds: int) -> tuple[bytes, list[int]]:
        data, fds = super().recv_fds(sock, size, max_fds)
        self.received.update(fds)
        return data, fds

    def close(self, fd: int) -> None:
        super().close(fd)
        self.received.discard(fd)


def assert_received_or_closed(message: bytes) -> None:
    host, table = Counting(), FdTable()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(theirs, [message], [ours.fileno()])
        try:
            names = table.receive(host, ours.fileno())
        except (ValueError, VfioError):
            names = []
    assert len(host.received) == len(names)
    for fd in list(host.received):
        host.close(fd)
