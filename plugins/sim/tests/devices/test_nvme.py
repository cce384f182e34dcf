"""The NVMe-like controller, driven through its registers and queues."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from attrs import define

from vfiocore.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY
from vfiocore.uapi.vfio import (
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
)
from vfiocore_sim.devices import NvmeDevice
from vfiocore_sim.devices.nvme import status
from vfiocore_sim.devices.nvme.controller import (
    ADMIN_ABORT,
    ADMIN_ASYNC_EVENT,
    ADMIN_CREATE_CQ,
    ADMIN_CREATE_SQ,
    ADMIN_DELETE_CQ,
    ADMIN_DELETE_SQ,
    ADMIN_GET_FEATURES,
    ADMIN_IDENTIFY,
    ADMIN_SET_FEATURES,
    CC_ENABLE,
    CSTS_FATAL,
    CSTS_READY,
    IO_FLUSH,
    IO_READ,
    IO_WRITE,
    REG_ACQ,
    REG_AQA,
    REG_ASQ,
    REG_CAP,
    REG_CC,
    REG_CSTS,
    REG_DOORBELLS,
    REG_INTMC,
    REG_INTMS,
    REG_VS,
)
from vfiocore_sim.vfio.bench import Bench, fired

PAGE = 4096
ENTRIES = 4
DATA = 0x20000
NOWHERE = 1 << 40


@define
class Queue:
    """One queue pair as a driver keeps it."""

    ident: int
    submission: int
    completion: int
    tail: int = 0
    head: int = 0
    phase: int = 1


@define
class Driver:
    """The least a driver does."""

    bench: Bench[NvmeDevice]
    admin: Queue

    def register(self, offset: int, size: int = 4) -> int:
        return self.bench.read(0, offset, size)

    def submit(
        self, queue: Queue, opcode: int, *dwords: int, nsid: int = 0, prp1: int = 0, prp2: int = 0
    ) -> None:
        raw = struct.pack("<II8xQQQ", opcode | 0x77 << 16, nsid, 0, prp1, prp2)
        raw += struct.pack("<6I", *dwords, *[0] * (6 - len(dwords)))
        at = queue.submission + 64 * queue.tail
        self.bench.memory.memory[at : at + 64] = raw
        queue.tail = (queue.tail + 1) % ENTRIES
        self.bench.write(0, REG_DOORBELLS + 8 * queue.ident, queue.tail, 4)

    def completion(self, queue: Queue) -> tuple[int, int] | None:
        """The next completion's (status, result), or None."""
        at = queue.completion + 16 * queue.head
        result, _, _head, ident, cid, word = struct.unpack(
            "<IIHHHH", self.bench.memory.memory[at : at + 16]
        )
        if word & 1 != queue.phase:
            return None
        assert (ident, cid) == (queue.ident, 0x77)
        queue.head = (queue.head + 1) % ENTRIES
        queue.phase ^= queue.head == 0
        self.bench.write(0, REG_DOORBELLS + 8 * queue.ident + 4, queue.head, 4)
        return word >> 1, result

    def run(self, queue: Queue, opcode: int, *dwords: int, **fields: int) -> tuple[int, int]:
        self.submit(queue, opcode, *dwords, **fields)
        done = self.completion(queue)
        assert done is not None
        return done

    def io_queue(self, ident: int = 1, vector: int = 1) -> Queue:
        queue = Queue(ident, 0x8000 + ident * 0x2000, 0x9000 + ident * 0x2000)
        sizes = (ENTRIES - 1) << 16 | ident
        made = self.run(self.admin, ADMIN_CREATE_CQ, sizes, vector << 16 | 3, prp1=queue.completion)
        assert made == (0, 0)
        made = self.run(self.admin, ADMIN_CREATE_SQ, sizes, ident << 16 | 1, prp1=queue.submission)
        assert made == (0, 0)
        return queue


@pytest.fixture
def bench() -> Iterator[Bench[NvmeDevice]]:
    content = b"".join(bytes([block & 0xFF]) * 512 for block in range(512))
    with Bench(NvmeDevice(blocks=512, content=content)) as bench:
        command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
        bench.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2)
        yield bench


@pytest.fixture
def driver(bench: Bench[NvmeDevice]) -> Driver:
    """A controller that is enabled, with its admin queue at 0x1000 and 0x2000."""
    bench.write(0, REG_AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1), 4)
    bench.write(0, REG_ASQ, 0x1000, 8)
    bench.write(0, REG_ACQ, 0x2000, 8)
    bench.write(0, REG_CC, 0x00460000 | CC_ENABLE, 4)
    return Driver(bench, Queue(0, 0x1000, 0x2000))


def test_capabilities_can_be_read_whole_or_in_halves(bench: Bench[NvmeDevice]) -> None:
    whole = bench.read(0, REG_CAP, 8)
    assert whole == bench.read(0, REG_CAP, 4) | bench.read(0, REG_CAP + 4, 4) << 32
    assert whole >> 37 & 1
    assert bench.read(0, REG_VS, 4) == 0x00010400


def test_it_is_ready_once_enabled_and_not_once_disabled(driver: Driver) -> None:
    assert driver.register(REG_CSTS) == CSTS_READY
    driver.bench.write(0, REG_CC, 0, 4)
    assert driver.register(REG_CSTS) == 0


def test_a_shutdown_completes(driver: Driver) -> None:
    driver.bench.write(0, REG_CC, 0x00464000 | CC_ENABLE, 4)
    assert driver.register(REG_CSTS) & 0xC == 0x8


def test_enabling_with_a_queue_off_its_page_is_fatal(bench: Bench[NvmeDevice]) -> None:
    bench.write(0, REG_AQA, 0x00030003, 4)
    bench.write(0, REG_ASQ, 0x1004, 8)
    bench.write(0, REG_CC, CC_ENABLE, 4)
    assert bench.read(0, REG_CSTS, 4) == CSTS_FATAL


def test_identify_controller(driver: Driver) -> None:
    assert driver.run(driver.admin, ADMIN_IDENTIFY, 1, prp1=DATA) == (0, 0)
    data = driver.bench.memory.memory[DATA : DATA + PAGE]
    assert struct.unpack_from("<H", data) == (0x1B36,)
    assert data[4:24] == b"vfiocore-sim        "
    assert struct.unpack_from("<I", data, 516) == (1,)


def test_identify_namespace_tells_size_and_block_size(driver: Driver) -> None:
    driver.run(driver.admin, ADMIN_IDENTIFY, 0, nsid=1, prp1=DATA)
    data = driver.bench.memory.memory[DATA : DATA + PAGE]
    assert struct.unpack_from("<Q", data) == (512,)
    assert data[130] == 9


def test_the_namespace_list_holds_what_is_above(driver: Driver) -> None:
    driver.run(driver.admin, ADMIN_IDENTIFY, 2, nsid=0, prp1=DATA)
    assert driver.bench.memory.memory[DATA : DATA + 8] == b"\1\0\0\0\0\0\0\0"
    driver.run(driver.admin, ADMIN_IDENTIFY, 2, nsid=1, prp1=DATA)
    assert driver.bench.memory.memory[DATA : DATA + 8] == bytes(8)


@pytest.mark.parametrize(
    ("opcode", "dwords", "nsid", "code"),
    [
        (ADMIN_IDENTIFY, (0,), 2, status.INVALID_NAMESPACE),
        (ADMIN_IDENTIFY, (2,), 0xFFFFFFFF, status.INVALID_NAMESPACE),
        (ADMIN_IDENTIFY, (0x99,), 0, status.INVALID_FIELD),
        (0x7F, (), 0, status.INVALID_OPCODE),
        (ADMIN_SET_FEATURES, (0xEE,), 0, status.INVALID_FIELD),
        (ADMIN_GET_FEATURES, (0xEE,), 0, status.INVALID_FIELD),
        (ADMIN_CREATE_CQ, (3 << 16, 1), 0, status.INVALID_QUEUE_ID),
        (ADMIN_CREATE_CQ, (3 << 16 | 9, 1), 0, status.INVALID_QUEUE_ID),
        (ADMIN_CREATE_CQ, (0 << 16 | 1, 1), 0, status.INVALID_QUEUE_SIZE),
        (ADMIN_CREATE_CQ, (3 << 16 | 1, 0), 0, status.INVALID_FIELD),
        (ADMIN_CREATE_CQ, (3 << 16 | 1, 9 << 16 | 3), 0, status.INVALID_INTERRUPT_VECTOR),
        (ADMIN_CREATE_SQ, (3 << 16 | 1, 2 << 16 | 1), 0, status.COMPLETION_QUEUE_INVALID),
        (ADMIN_DELETE_SQ, (1,), 0, status.INVALID_QUEUE_ID),
        (ADMIN_DELETE_CQ, (1,), 0, status.INVALID_QUEUE_ID),
    ],
)
def test_a_bad_admin_command_ends_with_its_status(
    driver: Driver, opcode: int, dwords: tuple[int, ...], nsid: int, code: int
) -> None:
    assert driver.run(driver.admin, opcode, *dwords, nsid=nsid, prp1=DATA) == (code, 0)


def test_features_are_stored(driver: Driver) -> None:
    driver.run(driver.admin, ADMIN_SET_FEATURES, 6, 1)
    assert driver.run(driver.admin, ADMIN_GET_FEATURES, 6) == (0, 1)
    assert driver.run(driver.admin, ADMIN_SET_FEATURES, 7, 0x00030003) == (0, 0x00030003)


def test_abort_finds_nothing_to_abort(driver: Driver) -> None:
    assert driver.run(driver.admin, ADMIN_ABORT) == (0, 1)


def test_an_asynchronous_event_request_is_held_up_to_a_limit(driver: Driver) -> None:
    for _ in range(4):
        driver.submit(driver.admin, ADMIN_ASYNC_EVENT)
        assert driver.completion(driver.admin) is None
    assert driver.run(driver.admin, ADMIN_ASYNC_EVENT) == (status.ASYNC_EVENT_LIMIT, 0)


def test_the_phase_turns_with_each_round(driver: Driver) -> None:
    for _ in range(3 * ENTRIES):
        assert driver.run(driver.admin, ADMIN_ABORT) == (0, 1)


def test_a_full_completion_queue_holds_commands_back(driver: Driver) -> None:
    # With 4 entries the queue holds 3; the driver takes nothing out meanwhile.
    for _ in range(3):
        driver.submit(driver.admin, ADMIN_ABORT)
    driver.submit(driver.admin, ADMIN_ABORT)
    last = driver.admin.completion + 3 * 16
    assert driver.bench.memory.memory[last : last + 16] == bytes(16)
    assert [driver.completion(driver.admin) for _ in range(4)] == [(0, 1)] * 4


def test_a_completion_queue_in_use_cannot_be_deleted(driver: Driver) -> None:
    driver.io_queue()
    deleted = driver.run(driver.admin, ADMIN_DELETE_CQ, 1)
    assert deleted == (status.INVALID_QUEUE_DELETION, 0)
    assert driver.run(driver.admin, ADMIN_DELETE_SQ, 1) == (0, 0)
    assert driver.run(driver.admin, ADMIN_DELETE_CQ, 1) == (0, 0)


def test_reading_one_block(driver: Driver) -> None:
    queue = driver.io_queue()
    assert driver.run(queue, IO_READ, 7, 0, 0, nsid=1, prp1=DATA) == (0, 0)
    assert driver.bench.memory.memory[DATA : DATA + 512] == b"\7" * 512


def test_two_pages_use_the_second_prp(driver: Driver) -> None:
    queue = driver.io_queue()
    driver.run(queue, IO_READ, 0, 0, 8, nsid=1, prp1=DATA + PAGE - 512, prp2=DATA + 4 * PAGE)
    memory = driver.bench.memory.memory
    assert memory[DATA + PAGE - 512 : DATA + PAGE] == bytes(512)
    assert memory[DATA + 4 * PAGE + 7 * 512 : DATA + 5 * PAGE] == b"\x08" * 512


def test_more_pages_use_a_list_that_may_run_over_several_pages(driver: Driver) -> None:
    queue = driver.io_queue()
    pages = [DATA + PAGE * number for number in (9, 8, 7, 6)]
    memory = driver.bench.memory.memory
    # The list begins two entries before the end of its page: one entry, then where it goes on.
    memory[DATA + PAGE - 16 : DATA + PAGE] = struct.pack("<2Q", pages[1], DATA + 2 * PAGE)
    memory[DATA + 2 * PAGE : DATA + 2 * PAGE + 16] = struct.pack("<2Q", *pages[2:])
    done = driver.run(queue, IO_READ, 0, 0, 31, nsid=1, prp1=pages[0], prp2=DATA + PAGE - 16)
    assert done == (0, 0)
    got = b"".join(memory[page : page + PAGE] for page in pages)
    assert got == driver.bench.device.content[: 4 * PAGE]


def test_what_is_written_is_read_back(driver: Driver) -> None:
    queue = driver.io_queue()
    memory = driver.bench.memory.memory
    memory[DATA : DATA + 1024] = b"ab" * 512
    assert driver.run(queue, IO_WRITE, 100, 0, 1, nsid=1, prp1=DATA) == (0, 0)
    assert driver.run(queue, IO_FLUSH, nsid=1) == (0, 0)
    assert driver.run(queue, IO_READ, 101, 0, 0, nsid=1, prp1=DATA + PAGE) == (0, 0)
    assert memory[DATA + PAGE : DATA + PAGE + 512] == b"ab" * 256


@pytest.mark.parametrize(
    ("opcode", "dwords", "fields", "code"),
    [
        (0x55, (), {}, status.INVALID_OPCODE),
        (IO_READ, (512, 0, 0), {}, status.LBA_OUT_OF_RANGE),
        (IO_READ, (0, 1, 0), {}, status.LBA_OUT_OF_RANGE),
        (IO_WRITE, (511, 0, 1), {}, status.LBA_OUT_OF_RANGE),
        (IO_READ, (0, 0, 0), {"nsid": 2}, status.INVALID_NAMESPACE),
        (IO_FLUSH, (), {"nsid": 2}, status.INVALID_NAMESPACE),
        (IO_READ, (0, 0, 256), {}, status.INVALID_FIELD),
        (IO_READ, (0, 0, 15), {"prp2": DATA + 8}, status.PRP_OFFSET_INVALID),
        (IO_READ, (0, 0, 31), {"prp2": DATA + PAGE + 4}, status.PRP_OFFSET_INVALID),
        (IO_READ, (0, 0, 0), {"prp1": NOWHERE}, status.DATA_TRANSFER_ERROR),
        (IO_WRITE, (0, 0, 0), {"prp1": NOWHERE}, status.DATA_TRANSFER_ERROR),
        (IO_READ, (0, 0, 31), {"prp2": NOWHERE}, status.DATA_TRANSFER_ERROR),
    ],
)
def test_a_bad_io_command_ends_with_its_status(
    driver: Driver, opcode: int, dwords: tuple[int, ...], fields: dict[str, int], code: int
) -> None:
    queue = driver.io_queue()
    before = bytes(driver.bench.device.content)
    done = driver.run(queue, opcode, *dwords, **{"nsid": 1, "prp1": DATA, **fields})
    assert done == (code, 0)
    assert driver.bench.device.content == before
    assert driver.register(REG_CSTS) == CSTS_READY


def test_a_queue_entry_out_of_memory_is_fatal(driver: Driver) -> None:
    sizes = (ENTRIES - 1) << 16 | 1
    driver.run(driver.admin, ADMIN_CREATE_CQ, sizes, 1, prp1=0xA000)
    driver.run(driver.admin, ADMIN_CREATE_SQ, sizes, 1 << 16 | 1, prp1=NOWHERE)
    driver.bench.write(0, REG_DOORBELLS + 8, 1, 4)
    assert driver.register(REG_CSTS) & CSTS_FATAL
    driver.submit(driver.admin, ADMIN_ABORT)
    assert driver.completion(driver.admin) is None


def test_without_bus_mastering_ringing_is_fatal(driver: Driver) -> None:
    driver.bench.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
    driver.submit(driver.admin, ADMIN_ABORT)
    assert driver.register(REG_CSTS) & CSTS_FATAL


def test_each_queue_interrupts_on_its_own_vector(driver: Driver) -> None:
    events = driver.bench.listen(VFIO_PCI_MSIX_IRQ_INDEX, 3)
    queue = driver.io_queue(vector=2)
    assert [fired(event) for event in events] == [2, 0, 0]
    driver.run(queue, IO_FLUSH, nsid=1)
    assert [fired(event) for event in events] == [0, 0, 1]


def test_intx_stays_up_until_the_completions_are_taken_out(driver: Driver) -> None:
    (event,) = driver.bench.listen(VFIO_PCI_INTX_IRQ_INDEX)
    line = driver.bench.device.irqs.intx
    driver.submit(driver.admin, ADMIN_ABORT)
    assert fired(event) == 1
    assert line.asserted
    driver.completion(driver.admin)
    assert not line.asserted


def test_a_masked_vector_does_not_raise_intx(driver: Driver) -> None:
    line = driver.bench.device.irqs.intx
    driver.bench.write(0, REG_INTMS, 1, 4)
    driver.submit(driver.admin, ADMIN_ABORT)
    assert not line.asserted
    driver.bench.write(0, REG_INTMC, 1, 4)
    assert line.asserted


def test_a_reset_disables_the_controller_and_keeps_the_disk(driver: Driver) -> None:
    driver.bench.device.content[:4] = b"keep"
    driver.bench.reset()
    assert driver.register(REG_CSTS) == 0
    assert driver.register(REG_ASQ, 8) == 0
    assert driver.bench.device.content[:4] == b"keep"
