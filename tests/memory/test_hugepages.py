from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vfiocore.errors import KernelError, UnsupportedError
from vfiocore.host import LinuxHost
from vfiocore.memory import DmaBuffer
from vfiocore.memory.hugepages import default_pool_size, pool_sizes, read_pool
from vfiocore_sim.host import SimHost

MIB, GIB = 1 << 20, 1 << 30
POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"


class WithoutHugetlb(LinuxHost):
    """A kernel without CONFIG_HUGETLBFS."""

    def listdir(self, path: str) -> list[str]:
        raise FileNotFoundError(errno.ENOENT, path)

    def read_file(self, path: str) -> bytes:
        return b"MemTotal:       16384 kB\n"


def free_pages(host: SimHost) -> int:
    return read_pool(host, 2 * MIB).free


# -- what there is ---------------------------------------------------------------------------------
def test_the_pools_of_a_machine_are_known_by_the_size_of_their_pages() -> None:
    assert pool_sizes(SimHost(hugepages={GIB: 0, 2 * MIB: 8})) == (2 * MIB, GIB)


def test_pages_that_somebody_was_promised_are_not_free() -> None:
    class Promised(LinuxHost):
        def read_file(self, path: str) -> bytes:
            return {"nr": b"8\n", "free": b"5\n", "resv": b"3\n"}[Path(path).name.split("_")[0]]

    pool = read_pool(Promised(), 2 * MIB)
    assert (pool.total, pool.free, pool.path) == (8, 2, POOL)


def test_this_machines_pools_are_read() -> None:
    host = LinuxHost()
    for size in pool_sizes(host):
        pool = read_pool(host, size)
        assert 0 <= pool.free <= pool.total
    assert default_pool_size(host) in (None, *pool_sizes(host))


def test_the_kernel_has_a_size_of_its_own_where_none_is_named() -> None:
    assert default_pool_size(SimHost(hugepages={GIB: 4, 2 * MIB: 8})) == 2 * MIB


def test_a_kernel_without_pools_has_no_sizes() -> None:
    assert pool_sizes(WithoutHugetlb()) == ()
    assert default_pool_size(WithoutHugetlb()) is None


# -- buffers ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [False, True])
def test_a_buffer_takes_whole_pages_of_a_pool_and_gives_them_back(shared: bool) -> None:
    host = SimHost(hugepages={2 * MIB: 8})
    with DmaBuffer(host, 3 * MIB, shared=shared, hugetlb=2 * MIB) as buffer:
        assert (buffer.length, buffer.large_page, len(buffer)) == (4 * MIB, 2 * MIB, 3 * MIB)
        assert (buffer.fd is not None) is shared
        assert free_pages(host) == 6
        buffer.write(3 * MIB - 1, b"x")

    assert free_pages(host) == 8


@pytest.mark.parametrize("shared", [False, True])
def test_a_pool_that_is_short_is_an_error_that_says_how_to_mend_it(shared: bool) -> None:
    host = SimHost(hugepages={2 * MIB: 4})
    files = set(os.listdir("/proc/self/fd"))
    with DmaBuffer(host, 6 * MIB, hugetlb=2 * MIB):
        with pytest.raises(KernelError) as caught:
            DmaBuffer(host, 10 * MIB, shared=shared, hugetlb=2 * MIB)

        assert caught.value.errno == errno.ENOMEM
        assert "huge pages of 2 MiB: mmap failed: 5 wanted, 1 of 4 free" in str(caught.value)
        assert (caught.value.hint or "").startswith(f"echo 8 > {POOL}, ")
    assert set(os.listdir("/proc/self/fd")) <= files


def test_doing_what_the_hint_says_mends_it() -> None:
    host = SimHost(hugepages={2 * MIB: 4})
    taken = DmaBuffer(host, 6 * MIB, hugetlb=2 * MIB)
    with pytest.raises(KernelError) as caught:
        DmaBuffer(host, 10 * MIB, hugetlb=2 * MIB)
    command = (caught.value.hint or "").partition(",")[0]
    _echo, number, _into, path = command.split()
    host.write_file(path, number.encode())

    DmaBuffer(host, 10 * MIB, hugetlb=2 * MIB).close()
    taken.close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_size_that_the_machine_does_not_have_names_those_it_has(shared: bool) -> None:
    host = SimHost(hugepages={2 * MIB: 4, GIB: 1})
    with pytest.raises(UnsupportedError, match="no huge pages of 64 KiB, only of 2 MiB, 1 GiB"):
        DmaBuffer(host, MIB, shared=shared, hugetlb=64 << 10)


@pytest.mark.parametrize("size", [0, -1, 3 * MIB, 1000])
def test_what_is_no_size_of_a_page_is_one_that_the_machine_does_not_have(size: int) -> None:
    with pytest.raises(UnsupportedError, match="no huge pages of"):
        DmaBuffer(SimHost(), MIB, hugetlb=size)


def test_a_kernel_without_huge_page_pools_says_what_it_lacks() -> None:
    with pytest.raises(UnsupportedError, match="none at all") as caught:
        DmaBuffer(WithoutHugetlb(), MIB, hugetlb=2 * MIB)

    assert "CONFIG_HUGETLBFS" in (caught.value.hint or "")


def test_another_refusal_of_pool_memory_has_its_own_errno() -> None:
    host = SimHost(hugepages={2 * MIB: 4})
    host.fail("mmap", errno.EAGAIN)
    with pytest.raises(KernelError, match="huge pages of 2 MiB: mmap failed: 0x200000 bytes") as e:
        DmaBuffer(host, 1, hugetlb=2 * MIB)

    assert e.value.errno == errno.EAGAIN


def test_pool_memory_is_not_advised_to_be_of_huge_pages() -> None:
    class Strict(SimHost):
        def madvise(self, memory: object, advice: int, offset: int, length: int) -> None:
            assert advice != 14, "EINVAL on memory that is of huge pages already"

    DmaBuffer(Strict(hugepages={2 * MIB: 4}), 4 * MIB, hugetlb=2 * MIB).close()
