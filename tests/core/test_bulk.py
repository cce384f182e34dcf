from __future__ import annotations

import errno
import struct
from array import array

import pytest
from attrs import define, field

from vfiocore.bulk import ROWS, BulkIoctl
from vfiocore.errors import DmaError
from vfiocore.memory import DmaBatch, DmaMapping

from .scripted import ScriptedHost

FD, REQUEST = 7, 0x3B71
COUNT = 2 * ROWS + 88
BATCH = DmaBatch([DmaMapping(n * 0x2000, 0x1000, n) for n in range(COUNT)])


@define(eq=False)
class Kernel(ScriptedHost):
    """Keeps the bytes of each ioctl; refuses, or is interrupted, where it is told to."""

    structs: list[bytes] = field(factory=list)
    raises: dict[int, BaseException] = field(factory=dict)
    comes_back: dict[int, int] = field(factory=dict)
    """What it writes into the last word of a struct."""

    def ioctl(self, fd: int, request: int, arg: object = 0) -> int:
        assert (fd, request) == (FD, REQUEST)
        assert isinstance(arg, memoryview)
        number = len(self.structs)
        self.structs.append(bytes(arg))
        if number in self.raises:
            raise self.raises[number]
        if number in self.comes_back:
            arg[-8:] = struct.pack("=Q", self.comes_back[number])
        return 0


@define(eq=False)
class Caller:
    """Issues the batch, and keeps what it was told."""

    kernel: Kernel
    refused: list[DmaMapping] = field(factory=list)
    undone: list[DmaMapping] = field(factory=list)
    other: list[tuple[DmaMapping, int]] = field(factory=list)

    def issue(self, batch: DmaBatch = BATCH) -> None:
        bulk = BulkIoctl(self.kernel, FD, REQUEST, 24)
        columns = batch.columns
        assert columns is not None
        head = array("Q", [9]) * len(batch)
        bulk.issue(batch, (head, columns.iovas, columns.vaddrs), self.refuse, self.undone.append)

    def issue_confirmed(self) -> None:
        bulk = BulkIoctl(self.kernel, FD, REQUEST, 16)
        columns = BATCH.columns
        assert columns is not None
        words = (columns.iovas, columns.sizes)
        undo = self.undone.append
        bulk.issue_confirmed(BATCH, words, 1, self.refuse, self.differs, undo)

    def differs(self, mapping: DmaMapping, came_back: int) -> None:
        self.other.append((mapping, came_back))
        raise DmaError(errno.EIO, "unmap", "kernel")

    def refuse(self, error: OSError, mapping: DmaMapping) -> None:
        self.refused.append(mapping)
        if error.errno != errno.EBUSY:
            raise DmaError(error.errno or 0, "map", "kernel") from error


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def caller(kernel: Kernel) -> Caller:
    return Caller(kernel)


@pytest.mark.parametrize("count", [1, ROWS - 1, ROWS, ROWS + 1, COUNT])
def test_each_mapping_is_one_ioctl_with_its_numbers(
    kernel: Kernel, caller: Caller, count: int
) -> None:
    caller.issue(DmaBatch(BATCH[:count]))

    assert kernel.structs == [struct.pack("=3Q", 9, m.iova, m.vaddr) for m in BATCH[:count]]


@pytest.mark.parametrize("bad", [0, 1, ROWS - 1, ROWS, ROWS + 1, COUNT - 1])
def test_a_refusal_is_told_with_its_mapping_and_those_before_are_undone_last_first(
    kernel: Kernel, caller: Caller, bad: int
) -> None:
    kernel.raises = {bad: OSError(errno.EIO, "as asked")}
    with pytest.raises(DmaError) as caught:
        caller.issue()

    assert caught.value.index == bad
    assert caller.refused == [BATCH[bad]]
    assert caller.undone == list(reversed(BATCH[:bad]))
    assert len(kernel.structs) == bad + 1


def test_a_refusal_that_could_be_mended_is_not_the_end(kernel: Kernel, caller: Caller) -> None:
    kernel.raises = {ROWS + 3: OSError(errno.EBUSY, "as asked")}
    caller.issue()

    assert caller.refused == [BATCH[ROWS + 3]]
    assert len(kernel.structs) == COUNT
    assert caller.undone == []


def test_an_interruption_undoes_what_was_done(kernel: Kernel, caller: Caller) -> None:
    kernel.raises = {ROWS + 3: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        caller.issue()

    assert caller.undone == list(reversed(BATCH[: ROWS + 3]))


def test_what_comes_back_as_it_was_is_confirmed(caller: Caller, kernel: Kernel) -> None:
    caller.issue_confirmed()

    assert kernel.structs == [struct.pack("=2Q", m.iova, m.size) for m in BATCH]
    assert (caller.other, caller.undone) == ([], [])


@pytest.mark.parametrize("bad", [0, 1, ROWS - 1, ROWS, ROWS + 1, COUNT - 1])
def test_what_comes_back_as_something_else_is_told_and_all_that_was_done_is_undone(
    kernel: Kernel, caller: Caller, bad: int
) -> None:
    kernel.comes_back = {bad: 5}
    with pytest.raises(DmaError) as caught:
        caller.issue_confirmed()

    assert caught.value.index == bad
    assert caller.other == [(BATCH[bad], 5)]
    assert caller.undone == list(reversed(BATCH[: len(kernel.structs)]))


@pytest.mark.parametrize("bad", [0, ROWS, COUNT - 1])
def test_a_refusal_among_what_is_to_be_confirmed_is_told_with_its_mapping(
    kernel: Kernel, caller: Caller, bad: int
) -> None:
    kernel.raises = {bad: OSError(errno.EIO, "as asked")}
    with pytest.raises(DmaError) as caught:
        caller.issue_confirmed()

    assert caught.value.index == bad
    assert caller.undone == list(reversed(BATCH[:bad]))


def test_batches_of_one_call_after_another_do_not_mix(kernel: Kernel) -> None:
    bulk = BulkIoctl(kernel, FD, REQUEST, 8)
    for batch in (DmaBatch(BATCH[:3]), DmaBatch(BATCH[3:5])):
        assert batch.columns is not None
        bulk.issue(batch, (batch.columns.iovas,), lambda error, mapping: None, lambda mapping: None)

    assert kernel.structs == [struct.pack("=Q", mapping.iova) for mapping in BATCH[:5]]
