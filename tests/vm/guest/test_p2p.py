"""Devices reach each other's BARs by DMA, through a real IOMMU."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vfiocore.cli.demo import nvme as controller_of
from vfiocore.cli.demo.nvme import BLOCK, PAGE
from vfiocore.errors import DmaAddressError, UnsupportedError
from vfiocore.session import Session
from vfiocore.uapi import pci_regs as pci

from . import edu as card_of
from .devices import Device
from .way import KERNEL, Way

SHOWN_AT, ALSO_AT = 1 << 24, 1 << 25
"""Where BARs are shown: no IOMMU reserves anything there."""

MEMORY = 2
"""The BAR of ivshmem that is memory."""

LAST_BLOCK = 16 * 2048 - 1
"""Of the controller's disk; nobody else's."""

MAKES_FILES = KERNEL >= (6, 19)
"""The kernel makes files (dma-bufs) of BARs."""

pytestmark = pytest.mark.usefixtures("maps_bars")


@contextmanager
def shown(session: Session, device: Any, number: int, iova: int = SHOWN_AT) -> Iterator[Any]:
    """A BAR that other devices reach."""
    with device.enable():
        bar = device.bars[number]
        bar.map()
        with session.share_region(bar, iova=iova) as peer:
            assert (peer.live, dict(peer.unreachable)) == (True, {})
            yield peer


def stored(session: Session, card: Any, data: bytes, iova: int = SHOWN_AT) -> None:
    """Have an edu card write bytes there."""
    with card_of.running(card) as vector, session.dma_alloc(PAGE, below=card_of.REACH) as memory:
        memory.write(0, data)
        card_of.load(card, vector, memory.iova, len(data))
        card_of.store(card, vector, iova, len(data))


def loaded(session: Session, card: Any, size: int, iova: int = SHOWN_AT) -> bytes:
    """What an edu card reads there."""
    with card_of.running(card) as vector, session.dma_alloc(PAGE, below=card_of.REACH) as memory:
        card_of.load(card, vector, iova, size)
        card_of.store(card, vector, memory.iova, size)
        return memory.read(0, size)


@contextmanager
def disk(session: Session, controller: Any) -> Iterator[Any]:
    """The queue for I/O of an NVMe controller that is up."""
    with controller.enable(), session.dma_alloc(8 * PAGE) as memory:
        vectors = controller.msix.enable(2)
        try:
            admin, io = controller_of.queues(controller.bars[0], memory, vectors)
            controller_of.start(controller.bars[0], admin)
            controller_of.create(admin, io)
            yield io
        finally:
            controller.bars[0].write32(controller_of.CC, 0)
            controller.msix.disable()


def block_to(io: Any, command: int, iova: int) -> None:
    """Move the last block of the disk from or to an address."""
    io.run(command, prp1=iova, nsid=1, dwords=(LAST_BLOCK, 0, 0))


# -- DMA -------------------------------------------------------------------------------------------
def test_a_card_writes_into_the_memory_of_another_and_reads_it(
    edu: Device, ivshmem: Device, way: Way
) -> None:
    data = os.urandom(256)
    with way.open(edu, ivshmem) as session:
        card, other = session["dev0"], session["dev1"]
        assert card.reaches_peers
        with shown(session, other, MEMORY) as peer:
            stored(session, card, data, peer.iova + PAGE)
            assert other.bars[MEMORY].read(PAGE, len(data)) == data
            assert loaded(session, card, len(data), peer.iova + PAGE) == data


def test_a_disk_reads_and_writes_the_memory_of_a_card(
    nvme: Device, ivshmem: Device, way: Way
) -> None:
    data = os.urandom(BLOCK)
    with way.open(nvme, ivshmem) as session:
        bar = session["dev1"].bars[MEMORY]
        with (
            disk(session, session["dev0"]) as io,
            shown(session, session["dev1"], MEMORY) as peer,
        ):
            bar.write(0, data + bytes(BLOCK))
            block_to(io, controller_of.WRITE, peer.iova)
            block_to(io, controller_of.READ, peer.iova + PAGE)
            assert bar.read(PAGE, BLOCK) == data


def test_two_devices_reach_each_others_registers(edu: Device, nvme: Device, way: Way) -> None:
    source = 0x123456789A
    with way.open(edu, nvme) as session:
        card, controller = session["dev0"], session["dev1"]
        with (
            disk(session, controller) as io,
            shown(session, card, 0, SHOWN_AT),
            shown(session, controller, 0, ALSO_AT),
            session.dma_alloc(PAGE) as memory,
        ):
            memory.write(card_of.DMA_SOURCE, source.to_bytes(8, "little"))
            block_to(io, controller_of.WRITE, memory.iova)
            block_to(io, controller_of.READ, SHOWN_AT)
            assert card.bars[0].read64(card_of.DMA_SOURCE) == source
            abilities = loaded(session, card, 8, ALSO_AT)
            assert abilities == controller.bars[0].read64(controller_of.CAP).to_bytes(8, "little")


def test_what_is_no_longer_shown_is_not_reached(edu: Device, ivshmem: Device, way: Way) -> None:
    with way.open(edu, ivshmem) as session:
        card, other = session["dev0"], session["dev1"]
        with shown(session, other, MEMORY):
            assert_reached(session, b"shown!")
        stored(session, card, b"hidden")
        other.memory_decode = True
        assert other.bars[MEMORY].read(0, 6) == bytes(6)


# -- the device with the BAR stops answering -------------------------------------------------------
def assert_reached(session: Session, data: bytes) -> None:
    """What the card writes is in the BAR of the other one, which is empty afterwards."""
    bar = session["dev1"].bars[MEMORY]
    bar.write(0, bytes(len(data)))
    stored(session, session["dev0"], data)
    assert bar.read(0, len(data)) == data
    bar.write(0, bytes(len(data)))


def test_a_bar_is_reached_again_when_memory_decode_was_off(
    edu: Device, ivshmem: Device, way: Way
) -> None:
    with way.open(edu, ivshmem) as session:
        other = session["dev1"]
        with shown(session, other, MEMORY) as peer:
            other.bars[MEMORY].write(0, bytes(6))
            other.memory_decode = False
            assert not peer.live
            stored(session, session["dev0"], b"nobody")
            other.memory_decode = True
            assert peer.live
            assert other.bars[MEMORY].read(0, 6) == bytes(6)
            assert_reached(session, b"again")


@pytest.mark.usefixtures("root_ports")
def test_a_bar_is_reached_again_after_a_reset(edu: Device, ivshmem: Device, way: Way) -> None:
    with way.open(edu, ivshmem) as session, shown(session, session["dev1"], MEMORY) as peer:
        session["dev1"].reset()
        assert peer.live
        assert_reached(session, b"again")


@pytest.mark.usefixtures("root_ports")
def test_a_bar_is_reached_again_after_a_reset_by_a_register(
    edu: Device, nvme: Device, way: Way
) -> None:
    with way.open(edu, nvme) as session, shown(session, session["dev1"], 0):
        controller = session["dev1"]
        assert_answers(session, controller)
        config = controller.config_space
        control = config.find_capability(pci.PCI_CAP_ID_EXP).offset + pci.PCI_EXP_DEVCTL
        config.write16(control, config.read16(control) | pci.PCI_EXP_DEVCTL_BCR_FLR)
        assert_answers(session, controller)


def test_a_bar_is_reached_again_after_d3(edu: Device, nvme: Device, way: Way) -> None:
    with way.open(edu, nvme) as session, shown(session, session["dev1"], 0) as peer:
        controller = session["dev1"]
        config = controller.config_space
        power = config.find_capability(pci.PCI_CAP_ID_PM).offset + pci.PCI_PM_CTRL
        config.write16(power, 3)
        assert not peer.live
        config.write16(power, 0)
        assert peer.live
        assert_answers(session, controller)


def assert_answers(session: Session, controller: Any) -> None:
    """The card reads the controller's version."""
    version = controller.bars[0].read32(VERSION).to_bytes(4, "little")
    assert loaded(session, session["dev0"], 4, SHOWN_AT + VERSION) == version


VERSION = 8


def test_a_bar_leaves_with_its_device(edu: Device, ivshmem: Device, way: Way) -> None:
    with way.open(edu, ivshmem) as session:
        other = session["dev1"]
        other.memory_decode = True
        other.bars[MEMORY].map()
        peer = session.share_region(other.bars[MEMORY], iova=SHOWN_AT)
        session.close_device("dev1")
        assert not peer.live
        with session.dma_alloc(PAGE, iova=SHOWN_AT) as memory:
            stored(session, session["dev0"], b"memory")
            assert memory.read(0, 6) == b"memory"


def test_a_bar_that_does_not_answer_cannot_be_shown(edu: Device, ivshmem: Device, way: Way) -> None:
    with way.open(edu, ivshmem) as session:
        bar = session["dev1"].bars[MEMORY]
        session["dev1"].memory_decode = False
        bar.map()
        with pytest.raises(DmaAddressError):
            session.share_region(bar)
        session["dev1"].memory_decode = True
        session.share_region(bar)


# -- files -----------------------------------------------------------------------------------------
def test_the_memory_of_a_card_can_be_had_as_a_file(ivshmem: Device, way: Way) -> None:
    with way.open(ivshmem) as session:
        card = session["dev0"]
        assert card.exports_dmabufs == MAKES_FILES
        if not MAKES_FILES:
            with pytest.raises(UnsupportedError, match=r"Linux 6\.19"):
                card.bars[MEMORY].export_dmabuf()
            return
        with card.bars[MEMORY].export_dmabuf(PAGE, PAGE) as buffer:
            assert os.readlink(f"/proc/self/fd/{buffer.fd}").startswith("/dmabuf")
            assert not os.get_inheritable(buffer.fd)
            assert os.lseek(buffer.fd, 0, os.SEEK_END) == buffer.size == PAGE


def test_configuration_space_cannot_be_had_as_a_file(ivshmem: Device, way: Way) -> None:
    with way.open(ivshmem) as session, pytest.raises(UnsupportedError) as caught:
        session["dev0"].config_space.region.export_dmabuf()
    assert caught.value.errno == (errno.ENODEV if MAKES_FILES else errno.ENOTTY)
