"""Pools of huge pages, and advice on memory."""

from __future__ import annotations

import errno
import gc
import mmap
import os

import pytest

from vfiocore.host import MADV_POPULATE_WRITE, MAP_HUGE_SHIFT, MAP_HUGETLB
from vfiocore_sim.host import SimHost
from vfiocore_sim.kernel.machine import KernelOptions

MIB, GIB = 1 << 20, 1 << 30
POOLS = "/sys/kernel/mm/hugepages"
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB


def shown(host: SimHost, name: str, size: int = 2 * MIB) -> int:
    return int(host.read_file(f"{POOLS}/hugepages-{size >> 10}kB/{name}"))


def flags_for(size: int) -> int:
    return PRIVATE | (size.bit_length() - 1) << MAP_HUGE_SHIFT


def private(host: SimHost, length: int, flags: int = PRIVATE) -> mmap.mmap:
    return host.mmap(-1, length, prot=READ_WRITE, flags=flags)


def shared(host: SimHost, fd: int, length: int) -> mmap.mmap:
    return host.mmap(fd, length, prot=READ_WRITE, flags=mmap.MAP_SHARED)


def test_every_pool_is_in_sysfs() -> None:
    host = SimHost(hugepages={2 * MIB: 8, GIB: 1})
    assert host.listdir(POOLS) == ["hugepages-1048576kB", "hugepages-2048kB"]
    assert [shown(host, f"{name}_hugepages") for name in ("nr", "free", "resv")] == [8, 8, 0]
    assert shown(host, "nr_hugepages", GIB) == 1


def test_the_smallest_pages_are_the_default_ones() -> None:
    host = SimHost(hugepages={2 * MIB: 8, GIB: 1})
    assert host.read_file("/proc/meminfo") == b"Hugepagesize:    2048 kB\n"
    with private(host, 2 * MIB):
        assert shown(host, "free_hugepages") == 7


def test_a_machine_may_have_no_pools_at_all() -> None:
    host = SimHost(hugepages={})
    assert not host.exists(POOLS)
    assert host.read_file("/proc/meminfo") == b""
    with pytest.raises(OSError, match="Invalid argument"):
        private(host, 2 * MIB, flags_for(2 * MIB))


def test_a_table_of_pools_may_come_from_toml() -> None:
    assert KernelOptions(hugepages={"2097152": 8}).hugepages == {2097152: 8}  # type: ignore[dict-item]


def test_a_mapping_has_whole_pages_until_it_is_closed() -> None:
    host = SimHost(hugepages={2 * MIB: 4})
    memory = private(host, 3 * MIB)
    memory[3 * MIB - 1] = 1
    assert shown(host, "free_hugepages") == 2
    memory.close()
    assert shown(host, "free_hugepages") == 4


def test_a_mapping_that_is_forgotten_gives_its_pages_back() -> None:
    host = SimHost(hugepages={2 * MIB: 4})
    memory = private(host, 2 * MIB)
    del memory
    gc.collect()
    assert shown(host, "free_hugepages") == 4


def test_a_size_can_be_named() -> None:
    host = SimHost(hugepages={2 * MIB: 1, 4 * MIB: 1})
    with private(host, 4 * MIB, flags_for(4 * MIB)):
        assert shown(host, "free_hugepages", 4 * MIB) == 0
        assert shown(host, "free_hugepages") == 1


def test_a_size_without_a_pool_is_refused() -> None:
    host = SimHost(hugepages={2 * MIB: 1})
    with pytest.raises(OSError, match="Invalid argument"):
        private(host, GIB, flags_for(GIB))
    with pytest.raises(OSError, match="No such device") as caught:
        host.memfd("x", GIB, hugetlb=GIB)
    assert caught.value.errno == errno.ENODEV


def test_a_pool_gives_no_more_than_it_has() -> None:
    host = SimHost(hugepages={2 * MIB: 2})
    with private(host, 4 * MIB), pytest.raises(OSError, match="Cannot allocate"):
        private(host, 1)
    private(host, 4 * MIB).close()


def test_a_mapping_that_fails_takes_no_pages() -> None:
    host = SimHost(hugepages={2 * MIB: 2})
    with pytest.raises(OSError, match="Invalid argument"):
        host.mmap(-1, 2 * MIB, prot=READ_WRITE, flags=MAP_HUGETLB)
    assert shown(host, "free_hugepages") == 2


def test_a_pool_can_be_given_more_pages_but_keeps_those_in_use() -> None:
    host = SimHost(hugepages={2 * MIB: 2})
    with private(host, 4 * MIB):
        host.write_file(f"{POOLS}/hugepages-2048kB/nr_hugepages", b"0\n")
        assert shown(host, "nr_hugepages") == 2
    host.write_file(f"{POOLS}/hugepages-2048kB/nr_hugepages", b"5\n")
    assert shown(host, "free_hugepages") == 5


def test_what_is_no_number_is_refused_by_a_pool() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        SimHost().write_file(f"{POOLS}/hugepages-2048kB/nr_hugepages", b"many")


# -- memory files ----------------------------------------------------------------------------------
def test_a_memory_file_has_its_pages_once_it_is_mapped_and_only_once() -> None:
    host = SimHost(hugepages={2 * MIB: 4})
    fd = host.memfd("x", 4 * MIB, hugetlb=2 * MIB)
    assert shown(host, "free_hugepages") == 4
    with shared(host, fd, 4 * MIB), shared(host, fd, 2 * MIB):
        assert shown(host, "free_hugepages") == 2
    assert shown(host, "free_hugepages") == 4
    host.close(fd)


def test_mapping_a_memory_file_fails_when_the_pool_is_short() -> None:
    host = SimHost(hugepages={2 * MIB: 1})
    fd = host.memfd("x", 4 * MIB, hugetlb=2 * MIB)
    with pytest.raises(OSError, match="Cannot allocate"):
        shared(host, fd, 4 * MIB)
    host.close(fd)


def test_a_memory_file_has_whole_pages() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        SimHost(hugepages={2 * MIB: 4}).memfd("x", 3 * MIB, hugetlb=2 * MIB)


def test_any_other_memory_file_takes_no_huge_pages() -> None:
    host = SimHost(hugepages={2 * MIB: 4})
    fd = host.memfd("x", 2 * MIB)
    with shared(host, fd, 2 * MIB):
        assert shown(host, "free_hugepages") == 4
    host.close(fd)


# -- advice and sizes ------------------------------------------------------------------------------
def test_an_older_kernel_cannot_populate() -> None:
    host = SimHost(without={"MADV_POPULATE_WRITE"})
    with host.mmap(-1, host.page_size, prot=READ_WRITE, flags=mmap.MAP_PRIVATE) as memory:
        with pytest.raises(OSError, match="Invalid argument"):
            host.madvise(memory, MADV_POPULATE_WRITE, 0, host.page_size)
        SimHost().madvise(memory, MADV_POPULATE_WRITE, 0, host.page_size)


def test_advice_can_be_made_to_fail() -> None:
    host = SimHost()
    host.fail("madvise", errno.ENOMEM)
    memory = host.mmap(-1, host.page_size, prot=READ_WRITE, flags=mmap.MAP_PRIVATE)
    with memory, pytest.raises(OSError, match="Cannot allocate"):
        host.madvise(memory, MADV_POPULATE_WRITE, 0, host.page_size)


def test_a_file_of_the_real_machine_can_be_given_a_size() -> None:
    host = SimHost()
    fd = host.memfd("x", 1)
    host.truncate(fd, 100)
    assert host.fstat(fd).size == 100
    host.close(fd)


def test_a_simulated_file_has_no_size_to_be_changed() -> None:
    host = SimHost()
    fd = host.open("/dev/vfio/vfio")
    with pytest.raises(OSError, match="Invalid argument"):
        host.truncate(fd, 100)
    host.close(fd)


def test_cpus_and_transparent_huge_pages_are_the_real_machines() -> None:
    assert SimHost().cpu_count() == len(os.sched_getaffinity(0))
    assert SimHost().huge_page_size != 0
