from __future__ import annotations

import random
from bisect import bisect_left, insort

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfiocore.memory._chunks import CHUNK, SortedChunks

MANY = 5 * CHUNK


def test_what_is_not_there_cannot_be_removed() -> None:
    entries = SortedChunks([(2, "two"), (4, "four")])

    for key in (1, 3, 5):
        with pytest.raises(KeyError):
            entries.remove((key,))
    with pytest.raises(KeyError):
        SortedChunks[tuple[int, str]]().remove((1,))
    assert list(entries) == [(2, "two"), (4, "four")]


def test_entries_are_found_by_the_first_members() -> None:
    entries = SortedChunks([(1, 0, "a"), (1, 1, "b"), (2, 0, "c")])

    assert list(entries.between((1,), (2,))) == [(1, 0, "a"), (1, 1, "b")]
    assert entries.before((1, 1)) == (1, 0, "a")
    entries.remove((1, 1))
    assert list(entries) == [(1, 0, "a"), (2, 0, "c")]


def test_an_empty_one_has_nothing_anywhere() -> None:
    entries = SortedChunks[tuple[int]]()

    assert not entries
    assert entries.before((5,)) is None
    assert list(entries.between((0,), (9,))) == []


@settings(max_examples=15, deadline=None)
@given(st.integers(), st.integers(0, MANY))
def test_it_is_a_sorted_list_while_it_grows_and_shrinks(seed: int, size: int) -> None:
    chance = random.Random(seed)
    model = sorted(chance.sample(range(10 * MANY), size))
    entries = SortedChunks((number,) for number in model)
    for target in (chance.randint(0, MANY), chance.randint(0, MANY), 0):
        while len(model) < target:
            number = chance.randrange(10 * MANY)
            if (at := bisect_left(model, number)) == len(model) or model[at] != number:
                insort(model, number)
                entries.add((number,))
        while len(model) > target:
            entries.remove((model.pop(chance.randrange(len(model))),))
        low, high = sorted(chance.sample(range(10 * MANY), 2))
        at, end = bisect_left(model, low), bisect_left(model, high)

        assert list(entries) == [(number,) for number in model]
        assert len(entries) == len(model)
        assert list(entries.between((low,), (high,))) == [(number,) for number in model[at:end]]
        assert entries.before((low,)) == ((model[at - 1],) if at else None)
