from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.capabilities import HEADER_SIZE, Capability, walk
from vfiocore.errors import MalformedReplyError
from vfiocore.uapi import vfio

START = 16


def header(id_: int, version: int, following: int) -> bytes:
    return bytes(vfio.vfio_info_cap_header(id_, version, following))


def chained(bodies: list[bytes]) -> bytes:
    """A reply as the kernel lays it out: each capability after the one before."""
    reply = bytes(START)
    for number, body in enumerate(bodies):
        after = len(reply) + HEADER_SIZE + len(body)
        reply += header(number + 1, 1, after if body is not bodies[-1] else 0) + body
    return reply


def test_no_offset_is_no_capability() -> None:
    assert list(walk(bytes(64), 0)) == []


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=10))
def test_a_chain_is_walked_in_order(bodies: list[bytes]) -> None:
    bodies = [bytes([number]) + body for number, body in enumerate(bodies)]
    found = list(walk(chained(bodies), START))
    assert [cap.id for cap in found] == list(range(1, len(bodies) + 1))
    for cap, body in zip(found, bodies, strict=True):
        assert cap.data[HEADER_SIZE:].startswith(body)


def test_unknown_ids_and_versions_are_passed_on() -> None:
    (found,) = walk(bytes(START) + header(0xFFFF, 0xFFFF, 0), START)
    assert (found.id, found.version) == (0xFFFF, 0xFFFF)


def test_a_chain_that_loops_is_malformed() -> None:
    with pytest.raises(MalformedReplyError, match="loops at offset 16"):
        list(walk(bytes(START) + header(1, 1, START), START))


@pytest.mark.parametrize("offset", [17, 24, 1 << 31])
def test_a_capability_outside_the_reply_is_malformed(offset: int) -> None:
    with pytest.raises(MalformedReplyError, match=f"offset {offset} is outside the 24 bytes"):
        list(walk(bytes(START) + header(1, 1, 0), offset))


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_arbitrary_bytes_end_in_capabilities_or_a_malformed_reply(reply: bytes, first: int) -> None:
    try:
        found = list(walk(reply, first))
    except MalformedReplyError:
        return
    assert len(found) <= len(reply)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.data())
def test_arbitrary_links_between_headers_never_hang(links: list[int], data: st.DataObject) -> None:
    reply = b"".join(header(index, 1, HEADER_SIZE * link) for index, link in enumerate(links))
    first = data.draw(st.integers(0, len(links))) * HEADER_SIZE
    try:
        offsets = [len(reply) - len(cap.data) for cap in walk(reply, first)]
    except MalformedReplyError:
        return
    assert len(set(offsets)) == len(offsets)


def sparse(areas: list[tuple[int, int]], announced: int | None = None) -> Capability:
    count = len(areas) if announced is None else announced
    head = vfio.vfio_region_info_cap_sparse_mmap(nr_areas=count)
    body = b"".join(struct.pack("=QQ", *area) for area in areas)
    return Capability(vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, bytes(head) + body)


def test_the_elements_after_a_capability_are_read() -> None:
    areas = [(0, 16), (32, 16)]
    found = sparse(areas).array_after(
        vfio.vfio_region_info_cap_sparse_mmap, vfio.vfio_region_sparse_mmap_area, 2
    )
    assert [(area.offset, area.size) for area in found] == areas


@pytest.mark.parametrize("announced", [2, 2**32 - 1])
def test_more_elements_than_there_are_bytes_is_malformed(announced: int) -> None:
    with pytest.raises(MalformedReplyError, match=f"announces {announced} elements"):
        sparse([(0, 16)]).array_after(
            vfio.vfio_region_info_cap_sparse_mmap, vfio.vfio_region_sparse_mmap_area, announced
        )


def test_a_capability_that_is_cut_short_is_malformed() -> None:
    with pytest.raises(MalformedReplyError, match="vfio_region_info_cap_type needs"):
        Capability(2, 1, bytes(HEADER_SIZE)).as_struct(vfio.vfio_region_info_cap_type)
