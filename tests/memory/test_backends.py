"""Guest memory from configuration."""

from __future__ import annotations

import errno
import mmap
from pathlib import Path

import pytest

from vfiocore.errors import ConfigError, KernelError, UnsupportedError
from vfiocore.framework import Framework
from vfiocore.memory import Backing, Ram
from vfiocore.memory.hugepages import read_pool
from vfiocore_sim.host import SimHost

MIB, GIB = 1 << 20, 1 << 30
PAGE = mmap.PAGESIZE


class Noting(SimHost):
    """Notes what is populated, in bytes."""

    filled = 0

    def madvise(self, memory: mmap.mmap, advice: int, offset: int, length: int) -> None:
        super().madvise(memory, advice, offset, length)
        self.filled += length if advice == 23 else 0


def backing_of(words: str, host: SimHost) -> Backing:
    """What is behind the one piece of memory that a configuration has."""
    with Framework(host=host).open(f"-object {words}") as session:
        (ram,) = session.memory.root.children
        assert isinstance(ram, Ram)
        return ram.backing


@pytest.mark.parametrize("kind", ["ram", "memfd"])
@pytest.mark.parametrize(("words", "filled"), [("", 0), (",prealloc=on", MIB)])
def test_pages_are_there_beforehand_if_asked_for(kind: str, words: str, filled: int) -> None:
    host = Noting()
    backing_of(f"memory-backend-{kind},id=ram0,size=1M{words}", host)

    assert host.filled == filled


def test_the_number_of_threads_can_be_chosen() -> None:
    host = Noting()
    backing_of("memory-backend-ram,id=ram0,size=8M,prealloc=on,prealloc-threads=3", host)

    assert host.filled == 8 * MIB


@pytest.mark.parametrize(("words", "shared"), [("", False), (",share=on", True)])
def test_anonymous_memory_may_be_shared(words: str, shared: bool) -> None:
    backing = backing_of(f"memory-backend-ram,id=ram0,size=1M{words}", SimHost())

    assert (backing.fd is not None) is shared


@pytest.mark.parametrize(("words", "size"), [("", 2 * MIB), (",hugetlbsize=1G", GIB)])
def test_memory_may_come_from_a_pool_of_huge_pages(words: str, size: int) -> None:
    host = SimHost(hugepages={2 * MIB: 1, GIB: 1})
    line = f"-object memory-backend-memfd,id=ram0,size=2M,hugetlb=on{words}"
    with Framework(host=host).open(line) as session:
        (ram,) = session.memory.root.children
        assert ram.size == 2 * MIB
        assert read_pool(host, size).free == 0

    assert read_pool(host, size).free == 1


def test_a_pool_that_is_short_names_the_object_and_the_cure() -> None:
    with pytest.raises(KernelError) as caught:
        backing_of("memory-backend-memfd,id=ram0,size=4M,hugetlb=on", SimHost())

    assert caught.value.errno == errno.ENOMEM
    assert '"ram0"' in str(caught.value)
    assert "2 wanted, 0 of 0 free" in str(caught.value)
    assert "echo 2 > " in (caught.value.hint or "")


def test_a_kernel_without_pools_has_no_default_size() -> None:
    with pytest.raises(UnsupportedError, match="no huge page pools"):
        backing_of("memory-backend-memfd,id=ram0,size=2M,hugetlb=on", SimHost(hugepages={}))


@pytest.mark.parametrize("shared", [False, True])
def test_memory_may_be_in_a_file(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "memory"
    words = f"memory-backend-file,id=ram0,size=1M,mem-path={path},share={'on' if shared else 'off'}"
    with Framework(host=SimHost()).open(f"-object {words}") as session:
        (ram,) = session.memory.root.children
        assert isinstance(ram, Ram)
        assert isinstance(ram.backing.owner, mmap.mmap)
        ram.backing.owner[:4] = b"here"

    assert (path.read_bytes()[:4] == b"here") is shared
    assert path.stat().st_size == MIB


def test_a_file_needs_a_path() -> None:
    with pytest.raises(ConfigError, match="mem-path"):
        backing_of("memory-backend-file,id=ram0,size=1M", SimHost())


def test_a_path_that_cannot_be_opened_names_the_object_and_the_path() -> None:
    with pytest.raises(KernelError) as caught:
        backing_of("memory-backend-file,id=ram0,size=1M,mem-path=/no/such/place", SimHost())

    assert '"ram0" (memory-backend-file)' in str(caught.value)
    assert "/no/such/place" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "switch"),
    [
        ("memory-backend-memfd,id=r,size=2M,hugetlbsize=2M", "hugetlb=on"),
        ("memory-backend-memfd,id=r,size=2M,prealloc-threads=2", "prealloc=on"),
        ("memory-backend-ram,id=r,size=2M,prealloc-threads=2", "prealloc=on"),
        ("memory-backend-file,id=r,size=2M,mem-path=/x,prealloc-threads=2", "prealloc=on"),
    ],
)
def test_how_to_do_what_is_not_to_be_done_is_a_problem(words: str, switch: str) -> None:
    with pytest.raises(ConfigError, match=f"it is for {switch}"):
        backing_of(words, SimHost())
