"""An NVMe controller: queues in DMA memory, identify, then a block written and read back."""

from __future__ import annotations

import os
import time
from typing import Any

from attrs import define

from vfiocore.cli.demo.exercise import DemoFailed, Moved, expect
from vfiocore.session import Session

CAP, CC, CSTS, AQA, ASQ, ACQ, DOORBELLS = 0x00, 0x14, 0x1C, 0x24, 0x28, 0x30, 0x1000
READY = 0x1
ENABLE = 0x00460001
"""CC: enabled, 64-byte submission and 16-byte completion entries."""

CREATE_SQ, CREATE_CQ, IDENTIFY = 0x01, 0x05, 0x06
WRITE, READ = 0x01, 0x02
CONTIGUOUS, INTERRUPTS = 0x1, 0x2
CONTROLLER = 1
ENTRIES = 8
COMMAND_SIZE, COMPLETION_SIZE = 64, 16
BLOCK = 512
SECONDS = 30
"""How long a command may take."""
PAGE = 1 << 12
"""The controller's memory page, which CC chose; the host's may be larger."""


@define
class Queue:
    """A pair of queues with the same number, in memory that the controller reads and writes."""

    number: int
    memory: Any
    submissions: int
    completions: int
    registers: Any
    stride: int
    vector: Any
    tail: int = 0
    head: int = 0
    phase: int = 1

    def run(
        self, opcode: int, *, prp1: int = 0, nsid: int = 0, dwords: tuple[int, ...] = ()
    ) -> int:
        """Submit one command and wait for its interrupt; how many interrupts came."""
        command = bytearray(COMMAND_SIZE)
        fields = {0: opcode | self.tail << 16, 1: nsid, 6: prp1 & 0xFFFFFFFF, 7: prp1 >> 32}
        fields |= {10 + number: value for number, value in enumerate(dwords)}
        for number, value in fields.items():
            command[4 * number : 4 * number + 4] = value.to_bytes(4, "little")
        self.memory.write(self.submissions + self.tail * COMMAND_SIZE, command)
        self.tail = (self.tail + 1) % ENTRIES
        self.registers.write32(self._doorbell(0), self.tail)
        interrupts: int = self.vector.wait(timeout=SECONDS)
        self._complete(opcode)
        return interrupts

    def _complete(self, opcode: int) -> None:
        entry = self.memory.read(self.completions + self.head * COMPLETION_SIZE, COMPLETION_SIZE)
        status = int.from_bytes(entry[14:16], "little")
        expect(f"phase after command {opcode:#x}", status & 1, self.phase)
        expect(f"status of command {opcode:#x}", status >> 1, 0)
        self.head = (self.head + 1) % ENTRIES
        self.phase ^= not self.head
        self.registers.write32(self._doorbell(1), self.head)

    def _doorbell(self, kind: int) -> int:
        return DOORBELLS + (2 * self.number + kind) * self.stride


def exercise(session: Session, controller: Any) -> Moved:
    """Bring the controller up, identify it, and have a block go to its disk and back."""
    block = os.urandom(BLOCK)
    registers = controller.bars[0]
    with controller.enable(), session.dma_alloc(8 * PAGE) as memory:
        vectors = controller.msix.enable(2)
        try:
            admin, io = queues(registers, memory, vectors)
            start(registers, admin)
            interrupts = admin.run(IDENTIFY, prp1=memory.iova + 4 * PAGE, dwords=(CONTROLLER,))
            model = memory.read(4 * PAGE + 24, 40).decode("ascii").strip()
            interrupts += create(admin, io)
            data = memory.iova + 5 * PAGE
            memory.write(5 * PAGE, block)
            interrupts += io.run(WRITE, prp1=data, nsid=1, dwords=(3, 0, 0))
            interrupts += io.run(READ, prp1=data + BLOCK, nsid=1, dwords=(3, 0, 0))
            expect("the block", memory.read(5 * PAGE + BLOCK, BLOCK), block)
        finally:
            registers.write32(CC, 0)
            controller.msix.disable()
    return Moved(f"{model}: a block written and read, MSI-X", 2 * BLOCK, interrupts)


def queues(registers: Any, memory: Any, vectors: Any) -> list[Queue]:
    """The admin queue and one for I/O, in the first four pages of the memory."""
    stride = 4 << (registers.read64(CAP) >> 32 & 0xF)
    return [
        Queue(n, memory, 2 * n * PAGE, (2 * n + 1) * PAGE, registers, stride, vectors[n])
        for n in (0, 1)
    ]


def start(registers: Any, admin: Queue) -> None:
    """Enable the controller with its admin queue."""
    base = admin.memory.iova
    registers.write32(AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1))
    registers.write64(ASQ, base + admin.submissions)
    registers.write64(ACQ, base + admin.completions)
    registers.write32(CC, ENABLE)
    # CAP.TO, in halves of a second; a busy machine may need a little even where that is 0.
    deadline = time.monotonic() + 1 + (registers.read64(CAP) >> 24 & 0xFF) / 2
    while not registers.read32(CSTS) & READY:
        if time.monotonic() > deadline:
            raise DemoFailed("the controller does not become ready")


def create(admin: Queue, io: Queue) -> int:
    """Have the controller make the queue for I/O; how many interrupts that made."""
    base, size = io.memory.iova, (ENTRIES - 1) << 16 | io.number
    interrupts = admin.run(
        CREATE_CQ,
        prp1=base + io.completions,
        dwords=(size, io.number << 16 | INTERRUPTS | CONTIGUOUS),
    )
    return interrupts + admin.run(
        CREATE_SQ, prp1=base + io.submissions, dwords=(size, io.number << 16 | CONTIGUOUS)
    )
