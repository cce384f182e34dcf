from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.host import LinuxHost
from vfiocore.memory.populate import populate, slices

PAGE = mmap.PAGESIZE
MIB = 1 << 20


@given(
    offset=st.integers(0, 1 << 40),
    length=st.integers(1, 1 << 40),
    step=st.sampled_from([PAGE, 2 * MIB, 1 << 30]),
    count=st.integers(-1, 64),
)
def test_slices_are_neighbours_that_make_up_the_whole(
    offset: int, length: int, step: int, count: int
) -> None:
    found = slices(offset, length, step=step, count=count)

    assert 1 <= len(found) <= max(count, 1)
    assert [start for start, _ in found[1:]] == [start + size for start, size in found[:-1]]
    assert (found[0][0], sum(size for _, size in found)) == (offset, length)


@given(length=st.integers(1, 1 << 40), count=st.integers(1, 64))
def test_slices_are_cut_between_pages_and_of_about_one_size(length: int, count: int) -> None:
    step = 2 * MIB
    found = slices(0, length, step=step, count=count)

    assert all(size > 0 for _, size in found)
    assert all(start % step == 0 for start, _ in found)
    assert max(size for _, size in found) - min(size for _, size in found) < 2 * step


class Counting(LinuxHost):
    """A machine with many CPUs, which notes what is to be filled."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.pieces: list[tuple[int, int]] = []

    def cpu_count(self) -> int:
        return self.cpus

    def madvise(self, memory: mmap.mmap, advice: int, offset: int, length: int) -> None:
        self.pieces.append((offset, length))


@pytest.mark.parametrize(
    ("size", "cpus", "threads"),
    [(PAGE, 64, 1), (127 * MIB, 64, 1), (128 * MIB, 64, 2), (1024 * MIB, 3, 3), (1 << 40, 64, 8)],
)
def test_a_thread_has_to_be_worth_it_and_there_are_a_few_at_most(
    size: int, cpus: int, threads: int
) -> None:
    host = Counting(cpus)
    with mmap.mmap(-1, PAGE) as memory:
        populate(host, memory, 0, size, step=2 * MIB)

    assert len(host.pieces) == threads
