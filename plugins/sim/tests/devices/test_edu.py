"""The edu device: registers, factorials, interrupts, DMA."""

from __future__ import annotations

import math
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY
from vfiocore.uapi.vfio import (
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
)
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.devices.edu import BUFFER_OFFSET, BUFFER_SIZE
from vfiocore_sim.vfio.bench import Bench, fired

Edu: TypeAlias = Bench[EduDevice]
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_RAM, IRQ = 1, 2, 4
IRQ_STATUS, RAISE, ACK = 0x24, 0x60, 0x64


def transfer(bench: Edu, source: int, destination: int, count: int, flags: int) -> None:
    bench.write(0, SOURCE, source, 8)
    bench.write(0, DESTINATION, destination, 8)
    bench.write(0, COUNT, count, 8)
    bench.write(0, COMMAND, START | flags, 8)


def test_it_identifies_itself(live_edu: Edu) -> None:
    assert live_edu.read(0, 0, 4) == 0x010000ED


@given(st.integers(0, 0xFFFFFFFF))
def test_the_liveness_register_inverts(value: int) -> None:
    with Bench(EduDevice()) as edu:
        edu.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
        edu.write(0, 4, value, 4)
        assert edu.read(0, 4, 4) == value ^ 0xFFFFFFFF


@pytest.mark.parametrize("value", [0, 1, 5, 12, 13, 33, 34, 100, 0xFFFFFFFF])
def test_factorials_are_modulo_2_to_the_32(live_edu: Edu, value: int) -> None:
    live_edu.write(0, 8, value, 4)
    expected = math.factorial(value) % (1 << 32) if value <= 100 else 0
    assert live_edu.read(0, 8, 4) == expected


def test_a_factorial_interrupts_when_asked_to(live_edu: Edu) -> None:
    (event,) = live_edu.listen(VFIO_PCI_MSI_IRQ_INDEX)
    live_edu.write(0, 8, 5, 4)
    assert fired(event) == 0
    live_edu.write(0, 0x20, 0x80, 4)
    live_edu.write(0, 8, 5, 4)
    assert fired(event) == 1
    assert live_edu.read(0, IRQ_STATUS, 4) == 1


def test_acknowledging_takes_the_line_down(live_edu: Edu) -> None:
    (event,) = live_edu.listen(VFIO_PCI_INTX_IRQ_INDEX)
    live_edu.write(0, RAISE, 0x30, 4)
    assert fired(event) == 1
    live_edu.write(0, ACK, 0x10, 4)
    assert live_edu.device.irqs.intx.asserted
    live_edu.write(0, ACK, 0x20, 4)
    assert not live_edu.device.irqs.intx.asserted


def test_an_access_of_the_wrong_width_reads_ones_and_writes_nothing(live_edu: Edu) -> None:
    assert live_edu.read(0, 0, 2) == 0xFFFF
    live_edu.write(0, 4, 1, 1)
    assert live_edu.read(0, 4, 4) == 0


def test_dma_moves_memory_into_the_buffer_and_back(live_edu: Edu) -> None:
    live_edu.memory.memory[0x1000:0x1008] = b"vfiocore"
    transfer(live_edu, 0x1000, BUFFER_OFFSET + 8, 8, 0)
    assert live_edu.pread(0, BUFFER_OFFSET + 8, 8) == b"vfiocore"
    transfer(live_edu, BUFFER_OFFSET + 8, 0x2000, 8, TO_RAM)
    assert live_edu.memory.memory[0x2000:0x2008] == b"vfiocore"


def test_a_finished_transfer_interrupts_when_asked_to(live_edu: Edu) -> None:
    (event,) = live_edu.listen(VFIO_PCI_MSI_IRQ_INDEX)
    transfer(live_edu, 0x1000, BUFFER_OFFSET, 8, 0)
    assert fired(event) == 0
    transfer(live_edu, 0x1000, BUFFER_OFFSET, 8, IRQ)
    assert fired(event) == 1
    assert live_edu.read(0, IRQ_STATUS, 4) == 0x100
    assert live_edu.read(0, COMMAND, 4) & START == 0


def test_a_refused_transfer_completes_and_moves_nothing(live_edu: Edu) -> None:
    live_edu.pwrite(0, BUFFER_OFFSET, b"old")
    transfer(live_edu, 1 << 24, BUFFER_OFFSET, 8, IRQ)
    assert live_edu.pread(0, BUFFER_OFFSET, 3) == b"old"
    assert live_edu.read(0, IRQ_STATUS, 4) == 0x100


@pytest.mark.parametrize(
    ("start", "count"), [(BUFFER_OFFSET - 1, 8), (BUFFER_OFFSET + BUFFER_SIZE - 4, 8)]
)
def test_a_transfer_out_of_the_buffer_moves_nothing(live_edu: Edu, start: int, count: int) -> None:
    live_edu.memory.memory[:8] = b"untouched"[:8]
    transfer(live_edu, start, 0, count, TO_RAM)
    assert live_edu.memory.memory[:8] == b"untouche"


def test_without_bus_mastering_nothing_moves(live_edu: Edu) -> None:
    live_edu.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
    live_edu.memory.memory[:4] = b"data"
    transfer(live_edu, 0, BUFFER_OFFSET, 4, 0)
    assert live_edu.pread(0, BUFFER_OFFSET, 4) == bytes(4)


@pytest.mark.parametrize(("mask", "expected"), [(28, b"low!"), (64, bytes(4))])
def test_addresses_are_cut_off_at_the_dma_mask(mask: int, expected: bytes) -> None:
    with Bench(EduDevice(dma_mask=mask)) as edu:
        command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
        edu.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2)
        edu.memory.memory[0x100:0x104] = b"low!"
        transfer(edu, (1 << 28) | 0x100, BUFFER_OFFSET, 4, 0)
        assert edu.pread(0, BUFFER_OFFSET, 4) == expected
        transfer(edu, BUFFER_OFFSET, (1 << 28) | 0x200, 4, TO_RAM)
        assert edu.memory.memory[0x200:0x204] == expected
