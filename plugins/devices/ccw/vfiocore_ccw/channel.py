"""Channel programs: format-1 channel command words, 8 bytes each, big-endian.

Source: z/Architecture Principles of Operation, chapter "Basic I/O Functions"; limits of
vfio_ccw_cp.c:ccwchain_calc_length.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Self

from attrs import Attribute, define, evolve, field, frozen

from vfiocore.uapi import s390_cio

CCW_SIZE = ctypes.sizeof(s390_cio.CCW1)
"""Bytes of one CCW, and its alignment."""

ADDRESS_LIMIT = 1 << 31
"""Format-1 CCWs and the channel program address have 31 bits."""

CHAIN_LIMIT = 256
"""The most CCWs in a row that vfio_ccw copies (CCWCHAIN_LEN_MAX)."""

CHAINING = s390_cio.CCW_FLAG_CC | s390_cio.CCW_FLAG_DC


def _below(limit: int, _ccw: object, attribute: Attribute[int], value: int) -> None:
    if not 0 <= value < limit:
        raise ValueError(f"a CCW's {attribute.name} is below {limit:#x}, not {value:#x}")


def _bits(count: int) -> Callable[[object, Attribute[int], int], None]:
    return partial(_below, 1 << count)


@frozen
class Ccw:
    """One channel command word of format 1.

    Attributes:
        command: The command code; what it means is the device's, but for
            ``CCW_CMD_TIC`` (go on elsewhere) and the basic ones of `vfiocore.uapi.s390_cio`.
        address: The iova of the data, below 2 GiB; of a list of addresses with ``CCW_FLAG_IDA``.
        count: Bytes of data.
        flags: ``CCW_FLAG_*``.

    Raises:
        ValueError: A value does not fit its field.
    """

    command: int = field(validator=_bits(8))
    address: int = field(default=0, validator=_bits(31))
    count: int = field(default=0, validator=_bits(16))
    flags: int = field(default=0, validator=_bits(8))

    def to_bytes(self) -> bytes:
        """The 8 bytes, as they lie in memory."""
        return bytes(s390_cio.CCW1(self.command, self.flags, self.count, self.address))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read 8 bytes; ValueError if the address has its highest bit set, or for another length."""
        if len(data) != CCW_SIZE:
            raise ValueError(f"a CCW has {CCW_SIZE} bytes, not {len(data)}")
        raw = s390_cio.CCW1.from_buffer_copy(data)
        return cls(raw.cmd_code, raw.cda, raw.count, raw.flags)


@define(eq=False)
class ChannelProgram:
    """CCWs in the order in which the channel takes them; chaining flags are set by `to_bytes`.

    ::

        program = ChannelProgram()
        program.command(CCW_CMD_SENSE_ID, data.iova, 20, sli=True)
        memory.write(0, program.to_bytes())
    """

    _ccws: list[Ccw] = field(factory=list)

    @classmethod
    def of(cls, *ccws: Ccw) -> Self:
        """A program of CCWs that are made already."""
        return cls(list(ccws))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read CCWs back, chaining flags included; ValueError if one is cut off."""
        return cls(
            [Ccw.from_bytes(data[at : at + CCW_SIZE]) for at in range(0, len(data), CCW_SIZE)]
        )

    def command(
        self, code: int, address: int = 0, count: int = 0, *, flags: int = 0, sli: bool = False
    ) -> Self:
        """Add a command; it is chained to what was added before.

        Args:
            code: The command code.
            address: The iova of its data.
            count: Bytes of data.
            flags: Further ``CCW_FLAG_*``.
            sli: Do not end the program when the device has more or less data than `count`.
        """
        return self._add(Ccw(code, address, count, flags | _sli(sli)))

    def data(self, address: int, count: int, *, sli: bool = False) -> Self:
        """Continue the data of the last command elsewhere (data chaining).

        Raises:
            ValueError: There is no command whose data could go on.
        """
        if not self._ccws or self._ccws[-1].command == s390_cio.CCW_CMD_TIC:
            raise ValueError("data follows a command, and there is none")
        last = self._ccws[-1]
        self._ccws[-1] = evolve(last, flags=last.flags | s390_cio.CCW_FLAG_DC)
        # The command code of a CCW that continues data is ignored, unless it is a TIC.
        return self._add(Ccw(last.command, address, count, _sli(sli)))

    def jump(self, address: int) -> Self:
        """Go on with the CCW at the iova `address` (transfer in channel)."""
        return self._add(Ccw(s390_cio.CCW_CMD_TIC, address))

    def to_bytes(self) -> bytes:
        """The program as it lies in memory, 8-byte aligned: command chaining up to the last CCW.

        Raises:
            ValueError: It is empty or longer than vfio_ccw takes, or the last CCW chains to nothing.
        """
        if not 1 <= len(self._ccws) <= CHAIN_LIMIT:
            raise ValueError(f"a program has 1 to {CHAIN_LIMIT} CCWs, not {len(self._ccws)}")
        *body, last = self._ccws
        if last.flags & CHAINING:
            raise ValueError("the last CCW chains to a next one, and there is none")
        return b"".join(_chained(ccw).to_bytes() for ccw in body) + last.to_bytes()

    def __iter__(self) -> Iterator[Ccw]:
        return iter(self._ccws)

    def __len__(self) -> int:
        return len(self._ccws)

    def _add(self, ccw: Ccw) -> Self:
        self._ccws.append(ccw)
        return self


def pack_idaws(addresses: Iterable[int]) -> bytes:
    """A list of format-2 indirect data address words: 8 bytes each, big-endian.

    For data that is not contiguous or lies above 2 GiB: the CCW has ``CCW_FLAG_IDA`` and the iova
    of this list, the start has ``idaw64=True``. Every address but the first is that of a 4 KiB
    block.
    """
    return b"".join(address.to_bytes(8, "big") for address in addresses)


def _sli(wanted: bool) -> int:  # noqa: FBT001 - one flag, passed on
    return s390_cio.CCW_FLAG_SLI if wanted else 0


def _chained(ccw: Ccw) -> Ccw:
    # A TIC has no flags of its own, and data chaining comes before command chaining.
    if ccw.command == s390_cio.CCW_CMD_TIC or ccw.flags & s390_cio.CCW_FLAG_DC:
        return ccw
    return evolve(ccw, flags=ccw.flags | s390_cio.CCW_FLAG_CC)
