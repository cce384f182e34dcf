"""What every VFIO device answers: argsz, capability chains, SET_IRQS headers, features."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FEATURE_BUS_MASTER,
    VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
    VFIO_DEVICE_FEATURE_MIGRATION,
    VFIO_DEVICE_FEATURE_PROBE,
    VFIO_DEVICE_FEATURE_SET,
    VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_SET_IRQS,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS,
    VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_FLAG_CAPS,
    vfio_device_info,
    vfio_irq_set,
    vfio_region_info,
)
from vfiocore_sim.capchain import Capability
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.user import UserArg
from vfiocore_sim.vfio.bench import Bench
from vfiocore_sim.vfio.pci import Bar, PciDevice

Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
Edu: TypeAlias = Bench[EduDevice]
TRIGGER = VFIO_IRQ_SET_ACTION_TRIGGER
MEMORY = 0x40000


def test_get_info_tells_bus_reset_and_counts(edu: Edu) -> None:
    info = edu.info()
    assert info.flags == VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET
    assert (info.num_regions, info.num_irqs, info.cap_offset) == (9, 5, 0)


def test_a_caller_with_the_16_byte_struct_is_not_overrun(edu: Edu) -> None:
    buffer = bytearray(struct.pack("=4I", 16, 0, 0, 0) + b"\xaa" * 8)
    edu.ioctl(VFIO_DEVICE_GET_INFO, buffer)
    assert buffer[16:] == b"\xaa" * 8
    assert struct.unpack_from("=I", buffer, 8) == (9,)


def test_an_argsz_below_the_minimum_is_refused(edu: Edu, refused: Refused) -> None:
    with refused(errno.EINVAL):
        edu.ioctl(VFIO_DEVICE_GET_INFO, vfio_device_info(argsz=15))


@pytest.mark.parametrize("arg", [0, bytearray(15)], ids=["null", "too short"])
def test_an_unreadable_argument_is_a_bad_address(
    edu: Edu, refused: Refused, arg: int | bytearray
) -> None:
    with refused(errno.EFAULT):
        edu.ioctl(VFIO_DEVICE_GET_INFO, arg)


def test_an_unknown_ioctl_is_not_a_typewriter(edu: Edu, refused: Refused) -> None:
    with refused(errno.ENOTTY):
        edu.ioctl(0x3BFF, bytearray(64))


def test_a_region_out_of_range_is_refused(edu: Edu, refused: Refused) -> None:
    with refused(errno.EINVAL):
        edu.region(9)


class HalfMemory(PciDevice):
    """Registers, and then memory."""

    vendor_id, device_id, class_code = 0x1AF4, 0x1002, 0xFF0000
    bars = (Bar(index=0, size=1 << 20, ram=((MEMORY, 1 << 16),)),)


@pytest.fixture
def half() -> Iterator[Bench[HalfMemory]]:
    with Bench(HalfMemory()) as bench:
        yield bench


def test_capabilities_that_do_not_fit_ask_for_room(half: Bench[HalfMemory]) -> None:
    info, _ = half.region(0, argsz=32)
    assert info.flags & VFIO_REGION_INFO_FLAG_CAPS
    assert (info.argsz, info.cap_offset) == (64, 0)


def test_capabilities_that_fit_follow_the_struct(half: Bench[HalfMemory]) -> None:
    info, raw = half.region(0, argsz=64)
    assert (info.argsz, info.cap_offset) == (64, 32)
    assert struct.unpack_from("=HHI", raw, 32) == (VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0)
    assert struct.unpack_from("=I", raw, 40) == (1,)
    assert struct.unpack_from("=QQ", raw, 48) == (MEMORY, 1 << 16)


def test_a_region_without_capabilities_has_neither_flag_nor_offset(edu: Edu) -> None:
    info, _ = edu.region(7)
    assert not info.flags & VFIO_REGION_INFO_FLAG_CAPS
    assert (info.argsz, info.cap_offset) == (32, 0)


def test_room_claimed_beyond_the_buffer_is_a_bad_address(
    half: Bench[HalfMemory], refused: Refused
) -> None:
    with refused(errno.EFAULT):
        half.ioctl(VFIO_DEVICE_GET_REGION_INFO, vfio_region_info(argsz=4096, index=0))


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(32, 400))
def test_a_chain_can_be_walked_to_every_capability(bodies: list[bytes], argsz: int) -> None:
    buffer = bytearray(400)
    info = vfio_region_info(argsz=argsz)
    caps = [Capability(number, body) for number, body in enumerate(bodies)]
    UserArg(buffer).append_capabilities(info, caps, VFIO_REGION_INFO_FLAG_CAPS)
    if not info.cap_offset:
        assert not bodies or info.argsz > argsz
        return
    found = []
    offset = info.cap_offset
    while offset:
        ident, version, following = struct.unpack_from("=HHI", buffer, offset)
        assert offset % 8 == 0
        assert version == 1
        found.append((ident, bytes(buffer[offset + 8 : offset + 8 + len(bodies[ident])])))
        offset = following
    assert found == list(enumerate(bodies))


# -- SET_IRQS headers -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "data"),
    [
        pytest.param({"flags": 0x40 | TRIGGER | 1}, b"", id="unknown flag"),
        pytest.param({"flags": TRIGGER}, b"", id="no data type"),
        pytest.param({"flags": TRIGGER | 3}, b"", id="two data types"),
        pytest.param({"flags": TRIGGER | 1, "index": VFIO_PCI_NUM_IRQS}, b"", id="index"),
        pytest.param({"flags": TRIGGER | 1, "start": 1}, b"", id="start past the vectors"),
        pytest.param({"flags": TRIGGER | 1, "count": 2}, b"", id="count past the vectors"),
        pytest.param({"flags": TRIGGER | 1, "count": 0xFFFFFFFF}, b"", id="count overflows"),
        pytest.param({"flags": TRIGGER | 4, "count": 1}, b"\0\0", id="data cut short"),
        pytest.param({"flags": TRIGGER | 1, "argsz": 19}, b"", id="argsz"),
    ],
)
def test_a_set_irqs_header_out_of_order_is_refused(
    edu: Edu, refused: Refused, header: dict[str, int], data: bytes
) -> None:
    fields = {"argsz": 20 + len(data), "index": VFIO_PCI_MSI_IRQ_INDEX, **header}
    with refused(errno.EINVAL):
        edu.ioctl(VFIO_DEVICE_SET_IRQS, bytearray(bytes(vfio_irq_set(**fields)) + data))


def test_irq_data_that_cannot_be_read_is_a_bad_address(edu: Edu, refused: Refused) -> None:
    header = vfio_irq_set(
        argsz=24, flags=TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD, index=VFIO_PCI_MSI_IRQ_INDEX, count=1
    )
    with refused(errno.EFAULT):
        edu.ioctl(VFIO_DEVICE_SET_IRQS, header)


def test_an_index_without_vectors_refuses_every_call(edu: Edu, refused: Refused) -> None:
    with refused(errno.EINVAL):
        edu.set_irqs(2, TRIGGER | VFIO_IRQ_SET_DATA_NONE)
    with refused(errno.EINVAL):
        edu.set_irqs(2, TRIGGER | VFIO_IRQ_SET_DATA_BOOL, b"\1", count=1)


# -- features ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (1 << 19 | VFIO_DEVICE_FEATURE_GET, errno.EINVAL),
        (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET, errno.EINVAL),
        (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION, errno.ENOTTY),
        (VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_BUS_MASTER, errno.ENOTTY),
        (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, errno.EINVAL),
        (VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, errno.EINVAL),
    ],
    ids=["unknown flag", "get and set", "no migration", "probe unknown", "wrong op", "no op"],
)
def test_a_feature_call_is_refused(edu: Edu, refused: Refused, flags: int, code: int) -> None:
    with refused(code):
        edu.feature(flags)


def test_probing_an_offered_operation_succeeds_and_does_nothing(edu: Edu) -> None:
    probe = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET
    edu.feature(probe | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)


def test_an_immutable_buffer_is_read_and_not_written(edu: Edu) -> None:
    raw = bytes(vfio_device_info(argsz=ctypes.sizeof(vfio_device_info)))
    with edu.kernel.lock:
        assert edu.device.ioctl(VFIO_DEVICE_GET_INFO, UserArg(raw)) == 0
    assert raw[4:] == bytes(20)
