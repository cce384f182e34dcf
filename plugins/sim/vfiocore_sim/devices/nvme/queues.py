"""Submission and completion queues in guest memory."""

from __future__ import annotations

import struct

from attrs import define, frozen

SUBMISSION_SIZE = 64
COMPLETION_SIZE = 16


@frozen(kw_only=True)
class Command:
    """The fields of a submission queue entry that this controller looks at."""

    opcode: int
    ident: int
    namespace: int
    prp1: int
    prp2: int
    #: Command dwords 10 to 15.
    dwords: tuple[int, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Command:
        """Decode 64 bytes; NVMe is little-endian by definition."""
        first, namespace = struct.unpack_from("<II", raw, 0)
        prp1, prp2 = struct.unpack_from("<QQ", raw, 24)
        return cls(
            opcode=first & 0xFF,
            ident=first >> 16,
            namespace=namespace,
            prp1=prp1,
            prp2=prp2,
            dwords=struct.unpack_from("<6I", raw, 40),
        )


@define(kw_only=True)
class SubmissionQueue:
    """Where the host puts commands: `base` is an IOVA, `size` counts entries."""

    ident: int
    base: int
    size: int
    completions: int
    head: int = 0
    tail: int = 0

    @property
    def empty(self) -> bool:
        """True when there is nothing to fetch."""
        return self.head == self.tail

    def advance(self) -> int:
        """The IOVA of the entry at the head, which moves on."""
        iova = self.base + self.head * SUBMISSION_SIZE
        self.head = (self.head + 1) % self.size
        return iova


@define(kw_only=True)
class CompletionQueue:
    """Where the controller reports: `base` is an IOVA, `size` counts entries."""

    ident: int
    base: int
    size: int
    vector: int
    interrupts: bool
    head: int = 0
    tail: int = 0
    phase: int = 1

    @property
    def full(self) -> bool:
        """True when the host must take entries out first."""
        return (self.tail + 1) % self.size == self.head

    @property
    def empty(self) -> bool:
        """True when the host has taken out everything."""
        return self.head == self.tail

    def entry(self, submission: SubmissionQueue, ident: int, status: int, result: int) -> bytes:
        """The 16 bytes of a completion at the tail, with the phase of this round."""
        word = status << 1 | self.phase
        return struct.pack("<IIHHHH", result, 0, submission.head, submission.ident, ident, word)

    def advance(self) -> None:
        """The entry at the tail is written; a new round turns the phase."""
        self.tail += 1
        if self.tail == self.size:
            self.tail = 0
            self.phase ^= 1
