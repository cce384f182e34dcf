from __future__ import annotations

import errno
import mmap
import os
import sys

import pytest

from vfiocore.errors import ClosedError
from vfiocore.host import LinuxHost
from vfiocore.memory import DmaBuffer, address_of

HOST = LinuxHost()
PAGE = HOST.page_size


def test_a_buffer_is_as_long_as_asked_and_takes_whole_pages() -> None:
    with DmaBuffer(HOST, PAGE + 1) as buffer:
        assert (buffer.size, len(buffer.view), buffer.length) == (PAGE + 1, PAGE + 1, 2 * PAGE)
        assert buffer.vaddr % PAGE == 0


def test_a_new_buffer_is_zero() -> None:
    with DmaBuffer(HOST, 100) as buffer:
        assert buffer.read(0, 100) == bytes(100)


def test_what_is_written_is_read_back_and_is_at_the_address() -> None:
    import ctypes

    with DmaBuffer(HOST, PAGE) as buffer:
        buffer.write(0x10, b"descriptor")

        assert buffer.read(0x10, 10) == b"descriptor"
        assert ctypes.string_at(buffer.vaddr + 0x10, 10) == b"descriptor"


def test_the_view_is_writable_bytes() -> None:
    with DmaBuffer(HOST, 16) as buffer:
        assert buffer.view.format == "B"
        assert not buffer.view.readonly
        buffer.view[3] = 7

        assert buffer.read(3, 1) == b"\x07"


def test_wider_elements_are_written_as_their_bytes() -> None:
    import array

    with DmaBuffer(HOST, 16) as buffer:
        buffer.write(0, memoryview(array.array("I", [1, 2])))

        assert [int.from_bytes(buffer.read(at, 4), sys.byteorder) for at in (0, 4)] == [1, 2]


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (100, 1), (90, 11), (0, -1)])
def test_reading_outside_is_refused(offset: int, size: int) -> None:
    with DmaBuffer(HOST, 100) as buffer, pytest.raises(ValueError, match="in a buffer of 0x64"):
        buffer.read(offset, size)


def test_writing_outside_is_refused_and_writes_nothing() -> None:
    with DmaBuffer(HOST, 100) as buffer:
        with pytest.raises(ValueError, match="in a buffer of 0x64"):
            buffer.write(98, b"abc")

        assert buffer.read(90, 10) == bytes(10)


def test_a_buffer_without_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        DmaBuffer(HOST, 0)


def test_a_buffer_has_an_iova_once_it_is_mapped() -> None:
    with DmaBuffer(HOST, 16) as buffer:
        with pytest.raises(LookupError, match="not mapped"):
            _ = buffer.iova
        buffer.iova = 0x10000

        assert buffer.iova == 0x10000
        assert "0x10000" in repr(buffer)


def test_shared_memory_is_a_file_with_the_same_bytes() -> None:
    with DmaBuffer(HOST, PAGE, shared=True) as buffer:
        buffer.write(5, b"seen by file")

        assert buffer.fd is not None
        assert os.pread(buffer.fd, 12, 5) == b"seen by file"


def test_closing_shared_memory_closes_the_file() -> None:
    buffer = DmaBuffer(HOST, PAGE, shared=True)
    fd = buffer.fd
    assert fd is not None
    buffer.close()

    assert buffer.fd is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_private_memory_has_no_file() -> None:
    with DmaBuffer(HOST, PAGE) as buffer:
        assert buffer.fd is None


def test_closing_unmaps_from_the_devices_first_and_once() -> None:
    told: list[bytes] = []
    buffer = DmaBuffer(HOST, 16, release=lambda: told.append(buffer.read(0, 1)))
    buffer.close()
    buffer.close()

    assert told == [b"\0"]  # the memory was still there
    assert buffer.closed


def test_memory_that_a_device_may_still_reach_is_kept() -> None:
    refusals = [OSError(errno.EBUSY, "in use")]

    def release() -> None:
        if refusals:
            raise refusals.pop()

    buffer = DmaBuffer(HOST, 16, release=release)
    with pytest.raises(OSError, match="in use"):
        buffer.close()
    buffer.write(0, b"x")
    buffer.close()

    assert buffer.closed


def test_memory_that_is_looked_at_stays_until_the_view_goes() -> None:
    buffer = DmaBuffer(HOST, 16)
    buffer.write(0, b"kept")
    part = buffer.view[0:4]
    buffer.close()

    assert bytes(part) == b"kept"


def test_a_view_that_is_exported_further_does_not_keep_the_buffer_open() -> None:
    import ctypes

    buffer = DmaBuffer(HOST, 16)
    number = ctypes.c_uint32.from_buffer(buffer.view)
    number.value = 9
    buffer.close()

    assert buffer.closed
    assert number.value == 9


def test_use_after_close_says_so() -> None:
    buffer = DmaBuffer(HOST, 16)
    buffer.close()

    for use in (
        lambda: buffer.view,
        lambda: buffer.iova,
        lambda: buffer.read(0, 1),
        lambda: buffer.write(0, b"x"),
        buffer.__enter__,
    ):
        with pytest.raises(ClosedError):
            use()
    assert "closed" in repr(buffer)


class WithoutMemory(LinuxHost):
    """A host that is out of memory when asked to map."""

    def __init__(self) -> None:
        self.files: list[int] = []

    def memfd(self, name: str, size: int) -> int:
        self.files.append(super().memfd(name, size))
        return self.files[-1]

    def mmap(self, fd: int, length: int, *, prot: int, flags: int, offset: int = 0) -> mmap.mmap:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")


def test_a_buffer_that_cannot_be_mapped_leaves_no_file_open() -> None:
    host = WithoutMemory()
    with pytest.raises(OSError, match="Cannot allocate"):
        DmaBuffer(host, PAGE, shared=True)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(host.files[0])


class Advised(mmap.mmap):
    """Memory that notes the advice given to the kernel, and may refuse it."""

    advice: list[int]
    answer: int = 0

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
        self.advice.append(option)
        if self.answer:
            raise OSError(self.answer, os.strerror(self.answer))


class AdvisedHost(LinuxHost):
    def __init__(self, answer: int = 0) -> None:
        self.advice: list[int] = []
        self.answer = answer

    def mmap(self, fd: int, length: int, *, prot: int, flags: int, offset: int = 0) -> mmap.mmap:
        memory = Advised(fd, length, flags, prot, offset=offset)
        memory.advice, memory.answer = self.advice, self.answer
        return memory


@pytest.mark.parametrize(("size", "asked"), [((2 << 20) - PAGE, False), (2 << 20, True)])
def test_huge_pages_are_asked_for_where_one_fits(size: int, asked: bool) -> None:
    host = AdvisedHost()
    DmaBuffer(host, size).close()

    assert host.advice == ([mmap.MADV_HUGEPAGE] if asked else [])


def test_a_kernel_without_huge_pages_gives_small_ones() -> None:
    with DmaBuffer(AdvisedHost(errno.EINVAL), 2 << 20) as buffer:
        assert buffer.read(0, 1) == b"\0"


def test_any_other_refusal_of_the_advice_is_an_error() -> None:
    with pytest.raises(OSError, match="Cannot allocate"):
        DmaBuffer(AdvisedHost(errno.ENOMEM), 2 << 20)


def test_the_address_of_memory_does_not_hold_it() -> None:
    memory = mmap.mmap(-1, PAGE)
    assert address_of(memory) % PAGE == 0
    memory.close()

    assert memory.closed


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("align", [1, PAGE, 16 * PAGE, 512 * PAGE])
def test_address_and_length_are_multiples_of_the_alignment(align: int, shared: bool) -> None:
    with DmaBuffer(HOST, PAGE + 1, shared=shared, align=align) as buffer:
        step = max(align, PAGE)
        assert buffer.vaddr % step == 0
        assert buffer.length == -(-(PAGE + 1) // step) * step
        assert len(buffer.view) == PAGE + 1
        assert address_of(buffer.view) == buffer.vaddr


def test_an_aligned_shared_buffer_tells_where_in_its_file_it_begins() -> None:
    with DmaBuffer(HOST, PAGE, shared=True, align=16 * PAGE) as buffer:
        buffer.write(0, b"here")
        assert buffer.fd is not None
        assert os.pread(buffer.fd, 4, buffer.fd_offset) == b"here"
