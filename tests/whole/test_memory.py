"""Guest memory and BARs as devices see them."""

from __future__ import annotations

import mmap
import os
import warnings

import pytest

from vfiocore.errors import DmaOverlapError, UnsupportedError
from vfiocore.framework import Framework
from vfiocore.log import VfioWarning
from vfiocore.memory import Backing, Ram
from vfiocore_sim.host import SimHost

from . import edu
from .machine import EDU, NOTHING, OTHER_EDU, Way, left_behind


# -- memory objects --------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["memory-backend-ram", "memory-backend-memfd"])
def test_guest_memory_is_reached_at_its_address(way: Way, kind: str, host: SimHost) -> None:
    data = os.urandom(2048)
    words = f"-object {kind},id=ram0,size=64K,addr=2M"
    with way.open(EDU, first=words) as session, session["edu"].enable() as card:
        edu.store(card, 0x20F000, data)
        assert edu.fetch(card, 0x20F000, len(data)) == data
        edu.store(card, 0x210000, b"past its end")
    assert [fault.iova for fault in host.faults] == [0x210000]


def test_guest_memory_may_be_readonly(way: Way, host: SimHost) -> None:
    words = "-object memory-backend-ram,id=rom0,size=64K,addr=1M,readonly=on"
    with way.open(EDU, first=words) as session, session["edu"].enable() as card:
        edu.store(card, 0x100000, b"no")
        assert edu.fetch(card, 0x100000, 2) == b"\0\0"
    assert [fault.write for fault in host.faults] == [True]


def test_memory_that_is_added_to_a_running_session_is_reached(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session, Backing.allocate(host, 65536) as backing:
        ram = Ram("hotplugged", 65536, backing=backing)
        with session["edu"].enable() as card:
            session.memory.root.add(ram, 0x300000)
            edu.store(card, 0x300000, b"plugged")
            assert edu.fetch(card, 0x300000, 7) == b"plugged"
            session.memory.root.remove(ram)
            edu.store(card, 0x300000, b"unplugged")
    assert [fault.iova for fault in host.faults] == [0x300000]


def test_a_buffer_keeps_clear_of_guest_memory(way: Way) -> None:
    with way.open(EDU, first="-object memory-backend-ram,id=ram0,size=16M") as session:
        assert session.dma_alloc(4096).iova >= 16 << 20
        with pytest.raises(DmaOverlapError):
            session.dma_alloc(4096, iova=0)


def test_an_address_that_was_asked_for_is_the_one_devices_use(way: Way) -> None:
    with way.open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(4096, iova=0x700000)
        edu.store(card, 0x700000, b"here")
        assert memory.read(0, 4) == b"here"


def test_iommufd_maps_a_memfd_by_file(iommufd: Way, host: SimHost) -> None:
    with iommufd.open(EDU) as session, session["edu"].enable() as card:
        host.forget_calls()
        memory = session.dma_alloc(4096, shared=True)
        assert host.call_names() == ["ioctl IOMMU_IOAS_MAP_FILE"]
        edu.store(card, memory.iova, b"by file")
        assert memory.read(0, 7) == b"by file"


# -- peer to peer ----------------------------------------------------------------------------------
whole_pages = pytest.mark.skipif(
    edu.BUFFER_SIZE % mmap.PAGESIZE != 0,
    reason="the card's buffer is no whole page of this machine, so that nothing of it can be mapped",
)


@whole_pages
def test_a_card_writes_into_the_bar_of_another(legacy: Way, host: SimHost) -> None:
    data = os.urandom(256)
    with legacy.open(EDU, OTHER_EDU) as session:
        giver, taker = session["edu"], session["other"]
        assert giver.reaches_peers
        with giver.enable(), taker.enable():
            taker.bars[0].map()
            with session.share_region(taker.bars[0]) as peer:
                assert peer.unreachable == ()
                edu.store(giver, peer.iova + edu.BUFFER, data)
                assert taker.bars[0].read(edu.BUFFER, len(data)) == data
            edu.store(giver, peer.iova + edu.BUFFER, b"over")
    assert [fault.iova for fault in host.faults] == [peer.iova + edu.BUFFER]


@whole_pages
def test_a_bar_leaves_the_address_space_before_it_is_unmapped(legacy: Way, host: SimHost) -> None:
    with legacy.open(EDU, OTHER_EDU) as session:
        taker = session["other"]
        taker.memory_decode = True
        taker.bars[0].map()
        session.share_region(taker.bars[0])
        host.forget_calls()
        session.close_device("other")
    names = host.call_names()
    unmap, munmap = (
        names.index("ioctl VFIO_IOMMU_UNMAP_DMA"),
        names.index(f"munmap device {OTHER_EDU.name}"),
    )
    assert unmap < munmap < names.index(f"close device {OTHER_EDU.name}")


@whole_pages
def test_that_a_bar_cannot_be_shown_is_a_fact_told_once(iommufd: Way) -> None:
    with iommufd.open(EDU, OTHER_EDU) as session:
        taker = session["other"]
        assert not taker.reaches_peers
        taker.memory_decode = True
        taker.bars[0].map()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            peer = session.share_region(taker.bars[0])
        assert peer.unreachable == (taker.container.label,)
        assert [warning.category for warning in caught] == [VfioWarning]
        assert "p2p DMA is unsupported" in str(caught[0].message)


@whole_pages
def test_a_bar_is_shown_by_the_containers_that_can(host: SimHost) -> None:
    words = (
        "-object iommufd,id=iommufd0"
        f" -device vfio-pci,id=edu,host={EDU.name}"
        f" -device vfio-pci,id=other,host={OTHER_EDU.name},iommufd=iommufd0"
    )
    with Framework(host=host).open(words) as session:
        giver, taker = session["edu"], session["other"]
        with giver.enable(), taker.enable():
            taker.bars[0].map()
            with pytest.warns(VfioWarning):
                peer = session.share_region(taker.bars[0])
            edu.store(giver, peer.iova + edu.BUFFER, b"one way")
            assert taker.bars[0].read(edu.BUFFER, 7) == b"one way"
    assert left_behind(host) == NOTHING


def test_only_a_mapped_bar_can_be_shared(way: Way) -> None:
    with way.open(EDU) as session, pytest.raises(UnsupportedError, match="not mapped"):
        session.share_region(session["edu"].bars[0])
