"""QEMU's edu card moves data by DMA through a real IOMMU, and interrupts."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from vfiocore.container import Capability
from vfiocore.errors import AccessDeniedError, DeviceAccessError
from vfiocore.memory.backing import Backing
from vfiocore.memory.mapping import Access
from vfiocore.memory.region import Ram
from vfiocore.session import Session
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import vfio

from . import edu as card_of
from .binding import setting
from .devices import Device
from .kernel_log import kernel_log
from .way import CAPABILITIES, Way

SIZE = 1024
INTERRUPTS = 200
SHOWN_AT = 1 << 24
"""Where the tests show memory to the card: no IOMMU reserves anything there."""

FAULTS = {
    "intel-iommu": r"DMAR: .*Request device \[({domain}:)?{short}\] fault addr {address:#x}",
    "SMMUv3": r"arm-smmu-v3 .*event: F_TRANSLATION client: {name} .* iova: {address:#x}",
    "virtio-iommu": r"virtio_iommu .*page fault from EP {number} at {address:#x}",
    "amd-iommu": r"(AMD-Vi|{name}).*IO_PAGE_FAULT .*address={address:#x}",
}
"""How the kernel tells of a transfer that the IOMMU refused."""


def fault_of(card: Device, address: int) -> str:
    """The line for a refused transfer of a card."""
    domain, bus, slot, function = re.split("[:.]", card.name)
    return "|".join(FAULTS.values()).format(
        name=card.name,
        domain=domain,
        short=f"{bus}:{slot}.{function}",
        number=int(bus, 16) << 8 | int(slot, 16) << 3 | int(function, 16),
        address=address,
    )


@contextmanager
def shown(session: Session, size: int = mmap.PAGESIZE) -> Iterator[mmap.mmap]:
    """Memory that stays with this process when it is taken away from the card."""
    memory = mmap.mmap(-1, size)
    with Backing.of(memory) as backing:
        ram = Ram("ram", size, backing=backing)
        session.memory.root.add(ram, SHOWN_AT)
        try:
            yield memory
        finally:
            if ram in session.memory.root.children:
                session.memory.root.remove(ram)


def take_away(session: Session) -> None:
    """Undo what `shown` did, and keep the memory."""
    (ram,) = session.memory.root.children
    session.memory.root.remove(ram)


# -- DMA -------------------------------------------------------------------------------------------
def test_a_card_reads_and_writes_memory_by_dma_and_interrupts_by_msi(edu: Device, way: Way) -> None:
    data = os.urandom(SIZE)
    with way.open(edu) as session, card_of.running(session["dev0"]) as vector:
        card = session["dev0"]
        memory = session.dma_alloc(3 * SIZE, below=card_of.REACH)
        memory.write(0, data)
        there = card_of.load(card, vector, memory.iova, SIZE)
        back = card_of.store(card, vector, memory.iova + SIZE, SIZE)
        assert (there, back) == (1, 1)
        assert memory.read(0, 3 * SIZE) == data + data + bytes(SIZE)


def test_memory_that_was_taken_away_is_not_written_and_the_card_goes_on(
    edu: Device, way: Way
) -> None:
    with (
        way.open(edu) as session,
        card_of.running(session["dev0"]) as vector,
        session.dma_alloc(2 * SIZE, below=card_of.REACH) as safe,
        shown(session) as memory,
    ):
        card = session["dev0"]
        safe.write(0, b"precious")
        card_of.load(card, vector, safe.iova, 8)
        card_of.store(card, vector, SHOWN_AT, 8)
        assert memory[:8] == b"precious"
        memory[:8] = bytes(8)
        take_away(session)
        assert card_of.store(card, vector, SHOWN_AT, 8) == 1
        assert memory[:8] == bytes(8)
        assert card_of.store(card, vector, safe.iova + SIZE, 8) == 1
        assert safe.read(SIZE, 8) == b"precious"


def test_memory_that_was_taken_away_is_not_read(edu: Device, way: Way) -> None:
    with (
        way.open(edu) as session,
        card_of.running(session["dev0"]) as vector,
        session.dma_alloc(SIZE, below=card_of.REACH) as safe,
        shown(session) as memory,
    ):
        card = session["dev0"]
        memory[:8] = b"a secret"
        take_away(session)
        assert card_of.load(card, vector, SHOWN_AT, 8) == 1
        card_of.store(card, vector, safe.iova, 8)
        assert safe.read(0, 8) != b"a secret"


@pytest.mark.usefixtures("fault_reports")
def test_the_kernel_tells_of_a_transfer_that_the_iommu_refused(edu: Device, way: Way) -> None:
    with (
        way.open(edu) as session,
        card_of.running(session["dev0"]) as vector,
        kernel_log() as log,
    ):
        deadline = time.monotonic() + card_of.SECONDS
        card_of.store(session["dev0"], vector, SHOWN_AT, 8)
        # Drivers are silent for a while after some faults in a row (lib/ratelimit.c).
        while not log.says(fault_of(edu, SHOWN_AT), seconds=1):
            assert time.monotonic() < deadline, f"no fault at {SHOWN_AT:#x}, but: {log.lines}"
            card_of.store(session["dev0"], vector, SHOWN_AT, 8)


def test_a_card_does_not_write_to_memory_that_it_may_only_read(edu: Device, way: Way) -> None:
    with way.open(edu) as session, card_of.running(session["dev0"]) as vector:
        card = session["dev0"]
        source = session.dma_alloc(SIZE, below=card_of.REACH, access=Access.READ)
        target = session.dma_alloc(SIZE, below=card_of.REACH)
        source.write(0, b"readable")
        card_of.load(card, vector, source.iova, 8)
        card_of.store(card, vector, source.iova + 8, 8)
        assert source.read(8, 8) == bytes(8)
        card_of.store(card, vector, target.iova, 8)
        assert target.read(0, 8) == b"readable"


def test_memory_in_a_file_is_the_same_for_the_card_and_for_whoever_has_the_file(
    edu: Device, way: Way
) -> None:
    with way.open(edu) as session, card_of.running(session["dev0"]) as vector:
        memory = session.dma_alloc(2 * SIZE, below=card_of.REACH, shared=True)
        assert memory.fd is not None
        os.pwrite(memory.fd, b"from a file", memory.fd_offset)
        card_of.load(session["dev0"], vector, memory.iova, 11)
        card_of.store(session["dev0"], vector, memory.iova + SIZE, 11)
        assert os.pread(memory.fd, 11, memory.fd_offset + SIZE) == b"from a file"


def test_the_addresses_that_the_container_offers_have_holes_where_interrupts_go(
    edu: Device, way: Way
) -> None:
    with way.open(edu) as session:
        offered = session["dev0"].container.iova_ranges
        reserved = (edu.path / "iommu_group/reserved_regions").read_text("ascii").split("\n")
        holes = [line.split()[:2] for line in reserved if line.endswith("msi")]
        assert holes
        for first, last in holes:
            middle = (int(first, 16) + int(last, 16)) // 2
            assert not any(usable.covers(middle, 1) for usable in offered)


# -- ways ------------------------------------------------------------------------------------------
def test_each_way_leads_to_the_interface_that_it_is_named_for(edu: Device, way: Way) -> None:
    with way.open(edu) as session:
        container = session["dev0"].container
        assert container.backend == way.backend
        if way.backend == "legacy":
            version = vfio.VFIO_TYPE1_IOMMU if way.name == "type1" else vfio.VFIO_TYPE1v2_IOMMU
            assert (container.iommu, container.emulated) == (version, way.name == "compat")


def test_each_way_can_do_what_it_is_known_for(edu: Device, way: Way) -> None:
    with way.open(edu) as session:
        container = session["dev0"].container
        found = container.capabilities
        if way.name == "iommufd":
            found &= ~Capability.DIRTY_TRACKING  # as the IOMMU has it
        assert found == CAPABILITIES[way.name]
        assert (container.max_mappings is None) == (way.name in ("compat", "iommufd"))


# -- groups and containers -------------------------------------------------------------------------
def test_two_functions_of_one_group_share_a_container(
    twins: tuple[Device, Device], way: Way
) -> None:
    assert_shared(way, *twins)


def test_cards_of_two_groups_share_a_container(
    edu: Device, twins: tuple[Device, Device], way: Way
) -> None:
    assert_shared(way, edu, twins[0])


def assert_shared(way: Way, *devices: Device) -> None:
    """What one card has written the next one reads."""
    data = os.urandom(SIZE)
    with way.open(*devices) as session:
        cards = list(session)
        assert len({id(card.container) for card in cards}) == 1
        memory = session.dma_alloc((len(cards) + 1) * SIZE, below=card_of.REACH)
        memory.write(0, data)
        for number, card in enumerate(cards):
            with card_of.running(card) as vector:
                card_of.load(card, vector, memory.iova + number * SIZE, SIZE)
                card_of.store(card, vector, memory.iova + (number + 1) * SIZE, SIZE)
        assert memory.read(len(cards) * SIZE, SIZE) == data


def test_one_function_goes_on_when_its_twin_is_closed(
    twins: tuple[Device, Device], way: Way
) -> None:
    with way.open(*twins) as session:
        memory = session.dma_alloc(2 * SIZE, below=card_of.REACH)
        memory.write(0, b"on and on")
        session.close_device("dev0")
        with card_of.running(session["dev1"]) as vector:
            card_of.load(session["dev1"], vector, memory.iova, 9)
            card_of.store(session["dev1"], vector, memory.iova + SIZE, 9)
        assert memory.read(SIZE, 9) == b"on and on"


def test_a_card_can_be_opened_again_and_again(edu: Device, way: Way) -> None:
    for _ in range(3):
        with way.open(edu) as session, session["dev0"].enable() as card:
            assert card.bars[0].read32(card_of.IDENTITY) == 0x010000ED


@pytest.mark.usefixtures("unisolated_interrupts")
def test_a_machine_that_does_not_isolate_interrupts_is_refused_unless_that_is_accepted(
    edu: Device, way: Way
) -> None:
    with ExitStack() as stack:
        for path in UNSAFE_INTERRUPTS:
            stack.enter_context(setting(path, "N"))
        with pytest.raises(AccessDeniedError) as caught:
            way.open(edu)
    assert caught.value.errno == errno.EPERM
    assert "allow_unsafe_interrupts=1" in (caught.value.hint or "")
    with way.open(edu):
        pass


UNSAFE_INTERRUPTS = [
    f"/sys/module/{module}/parameters/allow_unsafe_interrupts"
    for module in ("vfio_iommu_type1", "iommufd")
]


# -- interrupts ------------------------------------------------------------------------------------
def test_every_one_of_many_interrupts_is_counted(edu: Device, way: Way) -> None:
    with way.open(edu) as session, card_of.running(session["dev0"]) as vector:
        bar = session["dev0"].bars[0]
        counts = []
        for _ in range(INTERRUPTS):
            bar.write32(card_of.IRQ_RAISE, 1)
            counts.append(vector.wait(timeout=card_of.SECONDS))
            bar.write32(card_of.IRQ_ACK, 1)
        assert counts == [1] * INTERRUPTS
        assert not vector.take()


def test_no_interrupt_comes_after_msi_was_disabled(edu: Device, way: Way) -> None:
    with way.open(edu) as session, session["dev0"].enable() as card:
        (vector,) = card.msi.enable(1)
        observer = os.dup(vector.fileno())
        try:
            card.msi.disable()
            os.read(observer, 8)  # what told waiters that it is disabled
            card.bars[0].write32(card_of.IRQ_RAISE, 1)
            assert card.bars[0].read32(card_of.IRQ_STATUS) == 1
            with pytest.raises(BlockingIOError):
                os.read(observer, 8)
        finally:
            card.bars[0].write32(card_of.IRQ_ACK, 1)
            os.close(observer)


def test_intx_is_masked_by_each_interrupt_until_it_is_served_and_unmasked(
    edu: Device, way: Way
) -> None:
    with way.open(edu) as session, session["dev0"].enable() as card:
        bar = card.bars[0]
        (line,) = card.intx.enable()
        assert card.intx.automasked
        for _ in range(3):
            bar.write32(card_of.IRQ_RAISE, 1)
            assert line.wait(timeout=card_of.SECONDS) == 1
            bar.write32(card_of.IRQ_ACK, 1)
            card.intx.unmask()
        assert not line.take()


def test_intx_comes_again_if_it_is_unmasked_without_being_served(edu: Device, way: Way) -> None:
    with way.open(edu) as session, session["dev0"].enable() as card:
        bar = card.bars[0]
        (line,) = card.intx.enable()
        bar.write32(card_of.IRQ_RAISE, 1)
        line.wait(timeout=card_of.SECONDS)
        card.intx.unmask()
        assert line.wait(timeout=card_of.SECONDS) == 1
        bar.write32(card_of.IRQ_ACK, 1)
        card.intx.unmask()


def test_intx_and_msi_exclude_each_other(edu: Device, way: Way) -> None:
    with way.open(edu) as session:
        card = session["dev0"]
        card.msi.enable(1)
        with pytest.raises(DeviceAccessError, match="only one of INTx, MSI and MSI-X"):
            card.intx.enable()
        card.msi.disable()
        card.intx.enable()


# -- registers and configuration space -------------------------------------------------------------
def test_registers_answer_through_the_file_and_through_a_mapping(edu: Device, way: Way) -> None:
    with way.open(edu) as session, session["dev0"].enable() as card:
        bar = card.bars[0]
        for mapped in (False, True):
            if mapped:
                bar.map()
            assert bar.read32(card_of.IDENTITY) == 0x010000ED
            bar.write32(card_of.LIVENESS, 0x12345678)
            assert bar.read32(card_of.LIVENESS) == 0x12345678 ^ 0xFFFFFFFF
            bar.write32(card_of.FACTORIAL, 5)
            wait_until_computed(bar)
            assert bar.read32(card_of.FACTORIAL) == 120


def wait_until_computed(bar: Any) -> None:
    deadline = time.monotonic() + card_of.SECONDS
    while bar.read32(card_of.STATUS) & card_of.COMPUTING:
        assert time.monotonic() < deadline, "the card does not come to a result"


def test_registers_do_not_answer_without_memory_decode(edu: Device, way: Way) -> None:
    with way.open(edu) as session:
        card = session["dev0"]
        card.memory_decode = False
        with pytest.raises(DeviceAccessError) as caught:
            card.bars[0].read32(card_of.IDENTITY)
        assert caught.value.errno == errno.EIO


def test_configuration_space_tells_what_the_card_is(edu: Device, way: Way) -> None:
    with way.open(edu) as session:
        card = session["dev0"]
        config = card.config_space
        assert (config.vendor_id, config.device_id) == (0x1234, 0x11E8)
        assert (config.class_code, config.revision) == (0x00FF00, 0x10)
        assert [found.id for found in config.capabilities()] == [pci.PCI_CAP_ID_MSI]
        assert config.size == pci.PCI_CFG_SPACE_SIZE
        assert card.bars[0].size == 1 << 20
        assert card.bars[1:] == (None,) * 5
        assert (card.intx.count, card.msi.count, card.msix) == (1, 1, None)
        assert (card.rom, card.vga, card.error) == (None, None, None)


def test_a_card_is_opened_without_bus_mastering(edu: Device, way: Way) -> None:
    with way.open(edu) as session, session["dev0"].enable() as card:
        assert card.bus_master
    with way.open(edu) as session:
        assert not session["dev0"].bus_master


# -- reset -----------------------------------------------------------------------------------------
@pytest.mark.usefixtures("root_ports")
def test_interrupts_decode_and_mappings_outlive_a_reset(edu: Device, way: Way) -> None:
    with way.open(edu) as session, card_of.running(session["dev0"]) as vector:
        card = session["dev0"]
        card.bars[0].map()
        card.reset()
        assert card.memory_decode
        assert card.bus_master
        assert card.bars[0].read32(card_of.IDENTITY) == 0x010000ED
        card.bars[0].write32(card_of.IRQ_RAISE, 1)
        assert vector.wait(timeout=card_of.SECONDS) == 1
        card.bars[0].write32(card_of.IRQ_ACK, 1)


def test_a_function_that_shares_its_bus_cannot_be_reset_by_itself(
    twins: tuple[Device, Device], way: Way
) -> None:
    with way.open(*twins) as session:
        with pytest.raises(DeviceAccessError, match="cannot be reset by itself") as caught:
            session["dev0"].reset()
        assert caught.value.errno == errno.EINVAL


@pytest.mark.usefixtures("root_ports")
def test_a_hot_reset_would_reset_every_function_of_the_slot(
    twins: tuple[Device, Device], way: Way
) -> None:
    with way.open(*twins) as session:
        affected = hot_reset_info(session["dev0"])
        assert [(found.bus, found.devfn) for found in affected] == [
            (int(twin.name[5:7], 16), number) for number, twin in enumerate(twins)
        ]


def hot_reset_info(card: Any) -> list[vfio.vfio_pci_dependent_device]:
    """VFIO_DEVICE_GET_PCI_HOT_RESET_INFO."""
    head, each = map(ctypes.sizeof, (vfio.vfio_pci_hot_reset_info, vfio.vfio_pci_dependent_device))
    reply = bytearray(head + 8 * each)
    reply[:4] = bytes(ctypes.c_uint32(len(reply)))
    card.host.ioctl(card.access.fd, vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, reply)
    count = vfio.vfio_pci_hot_reset_info.from_buffer_copy(reply).count
    return list((vfio.vfio_pci_dependent_device * count).from_buffer_copy(reply, head))
