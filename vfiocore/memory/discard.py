"""RAM that is given and taken in blocks (virtio-mem), and who may take memory without asking."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeAlias

from attrs import define, field
from attrs.setters import frozen as fixed

from vfiocore.errors import BusyError
from vfiocore.memory._audience import Audience
from vfiocore.memory.region import Ram

Runs: TypeAlias = Sequence[tuple[int, int]]
"""Stretches of whole blocks by rising offset, ``(offset, size)`` in bytes; none touches the next."""

_DISCARDED, _POPULATED = 0, 1


class DiscardListener(Protocol):
    """Follows the blocks of a `DiscardableRam`. A call that raises has had no effect."""

    def populate(self, ram: DiscardableRam, runs: Runs) -> None:
        """Blocks come; one that cannot follow raises, and they do not come."""

    def discard(self, ram: DiscardableRam, runs: Runs) -> None:
        """Blocks go: they must not be used once this returns."""


@define(eq=False)
class DiscardableRam(Ram):
    """RAM of which only the populated blocks may be used; QEMU's RAM with a ``RamDiscardManager``.

    It begins with every block discarded. Devices reach the populated ones, each mapped by
    itself, so that each can go by itself: mappings go as a whole. Where threads populate and
    discard while others change the memory, all of them hold the session's lock.

    Attributes:
        block_size: What is populated and discarded at once, in bytes: a power of two. Devices
            are shown a block only if blocks lie on whole pages of the host.
    """

    block_size: int = field(on_setattr=fixed)
    _state: bytearray = field(init=False, repr=False)
    _holds: Counter[int] = field(factory=Counter, init=False, repr=False)
    _audience: Audience[tuple[int, int]] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.block_size <= 0 or self.block_size & (self.block_size - 1):
            raise ValueError(f"{self.name}: blocks of {self.block_size:#x} bytes, no power of two")
        Ram.__attrs_post_init__(self)
        self._state = bytearray(self.backing.size // self.block_size)
        self._audience = Audience(self.name)

    @property
    def populated(self) -> Runs:
        """What is populated."""
        return self._runs(0, self.size, _POPULATED)

    @property
    def populated_bytes(self) -> int:
        """How much is populated, in bytes."""
        return self._state.count(_POPULATED, 0, self.size // self.block_size) * self.block_size

    def discarded_blocks(self, offset: int, size: int) -> int:
        """How many of the blocks that have one of the `size` bytes at `offset` are discarded."""
        blocks = self._blocks_of(offset, size)
        return self._state.count(_DISCARDED, blocks.start, blocks.stop)

    def is_populated(self, offset: int, size: int) -> bool:
        """True if every block is that has one of the `size` bytes at `offset`."""
        return not self.discarded_blocks(offset, size)

    def populate(self, offset: int, size: int) -> None:
        """Give the blocks of a range to everybody, or to nobody; those that have been stay.

        The memory must be there before: a device may reach it before this returns.

        Raises:
            ValueError: The range is not of whole blocks, or not inside.
            DmaError: A container refused: DmaLimitError (ENOSPC) without entries for as many
                mappings, DmaMemlockError (ENOMEM) for too much locked memory, and others.
            Exception: What another listener raised.

        Guarantees:
            After an error every block is what it was, for everybody.
        """
        self._check_blocks(offset, size)
        runs = self._runs(offset, size, _DISCARDED)
        if runs:
            self._audience.tell_come(runs)
            self._record(runs, _POPULATED)

    def discard(self, offset: int, size: int) -> None:
        """Take the blocks of a range from everybody, or from nobody; those that are gone stay so.

        Once this returns no device reaches them, and the memory may be given back to the host.

        Raises:
            ValueError: The range is not of whole blocks, or not inside.
            BusyError: EBUSY, a block is held, as by a translation of an `IommuRegion`.
            DmaError: A container cannot unmap.
            Exception: What another listener raised.

        Guarantees:
            After an error every block is what it was, for everybody; what could not be restored
            is in the error's notes.
        """
        self._check_blocks(offset, size)
        self._check_not_held(offset, size)
        runs = self._runs(offset, size, _POPULATED)
        if runs:
            self._audience.tell_go(runs)
            self._record(runs, _DISCARDED)

    def hold(self, offset: int, size: int) -> None:
        """Keep the blocks that have one of the bytes from being discarded, until `release`.

        Raises:
            ValueError: One of them is not populated.
        """
        if not self.is_populated(offset, size):
            raise ValueError(f"{self.name}: {size:#x} bytes at {offset:#x} are not populated")
        self._holds.update(self._blocks_of(offset, size))

    def release(self, offset: int, size: int) -> None:
        """Give up a `hold` of the same bytes."""
        for block in self._blocks_of(offset, size):
            self._holds[block] -= 1
            if not self._holds[block]:
                del self._holds[block]

    def add_listener(self, listener: DiscardListener) -> None:
        """Tell `listener` what is populated, and from then on every change.

        Raises:
            ValueError: It listens already.
            Exception: What it raised; then it was not added.
        """
        self._audience.join(
            listener,
            lambda runs: listener.populate(self, runs),
            lambda runs: listener.discard(self, runs),
            self.populated,
        )

    def remove_listener(self, listener: DiscardListener) -> None:
        """Tell `listener` that all is discarded, and no more after that.

        Raises:
            ValueError: It does not listen.
            Exception: What it raised; then it listens still.
        """
        self._audience.leave(listener, self.populated)

    def _check_size(self, size: int) -> None:
        Ram._check_size(self, size)
        if size % self.block_size:
            raise ValueError(
                f"{self.name}: {size:#x} bytes are no whole blocks of {self.block_size:#x}"
            )

    def _check_blocks(self, offset: int, size: int) -> None:
        if (offset | size) % self.block_size:
            raise ValueError(
                f"{self.name}: {size:#x} bytes at {offset:#x} are no whole blocks"
                f" of {self.block_size:#x}"
            )
        if size < 0 or not 0 <= offset <= self.size - size:
            raise ValueError(
                f"{self.name}: {size:#x} bytes at {offset:#x} are not in its {self.size:#x}"
            )

    def _check_not_held(self, offset: int, size: int) -> None:
        few, many = sorted((self._blocks_of(offset, size), self._holds), key=len)
        for block in few:
            if block in many:
                raise BusyError(
                    errno.EBUSY,
                    "discard",
                    self.name,
                    f"the block at {block * self.block_size:#x} is held",
                    "unmap what a virtual IOMMU translates to it first",
                )

    def _blocks_of(self, offset: int, size: int) -> range:
        """The numbers of the blocks that have one of the `size` bytes at `offset`."""
        return range(offset // self.block_size, -(-(offset + size) // self.block_size))

    def _runs(self, offset: int, size: int, wanted: int) -> Runs:
        """The stretches of a range whose blocks are as `wanted`."""
        block, state = self.block_size, self._state
        runs: list[tuple[int, int]] = []
        end = (offset + size) // block
        at = state.find(wanted, offset // block, end)
        while at >= 0:
            stop = state.find(1 - wanted, at, end)
            stop = end if stop < 0 else stop
            runs.append((at * block, (stop - at) * block))
            at = state.find(wanted, stop, end)
        return tuple(runs)

    def _record(self, runs: Runs, state: int) -> None:
        block = self.block_size
        for offset, size in runs:
            count = size // block
            first = offset // block
            self._state[first : first + count] = bytes([state]) * count


@define(eq=False)
class DiscardHold:
    """A say over uncoordinated discard, until it is closed; a context manager."""

    _release: Callable[[], None] | None

    def close(self) -> None:
        """Give it up. Idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@define(eq=False)
class RamDiscardPolicy:
    """Who may take memory from a guest without telling: a balloon, or a device that pins it.

    A balloon gives pages back to the host behind everybody's back (``madvise``, ``fallocate``). A
    device that has all of a guest's memory pinned would go on using the old pages, and what the
    guest gets when it takes the pages back would be others. So the two exclude each other. RAM
    that is discarded in the open, as `DiscardableRam`, is always allowed.

    One policy is for one guest. It is safe to use from any thread.
    """

    _pinning: list[str] = field(factory=list, init=False)
    _balloons: list[str] = field(factory=list, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    @property
    def forbidden_by(self) -> tuple[str, ...]:
        """The devices that pin memory, in order of arrival."""
        with self._lock:
            return tuple(self._pinning)

    @property
    def uncoordinated_allowed(self) -> bool:
        """True if no device pins memory."""
        return not self.forbidden_by

    def begin_uncoordinated(self, who: str = "balloon") -> DiscardHold:
        """Take memory without telling, until the hold is closed; no device may pin it meanwhile.

        Args:
            who: What messages call it.

        Raises:
            BusyError: EBUSY, devices pin memory; the text names them.
        """
        with self._lock:
            if self._pinning:
                raise BusyError(
                    errno.EBUSY,
                    "discard RAM",
                    who,
                    f"memory is pinned for {', '.join(self._pinning)}, which would go on using"
                    " what is discarded",
                    "discard in coordination (DiscardableRam), or close the devices first;"
                    " a mediated device that pins only what it uses takes x-balloon-allowed=on",
                )
            return self._hold(self._balloons, who)

    def pin(self, device: str) -> DiscardHold:
        """Forbid that memory is taken without telling, until the hold is closed.

        Args:
            device: What messages call it.

        Raises:
            BusyError: EBUSY, somebody takes memory without telling.
        """
        with self._lock:
            if self._balloons:
                raise BusyError(
                    errno.EBUSY,
                    "pin RAM",
                    device,
                    f"memory is discarded without telling by {', '.join(self._balloons)}, and the"
                    " device would go on using it",
                    "end it first (close what begin_uncoordinated gave)",
                )
            return self._hold(self._pinning, device)

    def _hold(self, holders: list[str], name: str) -> DiscardHold:
        holders.append(name)

        def release() -> None:
            with self._lock:
                holders.remove(name)

        return DiscardHold(release)
