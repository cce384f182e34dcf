"""The controller: registers, doorbells, admin and I/O commands."""

from __future__ import annotations

from collections.abc import Callable, Collection

from vfiocore_sim.device import DmaFault
from vfiocore_sim.devices.nvme import status
from vfiocore_sim.devices.nvme.identify import (
    LBA_SHIFT,
    ControllerIdentity,
    identify_namespace,
    namespace_list,
)
from vfiocore_sim.devices.nvme.prp import prp_segments
from vfiocore_sim.devices.nvme.queues import (
    COMPLETION_SIZE,
    SUBMISSION_SIZE,
    Command,
    CompletionQueue,
    SubmissionQueue,
)
from vfiocore_sim.devices.nvme.status import CommandError
from vfiocore_sim.vfio.pci import Bar, MsixTable, PciDevice

REG_CAP = 0x00
REG_VS = 0x08
REG_INTMS = 0x0C
REG_INTMC = 0x10
REG_CC = 0x14
REG_CSTS = 0x1C
REG_AQA = 0x24
REG_ASQ = 0x28
REG_ACQ = 0x30
REG_DOORBELLS = 0x1000

CC_ENABLE = 0x1
CSTS_READY = 0x1
CSTS_FATAL = 0x2
_CSTS_SHUTDOWN_DONE = 0x8
_CC_SHUTDOWN = 0xC000

ADMIN_DELETE_SQ = 0x00
ADMIN_CREATE_SQ = 0x01
ADMIN_DELETE_CQ = 0x04
ADMIN_CREATE_CQ = 0x05
ADMIN_IDENTIFY = 0x06
ADMIN_ABORT = 0x08
ADMIN_SET_FEATURES = 0x09
ADMIN_GET_FEATURES = 0x0A
ADMIN_ASYNC_EVENT = 0x0C
IO_FLUSH = 0x00
IO_WRITE = 0x01
IO_READ = 0x02
FEATURE_NUMBER_OF_QUEUES = 0x07

_VERSION = 0x00010400
_MAX_ENTRIES = 1024
_MAX_PAGE_SHIFT = 4  # MPSMAX: 64 KiB
_MAX_TRANSFER = 5  # MDTS: 128 KiB
_MAX_ASYNC_EVENTS = 4
_BAR_SIZE = 0x4000
_MSIX_TABLE = 0x2000
_MSIX_PBA = 0x3000
_ALL_NAMESPACES = 0xFFFFFFFF
#: Features that are stored and given back: arbitration, power, temperature, error recovery, write
#: cache, interrupt coalescing and configuration, write atomicity, asynchronous events.
_STORED_FEATURES = frozenset({0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0A, 0x0B})


class NvmeDevice(PciDevice):
    """One controller with one namespace, a RAM disk of 512-byte blocks.

    Commands are carried out when their doorbell is rung. Data that the IOMMU refuses ends a command
    with Data Transfer Error; a queue entry that it refuses is fatal (CSTS.CFS).

    Args:
        blocks: Size of the disk in blocks of 512 bytes.
        content: What is on the disk from block 0 on; it may enlarge the disk.
        queues: I/O queue pairs on offer, and one MSI-X vector for each besides the admin one.
        serial_number: What Identify tells, up to 20 characters.
        available_vectors: See `PciDevice`.
        dynamic_msix: See `PciDevice`.
    """

    vendor_id = 0x1B36
    device_id = 0x0010
    class_code = 0x010802
    revision = 0x02
    subsystem_vendor_id = 0x1AF4
    subsystem_id = 0x1100
    interrupt_pin = 1
    bars: tuple[Bar, ...] = (Bar(index=0, size=_BAR_SIZE, wide=True),)
    express = True
    serial: int | None = 0x52_54_00_FF_FE_12_34_56
    reset_methods: tuple[str, ...] = ("flr",)

    def __init__(
        self,
        *,
        blocks: int = 8192,
        content: bytes = b"",
        queues: int = 4,
        serial_number: str = "vfiocore-sim",
        available_vectors: int | None = None,
        dynamic_msix: bool = True,
    ) -> None:
        self.msix: MsixTable | None = MsixTable(
            vectors=queues + 1, bar=0, table=_MSIX_TABLE, pba=_MSIX_PBA
        )
        super().__init__(available_vectors=available_vectors, dynamic_msix=dynamic_msix)
        self._queues = queues
        self._serial_number = serial_number
        size = max(blocks << LBA_SHIFT, -(-len(content) >> LBA_SHIFT) << LBA_SHIFT)
        #: The bytes of the disk; they outlive a reset.
        self.content: bytearray = bytearray(content.ljust(size, b"\0"))
        self.power_on_reset()

    @property
    def blocks(self) -> int:
        """The size of the disk in blocks."""
        return len(self.content) >> LBA_SHIFT

    def power_on_reset(self) -> None:
        """Disabled, without queues."""
        self._registers = bytearray(REG_DOORBELLS)
        # 1024 entries, contiguous queues, ready within 500 ms, the NVM command set, 4 to 64 KiB.
        capabilities = (_MAX_ENTRIES - 1) | 1 << 16 | 1 << 24 | 1 << 37 | _MAX_PAGE_SHIFT << 52
        self._set(REG_CAP, capabilities, 8)
        self._set(REG_VS, _VERSION)
        self._masked = 0
        self._disable()

    def _disable(self) -> None:
        self._submissions: dict[int, SubmissionQueue] = {}
        self._completions: dict[int, CompletionQueue] = {}
        self._features: dict[int, int] = {}
        self._async_events: list[int] = []
        self._set(REG_CSTS, 0)

    # -- registers ------------------------------------------------------------------------------
    def _get(self, offset: int, size: int = 4) -> int:
        return int.from_bytes(self._registers[offset : offset + size], "little")

    def _set(self, offset: int, value: int, size: int = 4) -> None:
        self._registers[offset : offset + size] = value.to_bytes(size, "little")

    def read(self, bar: int, offset: int, size: int) -> int:
        """A register; doorbells read as zero."""
        return self._get(offset, size) if offset + size <= REG_DOORBELLS else 0

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        """Registers and doorbells, 4 bytes each; an 8-byte write is two of them."""
        if size == 8:
            self.write(bar, offset, value & 0xFFFFFFFF, 4)
            self.write(bar, offset + 4, value >> 32, 4)
        elif size == 4 and offset >= REG_DOORBELLS:
            self._ring((offset - REG_DOORBELLS) // 4, value & 0xFFFF)
        elif size == 4:
            self._write_register(offset, value)

    def _write_register(self, offset: int, value: int) -> None:
        if offset in (REG_AQA, REG_ASQ, REG_ASQ + 4, REG_ACQ, REG_ACQ + 4):
            self._set(offset, value)
        elif offset == REG_CC:
            self._configure(value)
        elif offset == REG_INTMS:
            self._mask(self._masked | value)
        elif offset == REG_INTMC:
            self._mask(self._masked & ~value)

    def _mask(self, masked: int) -> None:
        self._masked = masked
        self._set(REG_INTMS, masked)
        self._set(REG_INTMC, masked)
        self._drive_line()

    def _configure(self, value: int) -> None:
        before = self._get(REG_CC)
        self._set(REG_CC, value)
        if value & CC_ENABLE and not before & CC_ENABLE:
            self._enable()
        elif before & CC_ENABLE and not value & CC_ENABLE:
            self._disable()
            self._drive_line()
        if value & _CC_SHUTDOWN:
            self._set(REG_CSTS, self._get(REG_CSTS) | _CSTS_SHUTDOWN_DONE)

    def _enable(self) -> None:
        control = self._get(REG_CC)
        sizes = self._get(REG_AQA)
        submissions, completions = (sizes & 0xFFF) + 1, (sizes >> 16 & 0xFFF) + 1
        bases = self._get(REG_ASQ, 8), self._get(REG_ACQ, 8)
        bad_page = control >> 7 & 0xF > _MAX_PAGE_SHIFT
        if bad_page or min(submissions, completions) < 2 or any(b % self._page for b in bases):
            self._fatal()
            return
        self._submissions[0] = SubmissionQueue(
            ident=0, base=bases[0], size=submissions, completions=0
        )
        self._completions[0] = CompletionQueue(
            ident=0, base=bases[1], size=completions, vector=0, interrupts=True
        )
        self._set(REG_CSTS, CSTS_READY)

    @property
    def _page(self) -> int:
        """The page size that the host configured, in bytes."""
        return 4096 << (self._get(REG_CC) >> 7 & 0xF)

    @property
    def _running(self) -> bool:
        return self._get(REG_CSTS) & (CSTS_READY | CSTS_FATAL) == CSTS_READY

    def _fatal(self) -> None:
        self._set(REG_CSTS, self._get(REG_CSTS) | CSTS_FATAL)

    # -- queues ---------------------------------------------------------------------------------
    def _ring(self, doorbell: int, value: int) -> None:
        """A doorbell: even ones are submission tails, odd ones completion heads."""
        if not self._running:
            return
        queue: SubmissionQueue | CompletionQueue | None
        if doorbell % 2:
            queue = self._completions.get(doorbell // 2)
        else:
            queue = self._submissions.get(doorbell // 2)
        # Invalid Doorbell is an asynchronous event by the standard; here it is passed over.
        if queue is None or value >= queue.size:
            return
        if isinstance(queue, SubmissionQueue):
            queue.tail = value
        else:
            queue.head = value
            self._drive_line()
        try:
            self._process()
        except DmaFault:
            self._fatal()

    def _process(self) -> None:
        for queue in list(self._submissions.values()):
            while self._has_work(queue):
                raw = self.dma_read(queue.advance(), SUBMISSION_SIZE)
                self._execute(queue, Command.parse(raw))

    def _has_work(self, queue: SubmissionQueue) -> bool:
        # A delete command takes a queue away while its commands are looked at.
        if self._submissions.get(queue.ident) is not queue or queue.empty:
            return False
        return not self._completions[queue.completions].full

    def _execute(self, queue: SubmissionQueue, command: Command) -> None:
        handlers = self._io_commands if queue.ident else self._admin_commands
        try:
            result = handlers.get(command.opcode, _unknown)(command)
        except CommandError as error:
            self._complete(queue, command, error.status, 0)
            return
        if result is not None:
            self._complete(queue, command, status.SUCCESS, result)

    def _complete(
        self, submission: SubmissionQueue, command: Command, code: int, result: int
    ) -> None:
        queue = self._completions[submission.completions]
        entry = queue.entry(submission, command.ident, code, result)
        self.dma_write(queue.base + queue.tail * COMPLETION_SIZE, entry)
        queue.advance()
        if not queue.interrupts:
            return
        if self.sends_messages:
            self.raise_irq(queue.vector)
        else:
            self._drive_line()

    def _drive_line(self) -> None:
        """INTx follows the queues that hold something, unless the host masked their vector."""
        if self.sends_messages:
            return
        waiting = any(
            queue.interrupts and not queue.empty and not self._masked >> queue.vector & 1
            for queue in self._completions.values()
        )
        if waiting:
            self.raise_irq()
        else:
            self.lower_irq()

    # -- data -----------------------------------------------------------------------------------
    def _send(self, command: Command, data: bytes) -> None:
        done = 0
        try:
            for iova, size in self._segments(command, len(data)):
                self.dma_write(iova, data[done : done + size])
                done += size
        except DmaFault:
            raise CommandError(status.DATA_TRANSFER_ERROR) from None

    def _receive(self, command: Command, size: int) -> bytes:
        try:
            segments = self._segments(command, size)
            return b"".join(self.dma_read(iova, length) for iova, length in segments)
        except DmaFault:
            raise CommandError(status.DATA_TRANSFER_ERROR) from None

    def _segments(self, command: Command, size: int) -> list[tuple[int, int]]:
        # The whole list first: a bad entry must not leave half a transfer behind.
        return list(prp_segments(command.prp1, command.prp2, size, self._page, self.dma_read))

    # -- admin commands -------------------------------------------------------------------------
    @property
    def _admin_commands(self) -> dict[int, Callable[[Command], int | None]]:
        return {
            ADMIN_DELETE_SQ: self._delete_submission,
            ADMIN_CREATE_SQ: self._create_submission,
            ADMIN_DELETE_CQ: self._delete_completion,
            ADMIN_CREATE_CQ: self._create_completion,
            ADMIN_IDENTIFY: self._identify,
            ADMIN_ABORT: lambda _command: 1,  # every command is done by now: not aborted
            ADMIN_SET_FEATURES: self._set_features,
            ADMIN_GET_FEATURES: self._get_features,
            ADMIN_ASYNC_EVENT: self._request_async_event,
        }

    def _new_queue(self, command: Command, existing: Collection[int]) -> tuple[int, int]:
        """The checks that both kinds share: identifier and size in entries."""
        ident, size = command.dwords[0] & 0xFFFF, (command.dwords[0] >> 16) + 1
        if not 0 < ident <= self._queues or ident in existing:
            raise CommandError(status.INVALID_QUEUE_ID)
        if not 2 <= size <= _MAX_ENTRIES:
            raise CommandError(status.INVALID_QUEUE_SIZE)
        contiguous = command.dwords[1] & 1
        if not contiguous:
            raise CommandError(status.INVALID_FIELD)
        if command.prp1 % self._page:
            raise CommandError(status.PRP_OFFSET_INVALID)
        return ident, size

    def _create_completion(self, command: Command) -> int:
        ident, size = self._new_queue(command, self._completions.keys())
        vector = command.dwords[1] >> 16
        if vector > self._queues:
            raise CommandError(status.INVALID_INTERRUPT_VECTOR)
        self._completions[ident] = CompletionQueue(
            ident=ident,
            base=command.prp1,
            size=size,
            vector=vector,
            interrupts=bool(command.dwords[1] & 2),
        )
        return 0

    def _create_submission(self, command: Command) -> int:
        completions = command.dwords[1] >> 16
        if not completions or completions not in self._completions:
            raise CommandError(status.COMPLETION_QUEUE_INVALID)
        ident, size = self._new_queue(command, self._submissions.keys())
        self._submissions[ident] = SubmissionQueue(
            ident=ident, base=command.prp1, size=size, completions=completions
        )
        return 0

    def _delete_submission(self, command: Command) -> int:
        ident = command.dwords[0] & 0xFFFF
        if not ident or ident not in self._submissions:
            raise CommandError(status.INVALID_QUEUE_ID)
        del self._submissions[ident]
        return 0

    def _delete_completion(self, command: Command) -> int:
        ident = command.dwords[0] & 0xFFFF
        if not ident or ident not in self._completions:
            raise CommandError(status.INVALID_QUEUE_ID)
        if any(queue.completions == ident for queue in self._submissions.values()):
            raise CommandError(status.INVALID_QUEUE_DELETION)
        del self._completions[ident]
        self._drive_line()
        return 0

    def _identify(self, command: Command) -> int:
        kind = command.dwords[0] & 0xFF
        if kind == 0:
            if command.namespace not in (1, _ALL_NAMESPACES):
                raise CommandError(status.INVALID_NAMESPACE)
            data = identify_namespace(self.blocks)
        elif kind == 1:
            data = self._identity.encode()
        elif kind == 2:
            if command.namespace >= _ALL_NAMESPACES - 1:
                raise CommandError(status.INVALID_NAMESPACE)
            data = namespace_list(command.namespace, 1)
        else:
            raise CommandError(status.INVALID_FIELD)
        self._send(command, data)
        return 0

    @property
    def _identity(self) -> ControllerIdentity:
        return ControllerIdentity(
            vendor_id=self.vendor_id,
            serial=self._serial_number,
            model="vfiocore simulated NVMe",
            firmware="1.0",
            version=_VERSION,
            namespaces=1,
            max_transfer=_MAX_TRANSFER,
        )

    def _set_features(self, command: Command) -> int:
        feature = command.dwords[0] & 0xFF
        if feature == FEATURE_NUMBER_OF_QUEUES:
            if 0xFFFF in (command.dwords[1] & 0xFFFF, command.dwords[1] >> 16):
                raise CommandError(status.INVALID_FIELD)
            return self._queue_counts
        if feature not in _STORED_FEATURES:
            raise CommandError(status.INVALID_FIELD)
        self._features[feature] = command.dwords[1]
        return 0

    def _get_features(self, command: Command) -> int:
        feature = command.dwords[0] & 0xFF
        if feature == FEATURE_NUMBER_OF_QUEUES:
            return self._queue_counts
        if feature not in _STORED_FEATURES:
            raise CommandError(status.INVALID_FIELD)
        return self._features.get(feature, 0)

    @property
    def _queue_counts(self) -> int:
        """All I/O queues on offer are allocated, both counts one less than they are."""
        return (self._queues - 1) << 16 | (self._queues - 1)

    def _request_async_event(self, command: Command) -> None:
        """Held until an event comes; none ever does."""
        if len(self._async_events) >= _MAX_ASYNC_EVENTS:
            raise CommandError(status.ASYNC_EVENT_LIMIT)
        self._async_events.append(command.ident)

    # -- I/O commands ---------------------------------------------------------------------------
    @property
    def _io_commands(self) -> dict[int, Callable[[Command], int | None]]:
        return {IO_FLUSH: self._flush, IO_WRITE: self._write_blocks, IO_READ: self._read_blocks}

    def _flush(self, command: Command) -> int:
        if command.namespace not in (1, _ALL_NAMESPACES):
            raise CommandError(status.INVALID_NAMESPACE)
        return 0

    def _read_blocks(self, command: Command) -> int:
        at = self._range(command)
        self._send(command, bytes(self.content[at]))
        return 0

    def _write_blocks(self, command: Command) -> int:
        at = self._range(command)
        self.content[at] = self._receive(command, at.stop - at.start)
        return 0

    def _range(self, command: Command) -> slice:
        """The bytes of the disk that a read or write means."""
        if command.namespace != 1:
            raise CommandError(status.INVALID_NAMESPACE)
        block = command.dwords[0] | command.dwords[1] << 32
        count = (command.dwords[2] & 0xFFFF) + 1
        if block + count > self.blocks:
            raise CommandError(status.LBA_OUT_OF_RANGE)
        if count << LBA_SHIFT > 4096 << _MAX_TRANSFER:
            raise CommandError(status.INVALID_FIELD)
        return slice(block << LBA_SHIFT, (block + count) << LBA_SHIFT)


def _unknown(_command: Command) -> int:
    raise CommandError(status.INVALID_OPCODE)
