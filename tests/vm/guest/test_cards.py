"""Cards with registers, memory and interrupts of their own."""

from __future__ import annotations

import os
import time
from typing import Any

from vfiocore.uapi import pci_regs as pci

from .devices import Device
from .way import Way

SECONDS = 20

# -- pci-testdev -----------------------------------------------------------------------------------
TEST, WIDTH, OFFSET, DATA, COUNT, NAME = 0x0, 0x1, 0x4, 0x8, 0xC, 0x10
PLAIN = 0
"""The number of the test that counts every write to one register."""


def test_a_card_counts_writes_to_a_memory_register(testdev: Device, way: Way) -> None:
    with way.open(testdev) as session, session["dev0"].enable() as card:
        assert_counts_writes(card.bars[0], b"mmio-no-eventfd")


def test_a_card_counts_writes_to_an_io_port(testdev: Device, way: Way) -> None:
    with way.open(testdev) as session:
        card = session["dev0"]
        card.config_space.command |= pci.PCI_COMMAND_IO
        assert_counts_writes(card.bars[1], b"portio-no-eventfd")


def assert_counts_writes(bar: Any, name: bytes) -> None:
    bar.write8(TEST, PLAIN)
    assert bytes(bar.read8(NAME + at) for at in range(len(name))) == name
    assert bar.read8(WIDTH) == 1
    register, data = bar.read32(OFFSET), bar.read8(DATA)
    for count in range(1, 4):
        bar.write8(register, data)
        assert bar.read32(COUNT) == count


def test_io_ports_cannot_be_mapped_and_memory_can(testdev: Device, way: Way) -> None:
    with way.open(testdev) as session:
        memory, ports = session["dev0"].bars[:2]
        assert [(area.offset, area.size) for area in memory.areas] == [(0, memory.size)]
        assert ports.areas == ()


# -- ivshmem ---------------------------------------------------------------------------------------
def test_memory_of_a_card_is_one_through_mapping_and_file(ivshmem: Device, way: Way) -> None:
    data = os.urandom(4096)
    with way.open(ivshmem) as session, session["dev0"].enable() as card:
        memory = card.bars[2]
        assert memory.size == 1 << 20
        memory.write(memory.size - len(data), data)
        memory.map()
        with memory.view(memory.size - len(data)) as view:
            assert bytes(view) == data
            view[:] = data[::-1]
        memory.unmap()
        assert memory.read(memory.size - len(data), len(data)) == data[::-1]


def test_memory_of_a_card_outlives_the_session(ivshmem: Device, way: Way) -> None:
    data = os.urandom(64)
    with way.open(ivshmem) as session, session["dev0"].enable() as card:
        card.bars[2].write(0, data)
    with way.open(ivshmem) as session, session["dev0"].enable() as card:
        assert card.bars[2].read(0, len(data)) == data


# -- e1000e ----------------------------------------------------------------------------------------
CTRL = 0x00
RECEIVE_ADDRESS_LOW, RECEIVE_ADDRESS_HIGH = 0x5400, 0x5404
RESET = 1 << 26

MAC = bytes.fromhex("525400123456")
"""QEMU's first network card has it."""


def address_of(bar: Any) -> bytes:
    low, high = bar.read32(RECEIVE_ADDRESS_LOW), bar.read32(RECEIVE_ADDRESS_HIGH)
    return bytes((low | high << 32).to_bytes(8, "little")[:6])


def test_a_network_card_tells_its_address(e1000e: Device, way: Way) -> None:
    with way.open(e1000e) as session, session["dev0"].enable() as card:
        assert address_of(card.bars[0]) == MAC


def test_a_network_card_has_its_address_again_after_a_reset_by_register(
    e1000e: Device, way: Way
) -> None:
    with way.open(e1000e) as session, session["dev0"].enable() as card:
        bar = card.bars[0]
        bar.write32(RECEIVE_ADDRESS_LOW, 0x11223344)
        assert address_of(bar) != MAC
        bar.write32(CTRL, bar.read32(CTRL) | RESET)
        deadline = time.monotonic() + SECONDS
        while bar.read32(CTRL) & RESET:
            assert time.monotonic() < deadline, "the card does not come out of its reset"
        assert address_of(bar) == MAC


def test_every_vector_of_a_network_card_has_its_own_file(e1000e: Device, way: Way) -> None:
    with way.open(e1000e) as session:
        irq = session["dev0"].msix
        vectors = irq.enable(irq.count)
        assert len(vectors) == 5
        for vector in vectors:
            irq.trigger(vector.number)
            assert [other.take() for other in vectors] == [other is vector for other in vectors]


def test_an_express_card_has_both_kinds_of_capabilities(e1000e: Device, way: Way) -> None:
    with way.open(e1000e) as session:
        config = session["dev0"].config_space
        assert config.size == pci.PCI_CFG_SPACE_EXP_SIZE
        assert config.find_capability(pci.PCI_CAP_ID_EXP) is not None
        assert config.find_capability(pci.PCI_CAP_ID_MSIX) is not None
        assert config.find_extended_capability(pci.PCI_EXT_CAP_ID_ERR) is not None
        assert session["dev0"].error.count == 1
