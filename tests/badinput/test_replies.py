"""Whatever the kernel's structs hold: a result or a typed error, and soon."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore import capabilities
from vfiocore.access import GROWTH_LIMIT, INDEX_LIMIT, REPLY_LIMIT, RegionInfo
from vfiocore.capabilities import CHAIN_LIMIT, HEADER_SIZE, Capability
from vfiocore.errors import MalformedReplyError
from vfiocore.host import LinuxHost
from vfiocore.region import mappable_areas, region_type
from vfiocore.uapi import iommufd as uapi
from vfiocore.uapi import vfio
from vfiocore_iommufd.iommufd import Iommufd
from vfiocore_iommufd.ranges import read_iova_ranges
from vfiocore_legacy.info import read_info

from .replies import Replies, device, ends_well

ANY_REPLY = st.binary(max_size=256)
ANY_WORD = st.integers(0, 2**32 - 1)
ANY_LONG = st.integers(0, 2**64 - 1)
SMALL = st.one_of(st.integers(0, 80), ANY_WORD)


@st.composite
def chains(draw: st.DrawFn, start: int) -> bytes:
    """Headers at the right places, whose ids, versions and links are anybody's guess."""
    body = bytearray(draw(st.binary(min_size=160, max_size=160)))
    for offset in range(0, 160 - HEADER_SIZE, HEADER_SIZE):
        if not draw(st.booleans()):
            continue
        following = draw(st.sampled_from([0, *range(start, start + 160, HEADER_SIZE), 1 << 20]))
        header = vfio.vfio_info_cap_header(draw(st.integers(0, 6)), 1, following)
        body[offset : offset + HEADER_SIZE] = bytes(header)
    return bytes(body)


def following(layout: type[ctypes.Structure], body: bytes, **fields: int) -> bytes:
    """A struct with `fields`, and capabilities behind it."""
    size = ctypes.sizeof(layout)
    return bytes(layout(argsz=size + len(body), cap_offset=size, **fields)) + body


# -- chains ----------------------------------------------------------------------------------------
@given(chains(0), SMALL)
def test_a_chain_ends_whatever_its_links(reply: bytes, first: int) -> None:
    ends_well(lambda: list(capabilities.walk(reply, first)))


def test_a_chain_that_does_not_end_in_time_is_malformed() -> None:
    link = struct.Struct("=HHI")
    reply = b"".join(link.pack(1, 1, (number + 1) * link.size) for number in range(1 << 12))
    with pytest.raises(MalformedReplyError, match=f"more than {CHAIN_LIMIT} links"):
        list(capabilities.walk(reply, link.size))


@given(st.binary(max_size=64), SMALL)
def test_a_capability_that_is_cut_short_is_malformed(data: bytes, count: int) -> None:
    capability = Capability(1, 1, data)
    layout, element = vfio.vfio_region_info_cap_sparse_mmap, vfio.vfio_region_sparse_mmap_area
    fits = ctypes.sizeof(layout) + count * ctypes.sizeof(element) <= len(data)
    assert ends_well(lambda: capability.array_after(layout, element, count)) == fits
    assert ends_well(lambda: capability.as_struct(layout)) == (len(data) >= ctypes.sizeof(layout))


# -- devices ---------------------------------------------------------------------------------------
@given(ANY_REPLY)
def test_any_bytes_are_a_device_info_or_malformed(reply: bytes) -> None:
    ends_well(device(reply).info)
    ends_well(lambda: device(reply).irq_info(0))


@given(chains(ctypes.sizeof(vfio.vfio_region_info)), ANY_WORD, ANY_LONG, ANY_LONG)
def test_any_chain_of_a_region_is_understood_or_malformed(
    body: bytes, flags: int, size: int, offset: int
) -> None:
    reply = following(vfio.vfio_region_info, body, flags=flags, size=size, offset=offset)

    def look() -> None:
        info = device(reply).region_info(0)
        mappable_areas(info)
        region_type(info)

    ends_well(look)


@given(st.lists(st.tuples(st.integers(1, 2), st.binary(max_size=80)), max_size=4))
def test_any_capability_of_a_region_is_understood_or_malformed(
    found: list[tuple[int, bytes]],
) -> None:
    known = tuple(Capability(number, 1, data) for number, data in found)
    info = RegionInfo(0, vfio.VFIO_REGION_INFO_FLAG_MMAP, 1 << 20, 0, known)
    ends_well(lambda: mappable_areas(info))
    ends_well(lambda: region_type(info))


@pytest.mark.parametrize("field", ["num_regions", "num_irqs"])
def test_more_indexes_than_a_device_can_have_are_malformed(field: str) -> None:
    counts = {"num_regions": 9, "num_irqs": 5, field: INDEX_LIMIT + 1}
    size = ctypes.sizeof(vfio.vfio_device_info)
    reply = bytes(vfio.vfio_device_info(argsz=size, **counts))
    with pytest.raises(MalformedReplyError, match=str(INDEX_LIMIT + 1)):
        device(reply).info()


# -- growing ---------------------------------------------------------------------------------------
ASKING: dict[str, Callable[[Any], object]] = {
    "device": lambda host: device_on(host).info(),
    "region": lambda host: device_on(host).region_info(0),
    "container": lambda host: read_info(host, -1, "container"),
}


def device_on(host: LinuxHost) -> Any:
    access = device(b"")
    access.host = host
    return access


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_a_kernel_that_always_wants_more_room_is_not_followed(ask: Callable[[Any], object]) -> None:
    host = Replies(b"", lambda size: size + 1)
    with pytest.raises(MalformedReplyError, match="asks for"):
        ask(host)
    assert host.asked == GROWTH_LIMIT


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_a_kernel_that_wants_too_much_room_is_not_followed(ask: Callable[[Any], object]) -> None:
    host = Replies(b"", lambda _size: REPLY_LIMIT + 1)
    with pytest.raises(MalformedReplyError, match=f"asks for {REPLY_LIMIT + 1} bytes"):
        ask(host)
    assert host.asked == 1


# -- containers ------------------------------------------------------------------------------------
@given(ANY_REPLY)
def test_any_bytes_are_a_containers_info_or_malformed(reply: bytes) -> None:
    ends_well(lambda: read_info(Replies(reply), -1, "container"))


@given(chains(ctypes.sizeof(vfio.vfio_iommu_type1_info)), ANY_WORD, ANY_LONG)
def test_any_chain_of_a_container_is_understood_or_malformed(
    body: bytes, flags: int, page_sizes: int
) -> None:
    reply = following(vfio.vfio_iommu_type1_info, body, flags=flags, iova_pgsizes=page_sizes)
    ends_well(lambda: read_info(Replies(reply), -1, "container"))


@given(st.lists(st.tuples(ANY_LONG, ANY_LONG), max_size=6))
def test_ranges_of_a_container_are_sorted_or_malformed(pairs: list[tuple[int, int]]) -> None:
    layout = vfio.vfio_iommu_type1_info_cap_iova_range
    header = vfio.vfio_info_cap_header(vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, 0)
    ranges = b"".join(bytes(vfio.vfio_iova_range(*pair)) for pair in pairs)
    body = bytes(layout(header=header, nr_iovas=len(pairs))) + ranges
    flags = vfio.VFIO_IOMMU_INFO_CAPS
    reply = following(vfio.vfio_iommu_type1_info, body, flags=flags)
    host = Replies(reply)
    if all(start <= last for start, last in pairs):
        found = read_info(host, -1, "container").iova_ranges
        assert list(found) == sorted(found)
    else:
        with pytest.raises(MalformedReplyError, match="no range of IOVAs"):
            read_info(host, -1, "container")


# -- IOASes ----------------------------------------------------------------------------------------
class Ranges(LinuxHost):
    """Answers IOMMU_IOAS_IOVA_RANGES."""

    def __init__(self, pairs: list[tuple[int, int]], count: int, alignment: int) -> None:
        self.pairs, self.count, self.alignment = pairs, count, alignment

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        room = (uapi.iommu_iova_range * arg.num_iovas).from_address(arg.allowed_iovas)
        for index, pair in enumerate(self.pairs[: arg.num_iovas]):
            room[index] = pair
        arg.num_iovas, arg.out_iova_alignment = self.count, self.alignment
        return 0


def ask_ranges(host: LinuxHost) -> Any:
    iommufd = Iommufd(id="iommufd0", host=host, passed_fd=0)
    iommufd.acquire()
    return read_iova_ranges(iommufd, 1, "IOAS 1")


@given(st.lists(st.tuples(ANY_LONG, ANY_LONG), max_size=10), SMALL, ANY_LONG)
def test_any_ranges_of_an_ioas_are_sorted_or_malformed(
    pairs: list[tuple[int, int]], count: int, alignment: int
) -> None:
    ends_well(lambda: ask_ranges(Ranges(pairs, count, alignment)))


@given(st.sets(st.integers(0, 2**52 - 1), max_size=8), st.integers(0, 63))
def test_ranges_that_make_sense_are_taken(starts: set[int], shift: int) -> None:
    pairs = [(start << 12, (start << 12) + 0xFFF) for start in starts]
    found, alignment = ask_ranges(Ranges(pairs, len(pairs), 1 << shift))
    assert [(item.start, item.last) for item in found] == sorted(pairs)
    assert alignment == 1 << shift


@pytest.mark.parametrize("alignment", [0, 3, 0x1001])
def test_an_alignment_that_is_no_power_of_two_is_malformed(alignment: int) -> None:
    with pytest.raises(MalformedReplyError, match=f"{alignment:#x} is no power of two"):
        ask_ranges(Ranges([(0, 0xFFF)], 1, alignment))


def test_a_range_that_is_reversed_is_malformed() -> None:
    with pytest.raises(MalformedReplyError, match="no range of IOVAs: 0x1-0x0"):
        ask_ranges(Ranges([(1, 0)], 1, 4096))
