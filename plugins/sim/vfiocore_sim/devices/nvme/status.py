"""NVMe status codes, as commands end with them (NVM Express Base Specification, 1.4)."""

from __future__ import annotations

SUCCESS = 0x000
INVALID_OPCODE = 0x001
INVALID_FIELD = 0x002
DATA_TRANSFER_ERROR = 0x004
INVALID_NAMESPACE = 0x00B
PRP_OFFSET_INVALID = 0x013
LBA_OUT_OF_RANGE = 0x080
#: Status code type 1, command specific, in the bits above the code.
COMPLETION_QUEUE_INVALID = 0x100
INVALID_QUEUE_ID = 0x101
INVALID_QUEUE_SIZE = 0x102
ASYNC_EVENT_LIMIT = 0x105
INVALID_INTERRUPT_VECTOR = 0x108
INVALID_QUEUE_DELETION = 0x10C


class CommandError(Exception):
    """A command ends with `status` instead of success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status:#05x}")
        self.status = status
