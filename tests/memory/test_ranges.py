from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.memory import FULL_RANGE, IovaRange, intersect, normalise, subtract

SPACE = range(64)
RANGES = st.lists(
    st.tuples(st.sampled_from(SPACE), st.sampled_from(SPACE)).map(
        lambda ends: IovaRange(min(ends), max(ends))
    ),
    max_size=6,
)


def addresses(ranges: tuple[IovaRange, ...] | list[IovaRange]) -> set[int]:
    return {address for item in ranges for address in range(item.start, item.last + 1)}


def is_normal(ranges: tuple[IovaRange, ...]) -> bool:
    return all(a.last + 1 < b.start for a, b in pairwise(ranges))


def test_a_range_includes_its_last_byte() -> None:
    assert IovaRange(0x1000, 0x1FFF).size == 0x1000
    assert IovaRange(7, 7).size == 1


def test_the_full_range_is_all_of_64_bits() -> None:
    assert FULL_RANGE.size == 1 << 64
    assert FULL_RANGE.covers(0xFFFF_FFFF_FFFF_F000, 0x1000)


@pytest.mark.parametrize(("start", "last"), [(1, 0), (-1, 5), (0, 1 << 64)])
def test_a_range_that_is_reversed_or_not_in_64_bits_is_refused(start: int, last: int) -> None:
    with pytest.raises(ValueError, match="no range of IOVAs"):
        IovaRange(start, last)


@pytest.mark.parametrize(
    ("iova", "size", "inside"),
    [(0x1000, 0x1000, True), (0xFFF, 2, False), (0x1FFF, 1, True), (0x1FFF, 2, False)],
)
def test_a_range_covers_what_lies_wholly_inside(iova: int, size: int, inside: bool) -> None:
    assert IovaRange(0x1000, 0x1FFF).covers(iova, size) is inside


def test_a_range_reads_in_hex() -> None:
    assert str(IovaRange(0xFEE00000, 0xFEEFFFFF)) == "0xfee00000-0xfeefffff"


def test_ranges_that_touch_become_one() -> None:
    assert normalise([IovaRange(4, 7), IovaRange(0, 3)]) == (IovaRange(0, 7),)


def test_taking_the_msi_window_out_leaves_the_two_sides() -> None:
    usable = subtract([FULL_RANGE], IovaRange(0xFEE00000, 0xFEEFFFFF))

    assert usable == (IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, (1 << 64) - 1))


@given(RANGES)
def test_normalising_keeps_the_addresses(ranges: list[IovaRange]) -> None:
    result = normalise(ranges)

    assert addresses(result) == addresses(ranges)
    assert is_normal(result)


@given(RANGES, RANGES)
def test_the_intersection_has_the_addresses_of_both(a: list[IovaRange], b: list[IovaRange]) -> None:
    result = intersect(a, b)

    assert addresses(result) == addresses(a) & addresses(b)
    assert is_normal(result)


@given(RANGES, RANGES.filter(bool))
def test_subtracting_takes_exactly_the_hole(a: list[IovaRange], holes: list[IovaRange]) -> None:
    result = subtract(a, holes[0])

    assert addresses(result) == addresses(a) - addresses([holes[0]])
    assert is_normal(result)
