"""Memory that maps fast: huge pages, from a pool or not, on the kernel's own terms."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vfiocore.errors import KernelError, UnsupportedError
from vfiocore.framework import Framework
from vfiocore.host import LinuxHost
from vfiocore.memory import Backing, DmaBuffer
from vfiocore.memory.hugepages import default_pool_size, read_pool

from . import edu as card_of
from .binding import setting
from .devices import Device
from .way import Way

HOST = LinuxHost()
PAGES = 4
SIZE = 1024


def huge_page() -> int:
    size = default_pool_size(HOST)
    assert size is not None, "the guests' kernels have CONFIG_HUGETLBFS"
    return size


@contextmanager
def pool(pages: int) -> Iterator[int]:
    """A pool of that many pages; their size in bytes."""
    size = huge_page()
    with setting(read_pool(HOST, size).path, str(pages)):
        assert read_pool(HOST, size).free == pages
        yield size


def of_address(vaddr: int, name: str) -> int:
    """A number that the kernel has of the memory at an address, in bytes (/proc/self/smaps)."""
    entries = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE
    )
    for entry in entries[1:]:
        start, end = (int(part, 16) for part in entry.split()[0].split("-"))
        if start <= vaddr < end:
            (kib,) = re.findall(rf"^{name}:\s+([0-9]+) kB$", entry, re.MULTILINE)
            return int(kib) << 10
    raise AssertionError(f"nothing at {vaddr:#x}")


# -- pools -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [False, True])
def test_the_card_reaches_memory_of_a_pool(edu: Device, way: Way, shared: bool) -> None:
    with (
        pool(PAGES) as huge,
        way.open(edu) as session,
        card_of.running(session["dev0"]) as vector,
    ):
        memory = session.dma_alloc(2 * huge, below=card_of.REACH, shared=shared, hugetlb=huge)
        assert of_address(memory.vaddr, "KernelPageSize") == huge
        assert (memory.vaddr % huge, memory.iova % huge) == (0, 0)
        assert read_pool(HOST, huge).free == PAGES - 2
        memory.write(huge - 8, b"across two pages")
        card_of.load(session["dev0"], vector, memory.iova + huge - 8, 16)
        card_of.store(session["dev0"], vector, memory.iova, 16)
        assert memory.read(0, 16) == b"across two pages"
        memory.close()
        assert read_pool(HOST, huge).free == PAGES


@pytest.mark.parametrize("shared", [False, True])
def test_a_pool_that_is_short_says_so_and_its_hint_mends_it(
    edu: Device, way: Way, shared: bool
) -> None:
    with pool(1) as huge, way.open(edu) as session:
        with pytest.raises(KernelError, match="2 wanted, 1 of 1 free") as caught:
            session.dma_alloc(2 * huge, shared=shared, hugetlb=huge)
        assert read_pool(HOST, huge).free == 1
        command = (caught.value.hint or "").partition(",")[0]
        assert re.fullmatch(r"echo 2 > /sys/kernel/mm/hugepages/[\w-]+/nr_hugepages", command)
        assert os.system(command) == 0
        session.dma_alloc(2 * huge, shared=shared, hugetlb=huge).close()


def test_a_size_that_the_machine_does_not_have_names_those_it_has(edu: Device, way: Way) -> None:
    with way.open(edu) as session, pytest.raises(UnsupportedError, match="only of "):
        session.dma_alloc(SIZE, hugetlb=HOST.page_size)


def test_guest_memory_comes_from_a_pool(edu: Device, way: Way, framework: Framework) -> None:
    with pool(PAGES) as huge:
        words = (
            f"memory-backend-memfd,id=ram0,size={huge},hugetlb=on,hugetlbsize={huge},prealloc=on"
        )
        with framework.open(f"-object {words}") as session:
            (mapping,) = session.space.mappings
            assert of_address(mapping.vaddr, "KernelPageSize") == huge
            assert read_pool(HOST, huge).free == PAGES - 1
        assert read_pool(HOST, huge).free == PAGES


@pytest.mark.parametrize("in_a_file", [False, True])
def test_memory_may_be_a_file_in_hugetlbfs(
    tmp_path: Path, in_a_file: bool, huge_pages: None
) -> None:
    with pool(PAGES) as huge:
        assert os.system(f"mount -t hugetlbfs none {tmp_path}") == 0
        try:
            path = tmp_path / "memory" if in_a_file else tmp_path
            with Backing.at_path(HOST, str(path), SIZE, shared=True) as backing:
                assert backing.size == huge
                assert of_address(backing.address, "KernelPageSize") == huge
                assert read_pool(HOST, huge).free == PAGES - 1
            assert read_pool(HOST, huge).free == PAGES - in_a_file
        finally:
            assert os.system(f"umount {tmp_path}") == 0


# -- transparent huge pages ------------------------------------------------------------------------
def test_a_large_buffer_is_of_transparent_huge_pages_before_it_is_mapped(huge_pages: None) -> None:
    huge = HOST.huge_page_size
    assert huge is not None, "the guests' kernels have CONFIG_TRANSPARENT_HUGEPAGE"
    with DmaBuffer(HOST, 2 * huge) as buffer:
        assert of_address(buffer.vaddr, "AnonHugePages") == 2 * huge
    with DmaBuffer(HOST, 2 * huge, populate=False) as buffer:
        assert of_address(buffer.vaddr, "Rss") == 0


def test_a_large_buffer_is_populated_in_parallel(huge_pages: None) -> None:
    huge = HOST.huge_page_size
    assert huge is not None
    with DmaBuffer(HOST, 8 * huge, threads=4) as buffer:
        assert of_address(buffer.vaddr, "Rss") == 8 * huge


def test_the_card_reaches_a_large_buffer(edu: Device, way: Way) -> None:
    huge = HOST.huge_page_size
    assert huge is not None
    with way.open(edu) as session, card_of.running(session["dev0"]) as vector:
        memory = session.dma_alloc(2 * huge, below=card_of.REACH)
        assert (memory.iova % huge, memory.vaddr % huge) == (0, 0)
        memory.write(huge - 4, b"straddle")
        card_of.load(session["dev0"], vector, memory.iova + huge - 4, 8)
        card_of.store(session["dev0"], vector, memory.iova, 8)
        assert memory.read(0, 8) == b"straddle"


# -- addresses that the kernel chooses -------------------------------------------------------------
def test_the_kernel_chooses_an_address_on_iommufd_and_nowhere_else(edu: Device, way: Way) -> None:
    with way.open(edu) as session:
        if way.backend != "iommufd":
            with pytest.raises(UnsupportedError, match="does not choose addresses"):
                session.dma_alloc(SIZE, iova="kernel")
            return
        with card_of.running(session["dev0"]) as vector:
            memory = session.dma_alloc(SIZE, iova="kernel")
            assert session.space.mappings.translate(memory.iova) == memory.vaddr
            if memory.iova + SIZE <= card_of.REACH:
                memory.write(0, b"wherever")
                card_of.load(session["dev0"], vector, memory.iova, 8)
                card_of.store(session["dev0"], vector, memory.iova + 8, 8)
                assert memory.read(8, 8) == b"wherever"
            assert session.dma_alloc(SIZE, iova="kernel").iova != memory.iova
