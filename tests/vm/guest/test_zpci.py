"""PCI functions of s390, reached through its own instructions and behind its own IOMMU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vfiocore import Session
from vfiocore.errors import DeviceAccessError, DmaRangeError, UnsupportedError
from vfiocore.memory.mapping import DmaMapping
from vfiocore.uapi import pci_regs, vfio
from vfiocore.uapi import vfio_zdev as zdev
from vfiocore_pci.device import PciDevice

from . import virtio
from .devices import Device
from .way import Way

VIRTIO, NETWORK = 0x1AF4, 0x1041
NETWORK_CLASS = 0x020000
MAC_OFFERED, CONTROL_QUEUE_OFFERED = 1 << 5, 1 << 17
DISK_SECTORS = (16 << 20) // virtio.SECTOR


@pytest.fixture
def session(zpci: Device, way: Way) -> Iterator[Session]:
    with way.open(zpci) as session:
        yield session


@pytest.fixture
def card(session: Session) -> Iterator[PciDevice]:
    card: PciDevice = session["dev0"]
    with card.enable():
        yield card


# -- configuration space ---------------------------------------------------------------------------
def test_configuration_space_is_little_endian_on_a_big_endian_machine(card: PciDevice) -> None:
    space = card.config_space
    assert (space.vendor_id, space.device_id) == (VIRTIO, NETWORK)
    assert space.class_code == NETWORK_CLASS
    assert space.read(0, 4) == bytes([0xF4, 0x1A, 0x41, 0x10])


def test_capabilities_are_found(card: PciDevice) -> None:
    assert card.config_space.find_capability(pci_regs.PCI_CAP_ID_MSIX) is not None
    assert card.config_space.find_capability(virtio.VENDOR_CAPABILITY) is not None


# -- registers -------------------------------------------------------------------------------------
def test_registers_are_read_through_the_bar(card: PciDevice) -> None:
    common = virtio.Registers(card, virtio.COMMON)
    offered = virtio.features(common)
    assert offered & virtio.VERSION_1
    assert offered & virtio.ACCESS_PLATFORM
    assert offered & MAC_OFFERED
    # One queue each way, and one for control.
    assert common.read16(virtio.NUM_QUEUES) == (3 if offered & CONTROL_QUEUE_OFFERED else 2)


def test_a_register_keeps_what_is_written_until_the_device_is_reset(card: PciDevice) -> None:
    common = virtio.Registers(card, virtio.COMMON)
    virtio.reset(common)
    common.write8(virtio.STATUS, virtio.ACKNOWLEDGE)
    assert common.read8(virtio.STATUS) == virtio.ACKNOWLEDGE
    virtio.reset(common)
    assert common.read8(virtio.STATUS) == 0


def test_a_function_that_the_kernel_cannot_reset_says_so(card: PciDevice) -> None:
    with pytest.raises(DeviceAccessError, match="reset_method"):
        card.reset()


def test_features_are_agreed_on(card: PciDevice) -> None:
    common = virtio.Registers(card, virtio.COMMON)
    virtio.negotiate(common, virtio.VERSION_1 | virtio.ACCESS_PLATFORM)
    virtio.reset(common)


def test_a_bar_is_not_mapped_where_only_instructions_reach_it(card: PciDevice) -> None:
    bar = next(bar for bar in card.bars if bar is not None)
    with pytest.raises(UnsupportedError):
        bar.map()


# -- interrupts ------------------------------------------------------------------------------------
def test_every_msix_vector_can_be_enabled(card: PciDevice) -> None:
    assert card.msix is not None
    vectors = card.msix.enable(card.msix.count)
    assert len(vectors) == card.msix.count
    card.msix.disable()


# -- addresses -------------------------------------------------------------------------------------
def test_addresses_begin_where_the_function_may_reach(session: Session) -> None:
    """Where they end iommufd does not know."""
    device = session["dev0"]
    base = next(
        cap for cap in device.info.capabilities if cap.id == vfio.VFIO_DEVICE_INFO_CAP_ZPCI_BASE
    )
    function = zdev.vfio_device_info_cap_zpci_base.from_buffer_copy(base.data)
    (usable,) = device.container.iova_ranges
    assert usable.start == function.start_dma
    assert usable.covers(function.start_dma, function.end_dma + 1 - function.start_dma)


def test_below_the_first_address_nothing_is_mapped(session: Session) -> None:
    container = session["dev0"].container
    buffer = session.dma_alloc(4096)
    with pytest.raises(DmaRangeError):
        container.dma_map([DmaMapping(0x10000, 4096, buffer.vaddr)])


# -- DMA -------------------------------------------------------------------------------------------
def test_a_disk_writes_and_reads_a_sector(virtio_disks: tuple[Device, Device], way: Way) -> None:
    data = os.urandom(virtio.SECTOR)
    with way.open(virtio_disks[0]) as session, session["dev0"].enable() as card:
        (vector,) = card.msix.enable(1)
        queue, memory = session.dma_alloc(virtio.ROOM), session.dma_alloc(2 * virtio.SECTOR)
        memory.write(0, data)
        disk = virtio.Disk(card, queue, vector.number)
        assert disk.sectors == DISK_SECTORS
        assert disk.write(7, (memory.iova, virtio.SECTOR)) == 0
        assert vector.wait(timeout=virtio.SECONDS) == 1
        assert disk.read(7, (memory.iova + virtio.SECTOR, virtio.SECTOR)) == 0
        assert memory.read(virtio.SECTOR, virtio.SECTOR) == data
        disk.stop()


# It answers again when the kernel has recovered it, a millisecond later: a warning may come or not.
@pytest.mark.filterwarnings("ignore:.* does not answer")
def test_a_disk_in_error_is_closed_and_opened_again(
    virtio_disks: tuple[Device, Device], way: Way
) -> None:
    with way.open(virtio_disks[0]) as session:
        card = session["dev0"]
        card.bus_master = card.memory_decode = True
        card.msix.enable(1)
        queue = session.dma_alloc(virtio.ROOM)
        unmapped = queue.iova + (1 << 24)
        virtio.Disk(card, queue, 0).send(virtio.READ, 0, (unmapped, virtio.SECTOR))
    with way.open(virtio_disks[0]) as session, session["dev0"].enable() as card:
        assert virtio.Disk(card, session.dma_alloc(virtio.ROOM)).sectors == DISK_SECTORS
