from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.access import REPLY_LIMIT, DeviceAccess
from vfiocore.errors import (
    ClosedError,
    DeviceAccessError,
    DeviceNotFoundError,
    KernelError,
    MalformedReplyError,
    UnsupportedError,
)
from vfiocore.feature import has_feature
from vfiocore.uapi import vfio

from .scripted import PAGE, ScriptedHost, device_file, refusing

INFO_SIZE = ctypes.sizeof(vfio.vfio_device_info)


def info_with_capability(arg: bytearray) -> int:
    """A kernel whose reply needs more room than the caller gave at first."""
    whole = INFO_SIZE + ctypes.sizeof(vfio.vfio_info_cap_header)
    info = vfio.vfio_device_info.from_buffer(arg)
    fits = info.argsz >= whole
    info.argsz = whole
    info.flags = vfio.VFIO_DEVICE_FLAGS_PCI | vfio.VFIO_DEVICE_FLAGS_CAPS
    info.num_regions, info.num_irqs = 9, 5
    info.cap_offset = INFO_SIZE if fits else 0
    del info
    if fits:
        arg[INFO_SIZE:] = bytes(vfio.vfio_info_cap_header(4, 1, 0))
    return 0


def test_a_reply_that_does_not_fit_is_asked_for_again(
    host: ScriptedHost, access: DeviceAccess
) -> None:
    host.answers[vfio.VFIO_DEVICE_GET_INFO] = info_with_capability
    info = access.info()
    assert (info.num_regions, info.num_irqs) == (9, 5)
    assert [cap.id for cap in info.capabilities] == [4]
    assert len(host.asked) == 2


def test_a_reply_that_keeps_growing_is_not_believed(
    host: ScriptedHost, access: DeviceAccess
) -> None:
    def growing(arg: bytearray) -> int:
        vfio.vfio_device_info.from_buffer(arg).argsz = 2 * len(arg)
        return 0

    host.answers[vfio.VFIO_DEVICE_GET_INFO] = growing
    with pytest.raises(MalformedReplyError, match="VFIO_DEVICE_GET_INFO asks for"):
        access.info()
    assert len(host.asked) < 30


def test_a_reply_of_unbelievable_size_is_refused_before_memory_is_taken(
    host: ScriptedHost, access: DeviceAccess
) -> None:
    def huge(arg: bytearray) -> int:
        vfio.vfio_region_info.from_buffer(arg).argsz = REPLY_LIMIT + 1
        return 0

    host.answers[vfio.VFIO_DEVICE_GET_REGION_INFO] = huge
    with pytest.raises(MalformedReplyError, match="VFIO_DEVICE_GET_REGION_INFO"):
        access.region_info(0)


@given(st.binary(min_size=64, max_size=64))
def test_whatever_bytes_the_kernel_answers_are_facts_or_malformed(reply: bytes) -> None:
    host = ScriptedHost()

    def answer(arg: bytearray) -> int:
        arg[4:] = reply[4 : len(arg)].ljust(len(arg) - 4, b"\0")
        vfio.vfio_region_info.from_buffer(arg).argsz = 64
        return 0

    host.answers[vfio.VFIO_DEVICE_GET_REGION_INFO] = answer
    access = DeviceAccess(host=host, fd=-1, name="dev")
    with contextlib.suppress(MalformedReplyError):
        assert access.region_info(3).index == 3


def test_a_region_is_described(host: ScriptedHost, access: DeviceAccess) -> None:
    def answer(arg: bytearray) -> int:
        info = vfio.vfio_region_info.from_buffer(arg)
        assert info.index == 7
        info.flags, info.size, info.offset = vfio.VFIO_REGION_INFO_FLAG_READ, 256, 7 << 40
        return 0

    host.answers[vfio.VFIO_DEVICE_GET_REGION_INFO] = answer
    info = access.region_info(7)
    assert (info.index, info.flags, info.size, info.offset) == (7, 1, 256, 7 << 40)
    assert info.capabilities == ()


def test_an_interrupt_index_is_described(host: ScriptedHost, access: DeviceAccess) -> None:
    def answer(arg: vfio.vfio_irq_info) -> int:
        assert arg.argsz == ctypes.sizeof(vfio.vfio_irq_info)
        arg.flags, arg.count = vfio.VFIO_IRQ_INFO_EVENTFD, 32
        return 0

    host.answers[vfio.VFIO_DEVICE_GET_IRQ_INFO] = answer
    info = access.irq_info(2)
    assert (info.index, info.flags, info.count) == (2, vfio.VFIO_IRQ_INFO_EVENTFD, 32)


def test_an_index_that_is_not_there_is_an_access_error(
    host: ScriptedHost, access: DeviceAccess
) -> None:
    host.answers[vfio.VFIO_DEVICE_GET_REGION_INFO] = refusing(errno.EINVAL)
    with pytest.raises(DeviceAccessError) as caught:
        access.region_info(99)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.operation == "VFIO_DEVICE_GET_REGION_INFO"
    assert caught.value.subject == "dev"


def test_eventfds_follow_the_header_of_set_irqs(host: ScriptedHost, access: DeviceAccess) -> None:
    seen: list[Any] = []

    def answer(arg: bytearray) -> int:
        head = vfio.vfio_irq_set.from_buffer_copy(arg)
        fds = memoryview(arg)[ctypes.sizeof(head) :].cast("i").tolist()
        seen.append((head.argsz, head.flags, head.index, head.start, head.count, fds))
        return 0

    host.answers[vfio.VFIO_DEVICE_SET_IRQS] = answer
    access.set_eventfds(1, vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 2, [7, -1])
    flags = vfio.VFIO_IRQ_SET_ACTION_TRIGGER | vfio.VFIO_IRQ_SET_DATA_EVENTFD
    assert seen == [(28, flags, 1, 2, 2, [7, -1])]


def test_what_set_irqs_returns_is_passed_on(host: ScriptedHost, access: DeviceAccess) -> None:
    host.answers[vfio.VFIO_DEVICE_SET_IRQS] = lambda _arg: 3
    assert access.set_irqs(0, 0) == 3


def test_a_feature_returns_what_the_kernel_left_of_the_payload(
    host: ScriptedHost, access: DeviceAccess
) -> None:
    def answer(arg: bytearray) -> int:
        head = vfio.vfio_device_feature.from_buffer_copy(arg)
        assert head.argsz == len(arg) == 12
        assert head.flags == 5 | vfio.VFIO_DEVICE_FEATURE_GET
        arg[8:] = b"flag"
        return 0

    host.answers[vfio.VFIO_DEVICE_FEATURE] = answer
    assert access.feature(5, vfio.VFIO_DEVICE_FEATURE_GET, bytes(4)) == b"flag"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EINVAL, DeviceAccessError),
        (errno.EAGAIN, DeviceAccessError),
        (errno.ENOTTY, UnsupportedError),
        (errno.ENODEV, DeviceNotFoundError),
    ],
)
def test_a_reset_that_fails_is_typed(
    host: ScriptedHost, access: DeviceAccess, number: int, kind: type[KernelError]
) -> None:
    host.answers[vfio.VFIO_DEVICE_RESET] = refusing(number)
    with pytest.raises(kind) as caught:
        access.reset()
    assert caught.value.errno == number


def test_bytes_are_written_and_read_back(access: DeviceAccess) -> None:
    access.pwrite(b"abc", 5)
    assert access.pread(3, 5) == b"abc"


def test_a_write_counts_bytes_whatever_the_items_of_the_view(access: DeviceAccess) -> None:
    access.pwrite(memoryview(bytearray(b"abcdefgh")).cast("I"), 0)
    assert access.pread(8, 0) == b"abcdefgh"


def test_a_read_past_the_end_says_how_much_there_was(host: ScriptedHost) -> None:
    access = device_file(host, size=16)
    with pytest.raises(DeviceAccessError, match="2 of 4 bytes") as caught:
        access.pread(4, 14)
    assert caught.value.errno == errno.EIO


def test_a_write_that_is_cut_short_is_an_error(
    access: DeviceAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedHost, "pwrite", lambda *_: 1)
    with pytest.raises(DeviceAccessError, match="1 of 2 bytes"):
        access.pwrite(b"ab", 0)


def test_an_access_that_the_device_refuses_has_its_address(
    access: DeviceAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(ScriptedHost, "pread", refuse)
    with pytest.raises(DeviceAccessError, match="offset 0x40 size 0x4") as caught:
        access.pread(4, 0x40)
    assert caught.value.operation == "pread"


def test_an_mmap_that_fails_is_typed(access: DeviceAccess, host: ScriptedHost) -> None:
    access.close()
    gone = DeviceAccess(host=host, fd=access.fd, name="gone")
    with pytest.raises(KernelError) as caught:
        gone.mmap(PAGE, 0, writable=True)
    assert (caught.value.errno, caught.value.operation) == (errno.EBADF, "mmap")


def test_a_mapping_for_reading_cannot_be_written(access: DeviceAccess) -> None:
    with access.mmap(PAGE, 0, writable=False) as memory:
        assert isinstance(memory, mmap.mmap)
        with pytest.raises(TypeError):
            memory[0] = 1


def test_closing_closes_the_fd_once(host: ScriptedHost, access: DeviceAccess) -> None:
    access.close()
    access.close()
    assert host.files == set()


def test_a_passed_fd_stays_open(host: ScriptedHost) -> None:
    access = DeviceAccess(host=host, fd=host.memfd("mine", 16), name="VFIO_FD3", owned=False)
    access.close()
    assert host.files == {access.fd}


def test_a_close_that_fails_is_typed_and_not_repeated(
    host: ScriptedHost, access: DeviceAccess
) -> None:
    host.closing = OSError(errno.EIO, "")
    with pytest.raises(DeviceAccessError):
        access.close()
    access.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda access: access.info(),
        lambda access: access.region_info(0),
        lambda access: access.irq_info(0),
        lambda access: access.set_irqs(0, 0),
        lambda access: access.feature(1, 0),
        lambda access: access.reset(),
        lambda access: access.pread(1, 0),
        lambda access: access.pwrite(b"a", 0),
        lambda access: access.mmap(PAGE, 0, writable=True),
    ],
)
def test_nothing_works_after_closing(access: DeviceAccess, use: Any) -> None:
    access.close()
    with pytest.raises(ClosedError, match="dev is closed"):
        use(access)


def test_a_feature_is_there_if_probing_it_works(host: ScriptedHost, access: DeviceAccess) -> None:
    def answer(arg: bytearray) -> int:
        flags = vfio.vfio_device_feature.from_buffer_copy(arg).flags
        assert flags & vfio.VFIO_DEVICE_FEATURE_PROBE
        return 0

    host.answers[vfio.VFIO_DEVICE_FEATURE] = answer
    assert has_feature(access, 1, vfio.VFIO_DEVICE_FEATURE_GET)


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL])
def test_a_feature_or_an_operation_of_it_that_is_not_there_is_a_fact(
    host: ScriptedHost, access: DeviceAccess, number: int
) -> None:
    host.answers[vfio.VFIO_DEVICE_FEATURE] = refusing(number)
    assert not has_feature(access, 1, vfio.VFIO_DEVICE_FEATURE_SET)


def test_a_probe_that_fails_otherwise_is_an_error(host: ScriptedHost, access: DeviceAccess) -> None:
    host.answers[vfio.VFIO_DEVICE_FEATURE] = refusing(errno.EIO)
    with pytest.raises(DeviceAccessError):
        has_feature(access, 1, vfio.VFIO_DEVICE_FEATURE_GET)
