"""QEMU's NVMe controller, driven through queues in DMA memory."""

from __future__ import annotations

from typing import Any

from tests.vm.bed.emulator import DISK_SIZE
from vfiocore.cli.demo import nvme as controller_of
from vfiocore.cli.demo.nvme import BLOCK, PAGE
from vfiocore.uapi import pci_regs as pci

from .devices import Device
from .way import Way

COMMANDS = 5
"""Identify, make a completion queue and a submission queue, write a block, read it."""

NAMESPACE = 0


def test_a_block_is_written_and_read_back(nvme: Device, way: Way) -> None:
    with way.open(nvme) as session:
        moved = controller_of.exercise(session, session["dev0"])
    assert moved.did.startswith("QEMU NVMe Ctrl:")
    assert moved.bytes == 2 * BLOCK
    assert moved.interrupts == COMMANDS


def test_a_controller_can_be_used_again_after_it_was_closed(nvme: Device, way: Way) -> None:
    for _ in range(2):
        with way.open(nvme) as session:
            controller_of.exercise(session, session["dev0"])


def test_each_queue_interrupts_at_its_own_vector_and_the_namespace_is_the_disk(
    nvme: Device, way: Way
) -> None:
    with way.open(nvme) as session, session["dev0"].enable() as controller:
        vectors = controller.msix.enable(2)
        memory = session.dma_alloc(8 * PAGE)
        registers, answer = controller.bars[0], memory.iova + 4 * PAGE
        admin, io = controller_of.queues(registers, memory, vectors)
        controller_of.start(registers, admin)
        admin.run(controller_of.IDENTIFY, prp1=answer, nsid=1, dwords=(NAMESPACE,))
        assert int.from_bytes(memory.read(4 * PAGE, 8), "little") == DISK_SIZE // BLOCK
        controller_of.create(admin, io)
        assert vectors[1].take() == 0
        assert read_block(io, answer) == 1
        assert vectors[0].take() == 0


def read_block(io: controller_of.Queue, address: int) -> int:
    """Read the first block; how many interrupts that made."""
    return io.run(controller_of.READ, prp1=address, nsid=1, dwords=(0, 0, 0))


def test_a_function_reset_stops_the_controller(nvme: Device, way: Way) -> None:
    with way.open(nvme) as session, session["dev0"].enable() as controller:
        vectors = controller.msix.enable(2)
        memory, registers = session.dma_alloc(8 * PAGE), controller.bars[0]
        admin, _ = controller_of.queues(registers, memory, vectors)
        controller_of.start(registers, admin)
        assert is_ready(registers)
        controller.reset()
        assert not is_ready(registers)
        assert registers.read32(controller_of.CC) == 0


def is_ready(registers: Any) -> bool:
    return bool(registers.read32(controller_of.CSTS) & controller_of.READY)


def test_a_controller_shows_its_vectors_and_its_capabilities(nvme: Device, way: Way) -> None:
    with way.open(nvme) as session:
        controller = session["dev0"]
        config = controller.config_space
        assert config.class_code == 0x010802
        assert config.find_capability(pci.PCI_CAP_ID_EXP) is not None
        assert controller.msix_table.vectors == controller.msix.count
        assert controller.bars[controller.msix_table.bar] is not None
