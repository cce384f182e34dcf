from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.memory._intervals import IntervalIndex

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=12)


@given(INTERVALS, st.integers(-5, 70), st.integers(1, 50), st.sets(st.integers(0, 11)))
def test_it_finds_what_asking_each_interval_finds(
    intervals: list[tuple[int, int]], low: int, length: int, gone: set[int]
) -> None:
    index = IntervalIndex[int]()
    for number, (start, size) in enumerate(intervals):
        index.add(start, size, number, number)
    for number in gone & set(range(len(intervals))):
        index.remove(*intervals[number], number)
    there = [number for number in range(len(intervals)) if number not in gone]

    high = low + length
    covering = [n for n in there if any(low <= at < high for at in range(*_ends(intervals[n])))]
    assert sorted(index.overlapping(low, high)) == covering
    assert sorted(index) == there


def _ends(interval: tuple[int, int]) -> tuple[int, int]:
    start, size = interval
    return start, start + size


def test_one_that_takes_every_address_is_found_everywhere() -> None:
    index = IntervalIndex[str]()
    index.add(0, 1 << 64, 1, "all")

    assert [*index.overlapping(0, 1), *index.overlapping((1 << 64) - 1, 1 << 64)] == ["all", "all"]


def test_what_was_not_entered_cannot_be_removed() -> None:
    index = IntervalIndex[str]()
    index.add(0x1000, 16, 1, "one")

    with pytest.raises(KeyError):
        index.remove(0x1000, 16, 2)
    with pytest.raises(KeyError):
        index.remove(0x1000, 64, 1)
