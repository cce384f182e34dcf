"""Every kind of device does its work through every way of opening it."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any

import pytest

from vfiocore.cli.demo import nvme
from vfiocore.errors import InterruptTimeout
from vfiocore_ccw.channel import ChannelProgram
from vfiocore_sim.host import SimHost

from . import edu
from .machine import AP, CCW, EDU, EVERY_KIND, NVME, TIMER, Way

BLOCK = 512


# -- edu: DMA, MSI, INTx ---------------------------------------------------------------------------
def test_a_card_reads_memory_by_dma(way: Way) -> None:
    data = os.urandom(1024)
    with way.open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(4096)
        memory.write(512, data)
        assert edu.fetch(session, card, memory.iova + 512, len(data)) == data


def test_a_card_writes_memory_by_dma_and_nothing_beside(way: Way) -> None:
    data = os.urandom(1000)
    with way.open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(4096)
        edu.store(session, card, memory.iova + 24, data)
        assert memory.read(0, 4096) == bytes(24) + data + bytes(4096 - 24 - len(data))


def test_the_end_of_a_transfer_comes_as_an_msi(way: Way) -> None:
    with way.open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(4096)
        (vector,) = card.msi.enable()
        edu.store(session, card, memory.iova, b"done", edu.INTERRUPT)
        assert vector.wait(timeout=1) == 1
        assert edu.acknowledge(card) == 0x100
        assert vector.take() == 0


def test_an_msi_can_be_awaited(way: Way) -> None:
    async def wait(card: Any) -> int:
        (vector,) = card.msi.enable()
        card.bars[0].write32(edu.IRQ_RAISE, 1)
        async with asyncio.timeout(1):
            count: int = await vector
        return count

    with way.open(EDU) as session, session["edu"].enable() as card:
        assert asyncio.run(wait(card)) == 1


def test_an_intx_line_stays_masked_until_it_is_unmasked(way: Way) -> None:
    with way.open(EDU) as session, session["edu"].enable() as card:
        (line,) = card.intx.enable()
        card.bars[0].write32(edu.IRQ_RAISE, 1)
        assert line.wait(timeout=1) == 1

        card.intx.unmask()  # still asserted: it comes again
        assert line.wait(timeout=1) == 1

        assert edu.acknowledge(card) == 1
        card.intx.unmask()
        with pytest.raises(InterruptTimeout):
            line.wait(timeout=0.01)


def test_dma_to_an_address_that_is_not_mapped_is_a_fault_and_moves_nothing(
    way: Way, host: SimHost
) -> None:
    with way.open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(4096)
        beyond = memory.iova + memory.length
        edu.store(session, card, beyond, b"nowhere")
        assert memory.read(0, 4096) == bytes(4096)
        (fault,) = host.faults
        assert (fault.device, fault.iova, fault.write) == (EDU.name, beyond, True)


def test_memory_that_was_freed_is_out_of_a_cards_reach(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session, session["edu"].enable() as card:
        with session.dma_alloc(4096) as memory:
            iova = memory.iova
            edu.store(session, card, iova, b"while it lasts")
            assert not host.faults
        edu.store(session, card, iova, b"too late")
        assert [fault.iova for fault in host.faults] == [iova]


def test_without_bus_mastering_a_card_moves_nothing(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session:
        card = session["edu"]
        card.memory_decode = True
        memory = session.dma_alloc(4096)
        memory.write(0, b"as it was")
        edu.store(session, card, memory.iova, b"unheard")
        assert memory.read(0, 9) == b"as it was"
        assert host.faults == []


# -- NVMe ------------------------------------------------------------------------------------------
def test_a_block_goes_to_the_disk_and_back(way: Way, host: SimHost) -> None:
    disk: Any = host.device(NVME.name)
    with way.open(NVME) as session:
        moved = nvme.exercise(session, session["nvme"])
    written = bytes(disk.content[3 * BLOCK : 4 * BLOCK])
    assert moved.bytes == 2 * BLOCK
    assert written != bytes(BLOCK)
    assert not any(disk.content[: 3 * BLOCK])
    assert not any(disk.content[4 * BLOCK :])
    assert host.faults == []


# -- timer -----------------------------------------------------------------------------------------
LOAD, CONTROL, STATUS, ACK, RECORD_LOW, RECORD_HIGH = 0x08, 0x0C, 0x14, 0x18, 0x1C, 0x20


def test_a_timer_records_its_expiry_in_memory_and_raises_its_line(way: Way) -> None:
    with way.open(TIMER) as session:
        timer = session["timer"]
        (registers,) = timer.regions
        line = timer.irqs[0]
        memory = session.dma_alloc(16)
        registers.write32(RECORD_LOW, memory.iova & 0xFFFFFFFF)
        registers.write32(RECORD_HIGH, memory.iova >> 32)
        line.enable()
        registers.write32(LOAD, 150)
        registers.write32(CONTROL, 1)
        with line.handling(timeout=1) as count:
            assert count == 1
            assert struct.unpack("=QQ", memory.read(0, 16)) == (1, 150)
            registers.write32(ACK, 1)
        assert registers.read32(STATUS) == 0
        assert line.vectors[0].take() == 0
        assert timer.compatible == ("vfiocore,sim-timer",)


# -- AP --------------------------------------------------------------------------------------------
def test_a_crypto_queue_sets_its_indicator_in_memory(way: Way, host: SimHost) -> None:
    machine: Any = host.device(AP.name)
    with way.open(AP) as session:
        memory = session.dma_alloc(4096)
        machine.enable_notification((5, 4), memory.iova + 9)
        assert memory.read(0, 16) == bytes(16)
        machine.complete((5, 4))
        assert memory.read(0, 16) == bytes(9) + b"\x01" + bytes(6)


def test_a_changed_matrix_interrupts(way: Way, host: SimHost) -> None:
    with way.open(AP) as session:
        (changed,) = session["ap"].config_changed.enable()
        host.write_file(f"{AP.path}/assign_domain", b"0x7\n")
        assert changed.wait(timeout=1) == 1


# -- CCW -------------------------------------------------------------------------------------------
def test_a_channel_program_reads_the_disk_into_memory(way: Way, host: SimHost) -> None:
    disk: Any = host.device(CCW.name)
    block = os.urandom(BLOCK)
    disk.content[2 * BLOCK : 3 * BLOCK] = block
    with way.open(CCW) as session:
        memory = session.dma_alloc(8192, below=1 << 31)
        extent, locate, data = (memory.iova + offset for offset in (2048, 2064, 4096))
        memory.write(2048, bytes.fromhex("c0 00 0200 00000000 00000000 000000ff"))
        memory.write(2064, bytes.fromhex("06 00 0001 00000002"))
        program = ChannelProgram().command(0x63, extent, 16).command(0x43, locate, 8)
        memory.write(0, program.command(0x42, data, BLOCK).to_bytes())
        assert session["ccw"].run(memory.iova, timeout=1).ok
        assert memory.read(4096, BLOCK) == block


# -- all of them -----------------------------------------------------------------------------------
def test_every_kind_of_device_shares_one_container(way: Way) -> None:
    with way.open(*EVERY_KIND) as session:
        assert list(session.devices) == ["nvme", "timer", "ap", "ccw"]
        containers = {id(device.container) for device in session}
        assert len(containers) == 1
        assert session["nvme"].container.backend == way.backend
        assert len(session["nvme"].container.attachments) == 4


def test_each_device_is_what_its_frontend_makes_of_it(way: Way) -> None:
    with way.open(*EVERY_KIND) as session:
        kinds = [type(device).__name__ for device in session]
    assert kinds == ["PciDevice", "PlatformDevice", "ApDevice", "CcwDevice"]
