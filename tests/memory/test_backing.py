"""Memory in files."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from vfiocore.errors import AccessDeniedError, KernelError
from vfiocore.host import FileStat, LinuxHost
from vfiocore.memory import Backing

HOST = LinuxHost()
PAGE = HOST.page_size


def contents(backing: Backing) -> mmap.mmap:
    assert isinstance(backing.owner, mmap.mmap)
    return backing.owner


def test_a_file_that_does_not_exist_is_made_as_large_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    with Backing.at_path(HOST, str(path), 2 * PAGE, shared=True) as backing:
        contents(backing)[PAGE : PAGE + 4] = b"here"

    assert path.read_bytes() == bytes(PAGE) + b"here" + bytes(PAGE - 4)


def test_a_file_that_is_there_keeps_what_it_has_and_its_size(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(b"kept" + bytes(4 * PAGE))
    with Backing.at_path(HOST, str(path), 2 * PAGE) as backing:
        assert contents(backing)[:4] == b"kept"
        assert backing.size == 2 * PAGE

    assert path.stat().st_size == 4 * PAGE + 4


def test_what_is_written_stays_in_the_process_unless_shared(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    with Backing.at_path(HOST, str(path), PAGE) as backing:
        contents(backing)[:4] = b"mine"

    assert path.read_bytes() == bytes(PAGE)


def test_in_a_directory_the_file_has_no_name(tmp_path: Path) -> None:
    with Backing.at_path(HOST, str(tmp_path), PAGE, shared=True) as backing:
        contents(backing)[:4] = b"here"
        assert os.listdir(tmp_path) == []


def test_a_file_that_is_too_small_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGE))
    files = set(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError, match=f"{PAGE:#x} bytes, {2 * PAGE:#x} are wanted") as caught:
        Backing.at_path(HOST, str(path), 2 * PAGE)

    assert caught.value.errno == errno.EINVAL
    assert path.stat().st_size == PAGE
    assert set(os.listdir("/proc/self/fd")) <= files


def test_no_file_stays_open_after_the_memory(tmp_path: Path) -> None:
    files = set(os.listdir("/proc/self/fd"))
    Backing.at_path(HOST, str(tmp_path / "memory"), PAGE).close()

    assert set(os.listdir("/proc/self/fd")) <= files


def test_where_no_file_can_be_made_the_path_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "no-directory" / "memory")
    with pytest.raises(KernelError, match=path) as caught:
        Backing.at_path(HOST, path, PAGE)

    assert caught.value.errno == errno.ENOENT


def test_a_file_of_somebody_else_is_refused_as_such(tmp_path: Path) -> None:
    class Others(LinuxHost):
        def open(self, path: str, flags: int = os.O_RDWR) -> int:
            raise PermissionError(errno.EACCES, path)

    with pytest.raises(AccessDeniedError):
        Backing.at_path(Others(), str(tmp_path / "memory"), PAGE)


class LargeBlocks(LinuxHost):
    """Files are in blocks of four pages, as they are of huge pages in hugetlbfs."""

    def fstat(self, fd: int) -> FileStat:
        return super().fstat(fd)._replace(block_size=4 * PAGE)


def test_a_new_file_is_of_whole_blocks(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    with Backing.at_path(LargeBlocks(), str(path), PAGE + 1) as backing:
        assert backing.size == 4 * PAGE

    assert path.stat().st_size == 4 * PAGE


def test_what_lies_behind_the_end_of_a_file_is_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(2 * PAGE))
    with Backing.at_path(LargeBlocks(), str(path), PAGE) as backing:
        assert backing.size == 2 * PAGE


class NoPages(LinuxHost):
    """Nothing can be populated."""

    def __init__(self) -> None:
        self.mapped: list[mmap.mmap] = []

    def mmap(self, fd: int, length: int, *, prot: int, flags: int, offset: int = 0) -> mmap.mmap:
        self.mapped.append(super().mmap(fd, length, prot=prot, flags=flags, offset=offset))
        return self.mapped[-1]

    def madvise(self, memory: mmap.mmap, advice: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")


def test_a_file_that_cannot_be_populated_is_not_mapped(tmp_path: Path) -> None:
    host = NoPages()
    with pytest.raises(OSError, match="Cannot allocate"):
        Backing.at_path(host, str(tmp_path / "memory"), PAGE)

    assert host.mapped[0].closed


def test_pages_may_come_when_they_are_used(tmp_path: Path) -> None:
    with Backing.at_path(NoPages(), str(tmp_path / "memory"), PAGE, populate=False) as backing:
        assert contents(backing)[0] == 0
