from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import json
import mmap
import os
import socket
import stat
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from vfiocore.host import MADV_POPULATE_WRITE, POLLIN, Host, LinuxHost, TraceHost
from vfiocore.uapi import vfio
from vfiocore_sim.host import SimHost

from .scripted import ScriptedHost

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def linux() -> LinuxHost:
    return LinuxHost()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


# -- this machine ----------------------------------------------------------------------------------
@pytest.mark.parametrize("host", [LinuxHost(), SimHost(), TraceHost(LinuxHost(), io.StringIO())])
def test_every_host_has_all_of_the_protocol(host: Host) -> None:
    assert isinstance(host, Host)
    assert host.page_size & (host.page_size - 1) == 0


@pytest.mark.parametrize("make", ["open", "dup", "memfd", "eventfd"])
def test_every_fd_is_close_on_exec(linux: LinuxHost, tmp_path: Path, make: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    original = os.open(tmp_path / "file", os.O_RDONLY)
    os.set_inheritable(original, True)
    ways: dict[str, Callable[[], int]] = {
        "open": lambda: linux.open(str(tmp_path / "file")),
        "dup": lambda: linux.dup(original),
        "memfd": lambda: linux.memfd("x", 16),
        "eventfd": linux.eventfd,
    }
    made = ways[make]()
    assert fcntl.fcntl(made, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(made)
    os.close(original)


def test_an_eventfd_does_not_block(linux: LinuxHost) -> None:
    fd = linux.eventfd()
    with pytest.raises(BlockingIOError):
        linux.read(fd, 8)
    linux.close(fd)


def test_an_ioctl_updates_its_buffer_in_place(linux: LinuxHost) -> None:
    read, write = os.pipe()
    os.write(write, b"12345")
    buffer = bytearray(4)
    assert linux.ioctl(read, termios.FIONREAD, buffer) == 0
    assert struct.unpack("=i", buffer) == (5,)
    os.close(read)
    os.close(write)


def test_a_poll_takes_seconds(linux: LinuxHost) -> None:
    fd = linux.eventfd()
    assert linux.poll([(fd, POLLIN)], 0.01) == []
    linux.write(fd, (1).to_bytes(8, "little"))
    assert linux.poll([(fd, POLLIN)], None) == [(fd, POLLIN)]
    linux.close(fd)


def test_a_memfd_has_its_size(linux: LinuxHost) -> None:
    fd = linux.memfd("x", 12345)
    assert os.fstat(fd).st_size == 12345
    linux.close(fd)


def test_a_memfd_that_cannot_have_its_size_is_closed(linux: LinuxHost) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=r"."):
        linux.memfd("x", -1)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_has_a_type_a_size_and_a_block(linux: LinuxHost) -> None:
    fd = linux.memfd("x", 12345)
    found = linux.fstat(fd)
    assert (stat.S_ISREG(found.mode), found.size) == (True, 12345)
    assert found.block_size == os.fstat(fd).st_blksize
    linux.close(fd)


def test_a_file_can_be_given_a_size(linux: LinuxHost) -> None:
    fd = linux.memfd("x", 16)
    linux.truncate(fd, 100)
    assert linux.pread(fd, 200, 0) == bytes(100)
    linux.close(fd)


def test_a_file_that_is_created_is_the_users_alone(linux: LinuxHost, tmp_path: Path) -> None:
    linux.close(linux.open(str(tmp_path / "new"), os.O_RDWR | os.O_CREAT))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def resident(memory: mmap.mmap) -> list[bool]:
    """Which pages of memory are there: mincore(2)."""
    pages = len(memory) // mmap.PAGESIZE
    found = (ctypes.c_ubyte * pages)()
    start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(start, ctypes.c_size_t(len(memory)), found) == 0
    return [bool(page & 1) for page in found]


def test_advice_is_for_a_part_of_memory(linux: LinuxHost) -> None:
    page = linux.page_size
    with linux.mmap(-1, 8 * page, prot=3, flags=mmap.MAP_PRIVATE) as memory:
        linux.madvise(memory, mmap.MADV_NOHUGEPAGE, 0, 8 * page)
        linux.madvise(memory, MADV_POPULATE_WRITE, 2 * page, 3 * page)
        assert resident(memory) == [False] * 2 + [True] * 3 + [False] * 3


def test_advice_that_the_kernel_refuses_has_its_errno(linux: LinuxHost) -> None:
    with linux.mmap(-1, linux.page_size, prot=3, flags=mmap.MAP_PRIVATE) as memory:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            linux.madvise(memory, 12345, 0, linux.page_size)
        assert caught.value.errno == errno.EINVAL


def test_other_threads_go_on_while_the_kernel_takes_advice(linux: LinuxHost) -> None:
    taken: list[float] = []

    def fill(memory: mmap.mmap) -> None:
        start = time.perf_counter()
        linux.madvise(memory, MADV_POPULATE_WRITE, 0, len(memory))
        taken.append(time.perf_counter() - start)

    with linux.mmap(-1, 256 << 20, prot=3, flags=mmap.MAP_PRIVATE) as memory:
        filling = threading.Thread(target=fill, args=(memory,))
        turns = [time.perf_counter()]
        filling.start()
        turns.append(time.perf_counter())
        while filling.is_alive():
            time.sleep(0.001)
            turns.append(time.perf_counter())
        filling.join()
    longest_wait = max(after - before for before, after in pairwise(turns))
    assert longest_wait < taken[0] / 2


def test_a_huge_page_is_some_number_of_pages(linux: LinuxHost) -> None:
    huge = linux.huge_page_size
    assert huge is None or (huge > linux.page_size and huge % linux.page_size == 0)


def test_a_kernel_without_huge_pages_says_so() -> None:
    class WithoutHugePages(LinuxHost):
        def read_file(self, path: str) -> bytes:
            raise FileNotFoundError(errno.ENOENT, path)

    assert WithoutHugePages().huge_page_size is None


def test_the_cpus_are_those_that_the_process_may_use(linux: LinuxHost) -> None:
    assert linux.cpu_count() == len(os.sched_getaffinity(0))


def test_files_and_directories_are_read(linux: LinuxHost, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to("a")
    linux.write_file(str(tmp_path / "a"), b"new")
    assert linux.read_file(str(tmp_path / "link")) == b"new"
    assert linux.listdir(str(tmp_path)) == ["a", "b", "link"]
    assert linux.readlink(str(tmp_path / "link")) == "a"
    assert linux.realpath(str(tmp_path / "link")) == str((tmp_path / "a").resolve())
    assert linux.exists(str(tmp_path / "a"))
    assert not linux.exists(str(tmp_path / "c"))


def test_a_store_does_not_create_a_file(linux: LinuxHost, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        linux.write_file(str(tmp_path / "no-attribute"), b"x")


def test_fds_pass_and_are_close_on_exec(linux: LinuxHost, pair: Pair) -> None:
    ours, theirs = pair
    event = linux.eventfd()
    linux.send_fds(theirs.fileno(), b"hello", [event, event])
    data, fds = linux.recv_fds(ours.fileno(), 64, 8)
    assert data == b"hello"
    assert len(fds) == 2
    for fd in fds:
        assert not os.get_inheritable(fd)
        linux.close(fd)
    linux.close(event)
    assert ours.fileno() >= 0


def test_more_fds_than_there_is_room_for_are_an_error_and_none_stays_open(
    linux: LinuxHost, pair: Pair
) -> None:
    ours, theirs = pair
    event = linux.eventfd()
    linux.send_fds(theirs.fileno(), b"hello", [event] * 5)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="more than 2 fds") as caught:
        linux.recv_fds(ours.fileno(), 64, 2)
    assert caught.value.errno == errno.EMSGSIZE
    assert os.listdir("/proc/self/fd") == before
    linux.close(event)


def test_what_is_no_socket_leaves_no_fd_behind(linux: LinuxHost) -> None:
    event = linux.eventfd()
    before = os.listdir("/proc/self/fd")
    for use in (
        lambda: linux.recv_fds(event, 8, 1),
        lambda: linux.send_fds(event, b"x", [event]),
    ):
        with pytest.raises(OSError, match=r"."):
            use()
    assert os.listdir("/proc/self/fd") == before
    linux.close(event)


# -- tracing ---------------------------------------------------------------------------------------
@pytest.fixture
def sink() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def traced(host: ScriptedHost, sink: io.StringIO) -> TraceHost:
    return TraceHost(host, sink)


def lines(sink: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_each_call_is_one_line_of_json(traced: TraceHost, sink: io.StringIO) -> None:
    fd = traced.memfd("x", 16)
    traced.pwrite(fd, memoryview(b"\x01\xff"), 4)
    traced.pread(fd, 3, 4)
    traced.close(fd)
    written = lines(sink)
    assert [line["seq"] for line in written] == [1, 2, 3, 4]
    assert [line["call"] for line in written] == ["memfd", "pwrite", "pread", "close"]
    assert written[1]["args"] == [fd, "01ff", 4]
    assert written[2]["result"] == "01ff00"
    assert all(line["ns"] >= 0 for line in written)


def test_an_ioctl_has_its_buffer_before_and_after(
    host: ScriptedHost, traced: TraceHost, sink: io.StringIO
) -> None:
    def answer(arg: bytearray) -> int:
        arg[1] = 0xAB
        return 7

    host.answers[vfio.VFIO_DEVICE_GET_INFO] = answer
    assert traced.ioctl(3, vfio.VFIO_DEVICE_GET_INFO, bytearray(2)) == 7
    (line,) = lines(sink)
    assert line["args"] == [3, vfio.VFIO_DEVICE_GET_INFO, "0000"]
    assert (line["out"], line["result"]) == ("00ab", 7)


def test_a_structure_is_traced_as_its_bytes(
    host: ScriptedHost, traced: TraceHost, sink: io.StringIO
) -> None:
    def answer(arg: vfio.vfio_irq_info) -> int:
        arg.count = 5
        return 0

    host.answers[vfio.VFIO_DEVICE_GET_IRQ_INFO] = answer
    info = vfio.vfio_irq_info(argsz=16)
    traced.ioctl(3, vfio.VFIO_DEVICE_GET_IRQ_INFO, info)
    (line,) = lines(sink)
    assert line["out"] == bytes(info).hex() != line["args"][2]


def test_an_ioctl_that_changes_nothing_has_no_out(
    host: ScriptedHost, traced: TraceHost, sink: io.StringIO
) -> None:
    host.answers = {1: lambda _arg: 0, 2: lambda _arg: 0}
    traced.ioctl(3, 1, bytearray(2))
    traced.ioctl(3, 2, 5)
    assert all("out" not in line for line in lines(sink))


def test_a_failure_has_its_errno_and_is_passed_on(
    host: ScriptedHost, traced: TraceHost, sink: io.StringIO
) -> None:
    def answer(arg: bytearray) -> int:
        arg[0] = 1
        raise OSError(errno.EBUSY, "")

    host.answers[1] = answer
    with pytest.raises(OSError, match="16"):
        traced.ioctl(3, 1, bytearray(2))
    (line,) = lines(sink)
    assert (line["errno"], line["out"]) == ("EBUSY", "0100")
    assert "result" not in line


def test_a_mapping_is_traced_and_works(traced: TraceHost, sink: io.StringIO) -> None:
    fd = traced.memfd("x", traced.page_size)
    with traced.mmap(fd, traced.page_size, prot=3, flags=1) as memory:
        memory[0] = 5
    assert traced.pread(fd, 1, 0) == b"\x05"
    assert lines(sink)[1]["result"] == "mmap"


def test_lines_of_several_threads_do_not_mix(host: ScriptedHost) -> None:
    class SlowSink(io.StringIO):
        def write(self, text: str) -> int:
            half = len(text) // 2
            super().write(text[:half])
            time.sleep(0.001)
            super().write(text[half:])
            return len(text)

    sink = SlowSink()
    traced = TraceHost(host, sink)

    def work() -> None:
        for _ in range(10):
            traced.exists("/")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line["seq"] for line in lines(sink)] == list(range(1, 41))


def test_a_trace_is_of_the_inner_host(traced: TraceHost, host: ScriptedHost) -> None:
    assert (traced.name, traced.page_size) == (host.name, host.page_size)
    assert traced.huge_page_size == host.huge_page_size


def test_every_call_of_the_protocol_is_traced(
    sink: io.StringIO, tmp_path: Path, pair: Pair
) -> None:
    traced = TraceHost(LinuxHost(), sink)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    path = str(tmp_path / "file")
    fd = traced.open(path)
    traced.fstat(fd)
    traced.read(fd, 1)
    traced.write(fd, b"y")
    traced.close(traced.dup(fd))
    traced.close(fd)
    traced.memlock_limit()
    traced.cpu_count()
    file = traced.memfd("x", traced.page_size)
    traced.truncate(file, 2 * traced.page_size)
    with traced.mmap(file, traced.page_size, prot=3, flags=1) as memory:
        traced.madvise(memory, MADV_POPULATE_WRITE, 0, traced.page_size)
    traced.close(file)
    event = traced.eventfd()
    traced.poll([(event, POLLIN)], 0)
    traced.send_fds(pair[0].fileno(), b"z", [event])
    _data, fds = traced.recv_fds(pair[1].fileno(), 8, 1)
    for each in (event, *fds):
        traced.close(each)
    traced.listdir(str(tmp_path))
    traced.exists(path)
    traced.readlink(str(tmp_path / "link"))
    traced.realpath(path)
    traced.write_file(path, b"w")
    traced.read_file(path)
    called = {line["call"] for line in lines(sink)}
    protocol = {name for name in vars(Host) if not name.startswith("_")}
    untried = {"ioctl", "pread", "pwrite", "name", "page_size", "huge_page_size"}
    assert called == protocol - untried
