"""VFIO_IOMMU_GET_INFO: replies of old kernels, and replies that contradict themselves."""

from __future__ import annotations

import ctypes
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.errors import MalformedReplyError
from vfiocore.host import Host
from vfiocore.memory.ranges import IovaRange
from vfiocore.uapi import vfio
from vfiocore_legacy.info import Type1Info, read_info

PAGE = 16384
HEAD = ctypes.sizeof(vfio.vfio_iommu_type1_info)


class Kernel:
    """A host that answers GET_INFO with fixed bytes, as far as there is room for them."""

    page_size = PAGE

    def __init__(self, reply: bytes) -> None:
        self.reply = reply

    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int:
        assert request == vfio.VFIO_IOMMU_GET_INFO
        assert ctypes.c_uint32.from_buffer_copy(buffer).value == len(buffer)
        count = min(len(buffer), len(self.reply))
        buffer[:count] = self.reply[:count]
        return 0


def ask(reply: bytes) -> Type1Info:
    return read_info(cast(Host, Kernel(reply)), 3, "container of group 1")


def head(*, flags: int, page_sizes: int = 0, cap_offset: int = 0, argsz: int = HEAD) -> bytes:
    return bytes(
        vfio.vfio_iommu_type1_info(
            argsz=argsz, flags=flags, iova_pgsizes=page_sizes, cap_offset=cap_offset
        )
    )


def test_a_kernel_that_tells_no_page_sizes_has_the_hosts() -> None:
    assert ask(head(flags=0, page_sizes=0x1000)) == Type1Info(page_sizes=PAGE)


def test_a_kernel_before_5_4_has_page_sizes_only() -> None:
    reply = head(flags=vfio.VFIO_IOMMU_INFO_PGSIZES, page_sizes=0x4000 | 1 << 25)
    assert ask(reply) == Type1Info(page_sizes=0x4000 | 1 << 25)


def test_ranges_are_sorted_and_unknown_capabilities_skipped() -> None:
    layout = vfio.vfio_iommu_type1_info_cap_iova_range
    unknown = bytes(vfio.vfio_info_cap_header(id=99, version=1, next=HEAD + 8))
    capability = bytes(
        layout(
            header=vfio.vfio_info_cap_header(vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, 0),
            nr_iovas=2,
        )
    )
    ranges = bytes(vfio.vfio_iova_range(0x100000, 0x1FFFFF)) + bytes(vfio.vfio_iova_range(0, 0xFFF))
    body = unknown + capability + ranges
    flags = vfio.VFIO_IOMMU_INFO_PGSIZES | vfio.VFIO_IOMMU_INFO_CAPS
    size = HEAD + len(body)
    reply = head(flags=flags, page_sizes=PAGE, cap_offset=HEAD, argsz=size) + body
    assert ask(reply).iova_ranges == (IovaRange(0, 0xFFF), IovaRange(0x100000, 0x1FFFFF))


def test_a_chain_that_leads_out_of_the_reply_is_an_error() -> None:
    with pytest.raises(MalformedReplyError):
        ask(head(flags=vfio.VFIO_IOMMU_INFO_CAPS, cap_offset=HEAD))


def test_a_kernel_that_asks_for_ever_more_room_is_not_believed() -> None:
    with pytest.raises(MalformedReplyError, match="asks for"):
        ask(head(flags=0, argsz=1 << 31))


@given(
    flags=st.integers(0, 3),
    cap_offset=st.integers(0, 80),
    body=st.binary(max_size=96),
)
def test_any_reply_is_read_or_refused_as_malformed(
    flags: int, cap_offset: int, body: bytes
) -> None:
    reply = head(flags=flags, page_sizes=PAGE, cap_offset=cap_offset, argsz=HEAD + len(body)) + body
    try:
        info = ask(reply)
    except MalformedReplyError:
        return
    assert info.page_sizes == PAGE
