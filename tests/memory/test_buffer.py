from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys

import pytest

from vfiocore.errors import ClosedError
from vfiocore.host import MADV_HUGEPAGE, MADV_POPULATE_WRITE, LinuxHost
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

    def memfd(self, name: str, size: int, *, hugetlb: int | None = None) -> int:
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


MIB = 1 << 20
HUGE = HOST.huge_page_size or 512 * PAGE


class AdvisedHost(LinuxHost):
    """Notes the advice given to the kernel, each with offset and length, and may refuse it."""

    huge_page_size = HUGE

    def __init__(self, refused: int | None = None, answer: int = 0) -> None:
        self.advice: list[tuple[int, int, int]] = []
        self.refused = refused
        self.answer = answer
        self.mapped: list[mmap.mmap] = []

    def mmap(self, fd: int, length: int, *, prot: int, flags: int, offset: int = 0) -> mmap.mmap:
        self.mapped.append(super().mmap(fd, length, prot=prot, flags=flags, offset=offset))
        return self.mapped[-1]

    def madvise(self, memory: mmap.mmap, advice: int, offset: int, length: int) -> None:
        self.advice.append((advice, offset, length))
        if advice == self.refused:
            raise OSError(self.answer, os.strerror(self.answer))

    def asked(self, advice: int) -> list[tuple[int, int]]:
        """Where an advice was given: offset and length."""
        return [part for kind, *part in self.advice if kind == advice]  # type: ignore[misc]


# -- huge pages ------------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("size", "asked"), [(HUGE - PAGE, False), (HUGE, True), (3 * HUGE, True)])
def test_huge_pages_are_asked_for_where_one_fits(size: int, asked: bool, shared: bool) -> None:
    host = AdvisedHost()
    with DmaBuffer(host, size, shared=shared) as buffer:
        assert bool(host.asked(MADV_HUGEPAGE)) is asked
        assert buffer.large_page == (HUGE if asked else PAGE)


@pytest.mark.parametrize("size", [HUGE, HUGE + PAGE, 5 * HUGE])
def test_private_memory_as_large_as_a_huge_page_is_aligned_to_one(size: int) -> None:
    buffers = [DmaBuffer(HOST, size) for _ in range(3)]
    assert [buffer.vaddr % HUGE for buffer in buffers] == [0, 0, 0]
    for buffer in buffers:
        buffer.close()


def test_no_more_is_mapped_than_asked_for_though_more_was_allocated() -> None:
    with DmaBuffer(AdvisedHost(), HUGE + 1) as buffer:
        assert buffer.length == HUGE + PAGE


def test_without_huge_pages_there_is_no_advice() -> None:
    host = AdvisedHost()
    host.huge_page_size = None  # type: ignore[assignment]  # as LinuxHost has it on such a kernel
    with DmaBuffer(host, 4 * MIB) as buffer:
        assert host.asked(MADV_HUGEPAGE) == []
        assert buffer.large_page == PAGE


def test_a_kernel_without_huge_pages_gives_small_ones() -> None:
    with DmaBuffer(AdvisedHost(MADV_HUGEPAGE, errno.EINVAL), HUGE) as buffer:
        assert buffer.read(0, 1) == b"\0"


@pytest.mark.parametrize("advice", [MADV_HUGEPAGE, MADV_POPULATE_WRITE])
@pytest.mark.parametrize("shared", [False, True])
def test_any_other_refusal_of_advice_is_an_error_and_frees_the_memory(
    advice: int, shared: bool
) -> None:
    host = AdvisedHost(advice, errno.ENOMEM)
    files = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Cannot allocate"):
        DmaBuffer(host, HUGE, shared=shared)

    assert all(memory.closed for memory in host.mapped)
    assert set(os.listdir("/proc/self/fd")) <= files


# -- pages that are there --------------------------------------------------------------------------
def resident(buffer: DmaBuffer) -> int:
    """How many bytes of a buffer are there: mincore(2)."""
    found = (ctypes.c_ubyte * (buffer.length // PAGE))()
    libc = ctypes.CDLL(None, use_errno=True)
    start, length = ctypes.c_void_p(buffer.vaddr), ctypes.c_size_t(buffer.length)
    assert libc.mincore(start, length, found) == 0
    return sum(page & 1 for page in found) * PAGE


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", [1, 3 * PAGE + 1, HUGE + PAGE])
def test_every_page_of_a_buffer_is_there_from_the_beginning(size: int, shared: bool) -> None:
    with DmaBuffer(HOST, size, shared=shared) as buffer:
        assert resident(buffer) == buffer.length


@pytest.mark.parametrize("shared", [False, True])
def test_a_buffer_may_be_filled_when_it_is_used(shared: bool) -> None:
    with DmaBuffer(HOST, 8 * PAGE, shared=shared, populate=False) as buffer:
        assert resident(buffer) == 0
        buffer.write(5 * PAGE, b"x")
        assert resident(buffer) == PAGE


def test_on_a_kernel_that_cannot_populate_the_pages_come_when_they_are_used() -> None:
    with DmaBuffer(AdvisedHost(MADV_POPULATE_WRITE, errno.EINVAL), 8 * PAGE) as buffer:
        assert resident(buffer) == 0
        assert buffer.read(0, 8 * PAGE) == bytes(8 * PAGE)


def test_only_the_buffer_is_populated_not_what_its_alignment_cost() -> None:
    host = AdvisedHost()
    with DmaBuffer(host, 2 * HUGE, align=4 * HUGE) as buffer:
        assert host.asked(MADV_POPULATE_WRITE) == [[buffer.fd_offset, buffer.length]]


def test_large_memory_is_populated_by_several_threads() -> None:
    host = AdvisedHost()
    with DmaBuffer(host, 4 * HUGE, threads=3) as buffer:
        parts = sorted(host.asked(MADV_POPULATE_WRITE))
        assert len(parts) == 3
        assert sum(length for _, length in parts) == buffer.length


def test_a_thread_that_fails_to_populate_is_heard() -> None:
    with pytest.raises(OSError, match="Bad address"):
        DmaBuffer(AdvisedHost(MADV_POPULATE_WRITE, errno.EFAULT), 4 * HUGE, threads=4)


# -- the buffer protocol ---------------------------------------------------------------------------
def test_structs_are_read_and_written_in_place() -> None:
    with DmaBuffer(HOST, 64) as buffer:
        struct.pack_into("=IQ", buffer.view, 8, 7, 1 << 40)
        assert struct.unpack_from("=IQ", buffer.view, 8) == (7, 1 << 40)


def test_the_view_is_an_array_of_wider_elements_in_place() -> None:
    with DmaBuffer(HOST, 64) as buffer:
        words = buffer.view.cast("I")
        words[3] = 0xCAFE
        words.release()
        assert int.from_bytes(buffer.read(12, 4), sys.byteorder) == 0xCAFE


def test_numpy_takes_the_view_as_it_is() -> None:
    numpy = pytest.importorskip("numpy")
    with DmaBuffer(HOST, 64) as buffer:
        words = numpy.frombuffer(buffer.view, dtype=numpy.uint32)
        words[3] = 0xCAFE
        assert int.from_bytes(buffer.read(12, 4), sys.byteorder) == 0xCAFE
        del words


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 688: from Python 3.12 on")
def test_a_buffer_has_the_buffer_protocol_itself() -> None:
    with DmaBuffer(HOST, 64) as buffer:
        memoryview(buffer)[3] = 7  # type: ignore[arg-type]  # mypy checks for Python 3.11
        assert buffer.read(3, 1) == b"\x07"


# -- where it is -----------------------------------------------------------------------------------
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
