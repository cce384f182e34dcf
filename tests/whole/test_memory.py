"""Guest memory and BARs as devices see them."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from vfiocore.errors import (
    DmaLimitError,
    DmaMemlockError,
    DmaOverlapError,
    KernelError,
    UnsupportedError,
)
from vfiocore.framework import Framework
from vfiocore.memory import Backing, Ram
from vfiocore.memory.hugepages import read_pool
from vfiocore.region import Area
from vfiocore_sim.host import SimHost

from . import edu
from .cards import CardWithMemory, machine_with_memory
from .machine import EDU, NOTHING, SHARED, Way, left_behind

HUGE = 2 << 20


# -- memory objects --------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["memory-backend-ram", "memory-backend-memfd"])
def test_guest_memory_is_reached_at_its_address(way: Way, kind: str, host: SimHost) -> None:
    data = os.urandom(2048)
    words = f"-object {kind},id=ram0,size=64K,addr=2M"
    with way.open(EDU, first=words) as session, session["edu"].enable() as card:
        edu.store(session, card, 0x20F000, data)
        assert edu.fetch(session, card, 0x20F000, len(data)) == data
        edu.store(session, card, 0x210000, b"past its end")
    assert [fault.iova for fault in host.faults] == [0x210000]


def test_guest_memory_may_be_readonly(way: Way, host: SimHost) -> None:
    words = "-object memory-backend-ram,id=rom0,size=64K,addr=1M,readonly=on"
    with way.open(EDU, first=words) as session, session["edu"].enable() as card:
        edu.store(session, card, 0x100000, b"no")
        assert edu.fetch(session, card, 0x100000, 2) == b"\0\0"
    assert [fault.write for fault in host.faults] == [True]


def test_memory_that_is_added_to_a_running_session_is_reached(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session, Backing.allocate(host, 65536) as backing:
        ram = Ram("hotplugged", 65536, backing=backing)
        with session["edu"].enable() as card:
            session.memory.root.add(ram, 0x300000)
            edu.store(session, card, 0x300000, b"plugged")
            assert edu.fetch(session, card, 0x300000, 7) == b"plugged"
            session.memory.root.remove(ram)
            edu.store(session, card, 0x300000, b"unplugged")
    assert [fault.iova for fault in host.faults] == [0x300000]


def test_a_buffer_keeps_clear_of_guest_memory(way: Way) -> None:
    with way.open(EDU, first="-object memory-backend-ram,id=ram0,size=16M") as session:
        assert session.dma_alloc(4096).iova >= 16 << 20
        with pytest.raises(DmaOverlapError):
            session.dma_alloc(4096, iova=0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["legacy", "iommufd"])
def test_a_buffer_suits_an_iommu_with_large_pages(name: str, shared: bool) -> None:
    large = 1 << 16
    way = Way(name, SimHost(page_size=large))
    with way.open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(100, shared=shared)
        assert (memory.iova % large, memory.vaddr % large, memory.length) == (0, 0, large)
        edu.store(session, card, memory.iova, b"here")
        assert memory.read(0, 4) == b"here"


def test_an_address_that_was_asked_for_is_the_one_devices_use(way: Way) -> None:
    with way.open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(4096, iova=0x700000)
        edu.store(session, card, 0x700000, b"here")
        assert memory.read(0, 4) == b"here"


def test_iommufd_maps_a_memfd_by_file(iommufd: Way, host: SimHost) -> None:
    with iommufd.open(EDU) as session, session["edu"].enable() as card:
        host.forget_calls()
        memory = session.dma_alloc(4096, shared=True)
        assert host.call_names() == ["ioctl IOMMU_IOAS_MAP_FILE"]
        edu.store(session, card, memory.iova, b"by file")
        assert memory.read(0, 7) == b"by file"


# -- BARs ------------------------------------------------------------------------------------------
MEMORY_BAR = 2


def test_a_bar_of_memory_is_mapped_whole(way: Way, host: SimHost) -> None:
    program: Any = host.device(SHARED.name)
    with way.open(SHARED) as session, session["shared"].enable() as card:
        bar = card.bars[MEMORY_BAR]
        assert bar.areas == (Area(0, bar.size),)
        bar.map()
        bar.write32(bar.size - 4, 0x11223344)
        assert program.memory.read(bar.size - 4, 4) == bytes([0x44, 0x33, 0x22, 0x11])


def test_registers_are_never_mapped(way: Way) -> None:
    with way.open(EDU, SHARED) as session:
        for registers in (session["edu"].bars[0], session["shared"].bars[0]):
            assert registers.areas == ()
            with pytest.raises(UnsupportedError, match="no part of this region"):
                registers.map()


@pytest.mark.parametrize("name", ["legacy", "iommufd"])
def test_of_a_bar_that_is_memory_in_part_only_that_part_is_mapped(name: str) -> None:
    host = SimHost(machine_with_memory())
    with Way(name, host).open(EDU) as session, session["edu"].enable() as card:
        bar = card.bars[0]
        assert bar.areas == (Area(CardWithMemory.MEMORY, CardWithMemory.SIZE),)
        bar.map()
        bar.view(CardWithMemory.MEMORY, 6)[:] = b"mapped"
        assert bar.read32(edu.IDENTITY) == 0x010000ED
        bar.unmap()
        assert bar.read(CardWithMemory.MEMORY, 6) == b"mapped"
    assert left_behind(host) == NOTHING


# -- large buffers ---------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["legacy", "iommufd"])
def test_a_buffer_of_huge_pages_is_reached_and_its_pages_go_back(shared: bool, name: str) -> None:
    host = SimHost(hugepages={HUGE: 4})
    with Way(name, host).open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(HUGE + 1, shared=shared, hugetlb=HUGE)
        assert (memory.length, memory.iova % HUGE) == (2 * HUGE, 0)
        edu.store(session, card, memory.iova + HUGE, b"here")
        assert memory.read(HUGE, 1) == b"h"
        assert read_pool(host, HUGE).free == 2
        memory.close()
        assert read_pool(host, HUGE).free == 4


def test_a_pool_that_is_short_leaves_nothing_mapped(way: Way) -> None:
    with way.open(EDU) as session:
        with pytest.raises(KernelError, match="1 wanted, 0 of 0 free") as caught:
            session.dma_alloc(4096, hugetlb=HUGE)
        assert f"hugepages-{HUGE >> 10}kB/nr_hugepages" in (caught.value.hint or "")
        assert list(session.space.mappings) == []


def test_a_large_buffer_is_where_the_iommu_can_use_large_pages(way: Way, host: SimHost) -> None:
    large = host.huge_page_size or host.page_size
    with way.open(EDU) as session:
        session.dma_alloc(host.page_size)
        memory = session.dma_alloc(large)
        assert (memory.iova % large, memory.vaddr % large) == (0, 0)


def test_a_large_buffer_is_anywhere_else_rather_than_nowhere(way: Way, host: SimHost) -> None:
    large = host.huge_page_size or host.page_size
    with way.open(EDU) as session:
        memory = session.dma_alloc(large, below=large + 2 * host.page_size)
        assert memory.iova == host.page_size
        with pytest.raises(DmaLimitError):
            session.dma_alloc(large, below=2 * large)


@pytest.mark.parametrize("name", ["legacy", "iommufd"])
def test_a_kernel_that_cannot_populate_maps_all_the_same(name: str) -> None:
    host = SimHost(without={"MADV_POPULATE_WRITE"})
    with Way(name, host).open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(8192)
        edu.store(session, card, memory.iova, b"here")
        assert memory.read(0, 4) == b"here"


# -- addresses that the kernel chooses -------------------------------------------------------------
@pytest.mark.parametrize("size", [4096, 3 * HUGE])
def test_iommufd_may_choose_an_address_and_the_account_knows_it(size: int, host: SimHost) -> None:
    with Way("iommufd", host).open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(size, iova="kernel")
        assert session.space.mappings.translate(memory.iova) == memory.vaddr
        assert session.space.mappings.find_iova(memory.vaddr) == memory.iova
        assert list(card.container.mappings) == list(session.space.mappings)
        edu.store(session, card, memory.iova, b"here")
        assert memory.read(0, 4) == b"here"
        assert session.dma_alloc(size, iova="kernel").iova != memory.iova
        with pytest.raises(DmaOverlapError):
            session.dma_alloc(size, iova=memory.iova)


def test_type1_maps_only_where_it_is_told(host: SimHost) -> None:
    with Way("legacy", host).open(EDU) as session:
        with pytest.raises(UnsupportedError, match="does not choose addresses") as caught:
            session.dma_alloc(4096, iova="kernel")
        assert "iommufd does" in (caught.value.hint or "")
        assert list(session.space.mappings) == []


def test_without_a_container_nobody_chooses_an_address() -> None:
    session = Framework(host=SimHost()).open("")
    with session, pytest.raises(UnsupportedError, match="no container"):
        session.dma_alloc(4096, iova="kernel")


def test_the_kernel_takes_no_wishes_when_it_chooses(way: Way) -> None:
    with way.open(EDU) as session:
        for wish in ({"align": 1 << 20}, {"below": 1 << 32}):
            with pytest.raises(ValueError, match="no align= and no below="):
                session.dma_alloc(4096, iova="kernel", **wish)


def test_an_address_that_the_kernel_does_not_have_is_refused(host: SimHost) -> None:
    with Way("iommufd", host).open(EDU) as session:
        host.fail("IOMMU_IOAS_MAP", errno.ENOSPC)
        with pytest.raises(DmaLimitError):
            session.dma_alloc(4096, iova="kernel")
        assert list(session.space.mappings) == []
    assert left_behind(host) == NOTHING


def test_what_cannot_be_locked_is_not_filled_before_it_is_refused() -> None:
    host = SimHost(memlock_limit=1 << 20)
    with Way("legacy", host).open(EDU) as session:
        host.fail("madvise", errno.ENOMEM, times=2)
        with pytest.raises(DmaMemlockError, match="1572864 bytes have to be locked"):
            session.dma_alloc(3 << 19)
        with pytest.raises(KernelError, match="mmap failed"):
            session.dma_alloc(1 << 19)
