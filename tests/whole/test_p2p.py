"""Devices reach each other's BARs: by their addresses on type1, as dma-bufs on iommufd."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vfiocore.errors import (
    ClosedError,
    DeviceAccessError,
    DmaAddressError,
    DmaError,
    DmaOverlapError,
    UnsupportedError,
)
from vfiocore.framework import Framework
from vfiocore.log import VfioWarning
from vfiocore.peer import PeerMapping
from vfiocore.session import Session
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import vfio
from vfiocore_sim.devices import EduDevice, IvshmemDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology
from vfiocore_sim.vfio.pci import Bar
from vfiocore_sim.vfio.pci import PciDevice as PciProgram

from . import edu
from .machine import CCW, EDU, NOTHING, SHARED, Way, left_behind

BAR = 2
PAGE = 4096
AT = 0x400000
SIZE = 1 << 20
OLD = frozenset({"VFIO_DEVICE_FEATURE_DMA_BUF"})


@contextmanager
def both(way: Way) -> Iterator[tuple[Session, Any, Any]]:
    """A session with a card that does DMA and one whose memory is mapped, both enabled."""
    with way.open(EDU, SHARED) as session:
        card, shared = session["edu"], session["shared"]
        with card.enable(), shared.enable():
            shared.bars[BAR].map()
            yield session, card, shared


def reached(host: SimHost, iova: int = AT) -> bool:
    """Whether the card's IOMMU lets anything through there."""
    return any(found.iova <= iova < found.iova + found.size for found in host.page_table(EDU.name))


# -- DMA -------------------------------------------------------------------------------------------
def test_a_card_writes_into_the_bar_of_another(way: Way, host: SimHost) -> None:
    data = os.urandom(256)
    with both(way) as (session, card, shared):
        assert card.reaches_peers
        bar = shared.bars[BAR]
        with session.share_region(bar) as peer:
            assert (dict(peer.unreachable), peer.live) == ({}, True)
            edu.store(session, card, peer.iova + 0x8000, data)
            assert bar.read(0x8000, len(data)) == data
        assert not peer.live
        edu.store(session, card, peer.iova + 0x8000, b"over")
        assert bar.read(0x8000, len(data)) == data
    assert [fault.iova for fault in host.faults] == [peer.iova + 0x8000]


def test_a_card_reads_from_the_bar_of_another(way: Way, host: SimHost) -> None:
    data = os.urandom(256)
    with both(way) as (session, card, shared):
        shared.bars[BAR].view(0x8000, len(data))[:] = data
        with session.share_region(shared.bars[BAR]) as peer:
            assert edu.fetch(session, card, peer.iova + 0x8000, len(data)) == data
    assert host.faults == []


def test_each_container_shows_it_and_one_that_comes_late_does_so_too(
    way: Way, host: SimHost
) -> None:
    with both(way) as (session, _card, shared):
        session.share_region(shared.bars[BAR], iova=AT)
        assert reached(host)
        session.close_device("edu")
        assert not reached(host)


def test_containers_of_both_backends_show_it(host: SimHost) -> None:
    words = (
        "-object iommufd,id=iommufd0"
        f" -device vfio-pci,id=edu,host={EDU.name}"
        f" -device vfio-pci,id=shared,host={SHARED.name},iommufd=iommufd0"
    )
    with Framework(host=host).open(words) as session:
        card, shared = session["edu"], session["shared"]
        with card.enable(), shared.enable():
            shared.bars[BAR].map()
            peer = session.share_region(shared.bars[BAR])
            assert dict(peer.unreachable) == {}
            edu.store(session, card, peer.iova, b"both ways")
            assert shared.bars[BAR].read(0, 9) == b"both ways"
            assert len(host.page_table(SHARED.name)) == 1
    assert left_behind(host) == NOTHING


def test_a_bar_leaves_the_address_space_before_it_is_unmapped(way: Way, host: SimHost) -> None:
    unmap = "VFIO_IOMMU_UNMAP_DMA" if way.name == "legacy" else "IOMMU_IOAS_UNMAP"
    with both(way) as (session, _card, shared):
        session.share_region(shared.bars[BAR])
        host.forget_calls()
        shared.release()
    names = host.call_names()
    munmap = names.index(f"munmap device {SHARED.name}")
    assert names.index(f"ioctl {unmap}") < names.index(f"close dma-buf of {SHARED.name}") < munmap


def test_only_a_mapped_bar_can_be_shared(way: Way) -> None:
    with way.open(SHARED) as session, pytest.raises(UnsupportedError, match="not mapped"):
        session.share_region(session["shared"].bars[BAR])


def test_memory_is_not_mapped_where_a_bar_is(way: Way) -> None:
    with both(way) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        shared.memory_decode = False
        with pytest.raises(DmaOverlapError):
            session.dma_alloc(PAGE, iova=AT)
        peer.close()
        session.dma_alloc(PAGE, iova=AT)


# -- the device stops answering --------------------------------------------------------------------
def test_nobody_reaches_a_bar_on_iommufd_while_memory_decode_is_off(
    iommufd: Way, host: SimHost
) -> None:
    with both(iommufd) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        shared.memory_decode = False
        assert (peer.live, reached(host)) == (False, False)
        shared.memory_decode = True
        assert (peer.live, reached(host)) == (True, True)


def test_memory_decode_does_not_touch_what_type1_has_mapped(legacy: Way, host: SimHost) -> None:
    with both(legacy) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        host.forget_calls()
        shared.memory_decode = False
        assert not peer.live
        shared.memory_decode = True
        assert peer.live
        assert host.call_names() == []


def test_what_was_mapped_again_is_reached(way: Way) -> None:
    with both(way) as (session, card, shared):
        session.share_region(shared.bars[BAR], iova=AT)
        shared.memory_decode = False
        shared.memory_decode = True
        shared.reset()
        edu.store(session, card, AT, b"as before")
        assert shared.bars[BAR].read(0, 9) == b"as before"


def test_a_container_that_comes_while_the_device_does_not_answer_shows_it_later(
    host: SimHost,
) -> None:
    words = "-object iommufd,id=iommufd0 -object iommufd,id=iommufd1"
    devices = {"shared": (SHARED, "iommufd0"), "edu": (EDU, "iommufd1")}
    for id_, (device, name) in devices.items():
        words += f" -device vfio-pci,id={id_},host={device.name},iommufd={name}"
    with Framework(host=host).open(words) as session:
        shared, space = session["shared"], session.space
        with shared.enable():
            shared.bars[BAR].map()
            session.share_region(shared.bars[BAR], iova=AT)
            late = session["edu"].container
            space.remove(late)
            shared.memory_decode = False
            space.add(late)
            assert not reached(host)
            shared.memory_decode = True
            assert reached(host)


def test_a_container_that_refuses_it_leaves_it_unreached(iommufd: Way, host: SimHost) -> None:
    with both(iommufd) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        shared.memory_decode = False
        host.fail("IOMMU_IOAS_MAP_FILE", errno.ENOMEM)
        with pytest.raises(DmaError):
            shared.memory_decode = True
        assert (peer.live, reached(host)) == (False, False)
        peer.resume()
        assert (peer.live, reached(host)) == (True, True)


class TwoParts(IvshmemDevice):
    """A card of whose memory two parts can be mapped, and what is between them not."""

    def __init__(self) -> None:
        super().__init__()
        parts = ((0, PAGE), (4 * PAGE, PAGE))
        self.bars = (Bar(index=BAR, size=SIZE, wide=True, prefetchable=True, ram=parts),)
        PciProgram.__init__(self)


def test_a_bar_of_which_one_part_is_refused_is_not_reached_at_all() -> None:
    machine = Topology().pci(EDU.name, EduDevice, group=1).pci(SHARED.name, TwoParts, group=2)
    host = SimHost(machine)
    with both(Way("iommufd", host)) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        assert reached(host)
        assert reached(host, AT + 4 * PAGE)
        assert not reached(host, AT + PAGE)
        shared.memory_decode = False
        host.fail("IOMMU_IOAS_MAP_FILE", errno.ENOMEM, after=1)
        with pytest.raises(DmaError):
            shared.memory_decode = True
        assert (peer.live, host.page_table(EDU.name)) == (False, ())


def test_what_the_library_does_not_see_is_made_good_by_hand(iommufd: Way, host: SimHost) -> None:
    entry = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
    with both(iommufd) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        shared.access.feature(entry, vfio.VFIO_DEVICE_FEATURE_SET)
        assert not reached(host)
        with pytest.raises(DmaAddressError) as caught:
            peer.refresh()
        assert caught.value.errno == errno.ENODEV
        assert "memory decode" in (caught.value.hint or "")
        assert not peer.live
        shared.access.feature(vfio.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, vfio.VFIO_DEVICE_FEATURE_SET)
        peer.refresh()
        assert (peer.live, reached(host)) == (True, True)


def test_a_bar_that_does_not_answer_cannot_be_shown(iommufd: Way) -> None:
    with both(iommufd) as (session, _card, shared):
        shared.memory_decode = False
        with pytest.raises(DmaAddressError, match="took its memory back"):
            session.share_region(shared.bars[BAR])


class Express(IvshmemDevice):
    """The card with all that takes memory away: D3, and a reset by a bit."""

    power_management = True
    express = True
    reset_methods: tuple[str, ...] = ("flr", "pm")


@pytest.fixture
def express() -> SimHost:
    return SimHost(Topology().pci(EDU.name, EduDevice, group=1).pci(SHARED.name, Express, group=2))


def test_a_bar_is_gone_in_d3_and_back_in_d0(express: SimHost) -> None:
    with both(Way("iommufd", express)) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        config = shared.config_space
        power = config.find_capability(pci.PCI_CAP_ID_PM).offset + pci.PCI_PM_CTRL
        config.write16(power, 3)
        assert (peer.live, reached(express)) == (False, False)
        config.write16(power, 0)
        assert (peer.live, reached(express)) == (True, True)


def test_a_reset_by_a_register_is_followed(express: SimHost) -> None:
    with both(Way("iommufd", express)) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        config = shared.config_space
        control = config.find_capability(pci.PCI_CAP_ID_EXP).offset + pci.PCI_EXP_DEVCTL
        express.forget_calls()
        config.write16(control, config.read16(control))
        assert express.call_names() == []
        config.write16(control, pci.PCI_EXP_DEVCTL_BCR_FLR)
        assert (peer.live, reached(express)) == (True, True)


def test_a_reset_that_is_refused_takes_it_away_all_the_same(express: SimHost) -> None:
    with both(Way("iommufd", express)) as (session, _card, shared):
        peer = session.share_region(shared.bars[BAR], iova=AT)
        express.forget_calls()
        express.fail("VFIO_DEVICE_RESET", errno.EAGAIN)
        with pytest.raises(DeviceAccessError):
            shared.reset()
        assert peer.live
        names = ["ioctl IOMMU_IOAS_UNMAP", "ioctl IOMMU_IOAS_MAP_FILE"]
        assert express.call_names()[1:] == names


# -- where nobody can ------------------------------------------------------------------------------
def unavailable(session: Session) -> tuple[PeerMapping, str]:
    """A mapping that reaches nobody, and what was said."""
    shared = session["shared"]
    with shared.enable(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shared.bars[BAR].map()
        peer = session.share_region(shared.bars[BAR])
    (warning,) = caught
    assert warning.category is VfioWarning
    return peer, str(warning.message)


@pytest.mark.parametrize("without", ["VFIO_DEVICE_FEATURE_DMA_BUF", "IOMMU_IOAS_MAP_FILE"])
def test_that_a_kernel_is_too_old_for_iommufd_is_a_fact_told_once(without: str) -> None:
    host = SimHost(without={without})
    with Way("iommufd", host).open(EDU, SHARED) as session:
        label = session["edu"].container.label
        assert not session["edu"].reaches_peers
        peer, text = unavailable(session)
        assert list(peer.unreachable) == [label]
        assert f"PCI p2p DMA is unsupported in {label}: " in text
        assert peer.unreachable[label] in text
        if without in OLD:
            assert "Linux 6.19" in text
    assert left_behind(host) == NOTHING


def test_an_old_kernel_maps_it_for_type1() -> None:
    host = SimHost(without=OLD)
    with both(Way("legacy", host)) as (session, card, shared):
        assert card.reaches_peers
        assert not card.exports_dmabufs
        peer = session.share_region(shared.bars[BAR])
        edu.store(session, card, peer.iova, b"as ever")
        assert shared.bars[BAR].read(0, 7) == b"as ever"


def test_without_an_iommu_nobody_is_shown_anything() -> None:
    machine = (
        Topology()
        .pci(EDU.name, EduDevice, group=1, noiommu=True)
        .pci(SHARED.name, Express, group=2, noiommu=True)
    )
    host = SimHost(machine)
    words = (
        f"-device vfio-pci,id=edu,host={EDU.name},noiommu=on"
        f" -device vfio-pci,id=shared,host={SHARED.name},noiommu=on"
    )
    with pytest.warns(VfioWarning, match="no IOMMU"):
        opened = Framework(host=host).open(words)
    with opened as session:
        assert not session["edu"].reaches_peers
        peer, text = unavailable(session)
        assert list(peer.unreachable) == [session["edu"].container.label]
        assert "there is no IOMMU" in text


def test_a_mediated_device_reaches_memory_only(way: Way) -> None:
    with way.open(CCW) as session:
        assert not session["ccw"].reaches_peers


# -- files -----------------------------------------------------------------------------------------
def test_a_part_of_a_bar_can_be_had_as_a_file(way: Way, host: SimHost) -> None:
    with both(way) as (_session, _card, shared):
        assert shared.exports_dmabufs
        bar = shared.bars[BAR]
        bar.unmap()
        with bar.export_dmabuf(PAGE, 2 * PAGE) as buffer:
            assert buffer.size == 2 * PAGE
            assert buffer.fileno() == buffer.fd
            assert not os.get_inheritable(buffer.fd)
            assert f"dma-buf of {SHARED.name}" in host.open_files()
        buffer.close()
        assert f"dma-buf of {SHARED.name}" not in host.open_files()
        with bar.export_dmabuf() as buffer:
            assert buffer.size == SIZE


@pytest.mark.parametrize(
    ("offset", "size"), [(PAGE // 2, PAGE), (0, PAGE // 2), (0, 0), (SIZE, PAGE), (PAGE, SIZE)]
)
def test_a_file_has_whole_pages_of_the_bar(iommufd: Way, offset: int, size: int) -> None:
    with iommufd.open(SHARED) as session, pytest.raises(DeviceAccessError) as caught:
        session["shared"].bars[BAR].export_dmabuf(offset, size)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOTTY, UnsupportedError, "Linux 6.19"),
        (errno.EOPNOTSUPP, UnsupportedError, "vfio-pci itself would"),
        (errno.ENODEV, UnsupportedError, "BARs 0 to 5"),
        (errno.EINVAL, DeviceAccessError, "whole pages"),
    ],
)
def test_what_to_do_where_there_is_no_file(
    iommufd: Way, host: SimHost, number: int, kind: type[Exception], hint: str
) -> None:
    with iommufd.open(SHARED) as session:
        bar = session["shared"].bars[BAR]
        host.fail("VFIO_DEVICE_FEATURE", number)
        with pytest.raises(kind, match="VFIO_DEVICE_FEATURE_DMA_BUF") as caught:
            bar.export_dmabuf()
    found: Any = caught.value
    assert (found.errno, found.subject) == (number, bar.name)
    assert hint in found.hint


def test_an_export_that_fails_for_another_reason_is_an_error_of_sharing(
    iommufd: Way, host: SimHost
) -> None:
    with both(iommufd) as (session, _card, shared):
        host.fail("VFIO_DEVICE_FEATURE", errno.EMFILE)
        with pytest.raises(OSError, match="VFIO_DEVICE_FEATURE_DMA_BUF") as caught:
            session.share_region(shared.bars[BAR])
        assert caught.value.errno == errno.EMFILE


def test_there_is_no_file_of_a_closed_device(iommufd: Way) -> None:
    with iommufd.open(SHARED) as session:
        bar = session["shared"].bars[BAR]
    with pytest.raises(ClosedError):
        bar.export_dmabuf()


def test_a_file_that_does_not_close_says_so_once(iommufd: Way, host: SimHost) -> None:
    with iommufd.open(SHARED) as session:
        buffer = session["shared"].bars[BAR].export_dmabuf()
        host.fail(f"close dma-buf of {SHARED.name}", errno.EIO)
        with pytest.raises(OSError, match="dma-buf of"):
            buffer.close()
        buffer.close()
