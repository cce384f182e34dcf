"""The edu device: registers, factorials, interrupts, DMA."""

from __future__ import annotations

import errno
import math
import mmap
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY
from vfiocore.uapi.vfio import (
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
)
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.devices.edu import BUFFER_OFFSET, BUFFER_SIZE
from vfiocore_sim.vfio.bench import Bench, fired

Edu: TypeAlias = Bench[EduDevice]
Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_RAM, IRQ = 1, 2, 4
IRQ_STATUS, RAISE, ACK = 0x24, 0x60, 0x64
ASIDE = 0xF0000


def transfer(bench: Edu, source: int, destination: int, count: int, flags: int) -> None:
    bench.write(0, SOURCE, source, 8)
    bench.write(0, DESTINATION, destination, 8)
    bench.write(0, COUNT, count, 8)
    bench.write(0, COMMAND, START | flags, 8)


def put(bench: Edu, data: bytes, offset: int = 0) -> None:
    """Have the card read `data` into its buffer."""
    bench.memory.memory[ASIDE : ASIDE + len(data)] = data
    transfer(bench, ASIDE, BUFFER_OFFSET + offset, len(data), 0)


def got(bench: Edu, count: int, offset: int = 0) -> bytes:
    """What the card's buffer has, which it writes to memory."""
    transfer(bench, BUFFER_OFFSET + offset, ASIDE, count, TO_RAM)
    return bytes(bench.memory.memory[ASIDE : ASIDE + count])


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


@pytest.mark.parametrize("offset", [0x00, 0x08, 0x60, DESTINATION, 0x400, BUFFER_OFFSET])
@pytest.mark.parametrize("size", [1, 2])
def test_a_narrow_read_is_zero_wherever_it_is(live_edu: Edu, offset: int, size: int) -> None:
    transfer(live_edu, 0x55, 0x55, 0x55, 0)
    assert live_edu.read(0, offset, size) == 0


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        *[(offset, 8) for offset in (0x00, 0x08, 0x20, 0x60, 0x78)],
        *[(offset, 4) for offset in (0x0C, RAISE, ACK, 0x7C, DESTINATION + 4, COMMAND + 4)],
        *[(offset, 8) for offset in (0xA0, 0x400, BUFFER_OFFSET, (1 << 20) - 8)],
    ],
)
def test_what_is_no_register_of_that_width_reads_as_ones(
    live_edu: Edu, offset: int, size: int
) -> None:
    assert live_edu.read(0, offset, size) == (1 << 8 * size) - 1


def test_the_dma_registers_are_read_in_4_and_in_8_bytes(live_edu: Edu) -> None:
    live_edu.write(0, SOURCE, 0x1122334455667788, 8)
    assert live_edu.read(0, SOURCE, 8) == 0x1122334455667788
    assert live_edu.read(0, SOURCE, 4) == 0x55667788


def test_4_bytes_written_to_a_dma_register_are_all_of_it(live_edu: Edu) -> None:
    live_edu.write(0, SOURCE, 0x1122334455667788, 8)
    live_edu.write(0, SOURCE + 4, 7, 4)
    assert live_edu.read(0, SOURCE, 8) == 0x1122334455667788
    live_edu.write(0, SOURCE, 0x99, 4)
    assert live_edu.read(0, SOURCE, 8) == 0x99


@pytest.mark.parametrize(("offset", "size"), [(4, 1), (4, 2), (0, 8)])
def test_a_write_of_the_wrong_width_is_dropped(live_edu: Edu, offset: int, size: int) -> None:
    live_edu.write(0, offset, (1 << 8 * size) - 1, size)
    assert live_edu.read(0, 4, 4) == 0


def test_a_command_that_does_not_start_a_transfer_is_dropped(live_edu: Edu) -> None:
    live_edu.write(0, COMMAND, TO_RAM | IRQ, 8)
    assert live_edu.read(0, COMMAND, 8) == 0
    assert live_edu.read(0, IRQ_STATUS, 4) == 0


def test_no_part_of_the_bar_can_be_mapped(live_edu: Edu, refused: Refused) -> None:
    info, _ = live_edu.region(0, argsz=256)
    assert (info.size, info.flags) == (1 << 20, READ_WRITE)
    for offset in (0, BUFFER_OFFSET):
        with refused(errno.EINVAL):
            live_edu.device.mmap(mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, offset)


def test_the_buffer_cannot_be_reached_through_the_bar(live_edu: Edu) -> None:
    put(live_edu, b"its own ")
    assert live_edu.pread(0, BUFFER_OFFSET, 16) == b"\xff" * 16
    live_edu.pwrite(0, BUFFER_OFFSET, bytes(16))
    assert got(live_edu, 8) == b"its own "


def test_dma_moves_memory_into_the_buffer_and_back(live_edu: Edu) -> None:
    live_edu.memory.memory[0x1000:0x1008] = b"vfiocore"
    transfer(live_edu, 0x1000, BUFFER_OFFSET + 8, 8, 0)
    assert got(live_edu, 8 + 8) == bytes(8) + b"vfiocore"
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


def test_a_refused_read_of_memory_completes_and_brings_zeros(live_edu: Edu) -> None:
    put(live_edu, b"old bytes")
    transfer(live_edu, 1 << 24, BUFFER_OFFSET + 4, 5, IRQ)
    assert got(live_edu, 9) == b"old " + bytes(5)
    assert live_edu.read(0, IRQ_STATUS, 4) == 0x100


def test_a_refused_write_to_memory_completes(live_edu: Edu) -> None:
    put(live_edu, b"kept")
    transfer(live_edu, BUFFER_OFFSET, 1 << 24, 4, TO_RAM | IRQ)
    assert live_edu.read(0, IRQ_STATUS, 4) == 0x100
    assert got(live_edu, 4) == b"kept"


@pytest.mark.parametrize(
    ("start", "count"), [(BUFFER_OFFSET - 1, 8), (BUFFER_OFFSET + BUFFER_SIZE - 4, 8)]
)
def test_a_transfer_out_of_the_buffer_moves_nothing(live_edu: Edu, start: int, count: int) -> None:
    live_edu.memory.memory[:8] = b"untouche"
    transfer(live_edu, start, 0, count, TO_RAM)
    assert live_edu.memory.memory[:8] == b"untouche"
    put(live_edu, bytes(range(16)))
    transfer(live_edu, 0, start, count, 0)
    assert got(live_edu, 16) == bytes(range(16))


def test_without_bus_mastering_nothing_moves(live_edu: Edu) -> None:
    put(live_edu, b"sent")
    live_edu.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
    live_edu.memory.memory[:4] = b"data"
    transfer(live_edu, BUFFER_OFFSET, 0, 4, TO_RAM)
    assert live_edu.memory.memory[:4] == b"data"
    transfer(live_edu, 0, BUFFER_OFFSET, 4, 0)
    both = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
    live_edu.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, both, 2)
    assert got(live_edu, 4) == bytes(4)


@pytest.mark.parametrize(("mask", "expected"), [(28, b"low!"), (64, bytes(4))])
def test_addresses_are_cut_off_at_the_dma_mask(mask: int, expected: bytes) -> None:
    with Bench(EduDevice(dma_mask=mask)) as edu:
        command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
        edu.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2)
        edu.memory.memory[0x100:0x104] = b"low!"
        transfer(edu, (1 << 28) | 0x100, BUFFER_OFFSET, 4, 0)
        assert got(edu, 4) == expected
        put(edu, b"low!")
        transfer(edu, BUFFER_OFFSET, (1 << 28) | 0x200, 4, TO_RAM)
        assert edu.memory.memory[0x200:0x204] == expected
