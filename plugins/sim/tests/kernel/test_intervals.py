"""Arithmetic on address ranges."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vfiocore_sim.kernel.intervals import IntervalMap, Span, union, without

spans = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda s: Span(s[0], s[0] + s[1])),
    max_size=8,
)


def addresses(pieces: list[Span]) -> set[int]:
    return {address for piece in pieces for address in range(piece.first, piece.last + 1)}


@given(spans)
def test_a_union_has_the_same_addresses_in_order_with_gaps(pieces: list[Span]) -> None:
    merged = union(pieces)
    assert addresses(merged) == addresses(pieces)
    assert all(one.last + 1 < other.first for one, other in pairwise(merged))


@given(spans, spans)
def test_holes_are_taken_out_and_nothing_else(pieces: list[Span], holes: list[Span]) -> None:
    assert addresses(without(pieces, holes)) == addresses(pieces) - addresses(holes)


class Item:
    def __init__(self, span: Span) -> None:
        self.span = span


@given(spans, spans, st.integers(0, 50))
def test_an_interval_map_finds_what_a_linear_search_finds(
    wanted: list[Span], removed: list[Span], address: int
) -> None:
    items: IntervalMap[Item] = IntervalMap()
    kept: list[Item] = []
    for span in wanted:
        if not any(span.meets(item.span) for item in kept):
            kept.append(Item(span))
            items.insert(kept[-1])
    for span in removed:
        for item in items.meeting(span):
            items.remove(item)
            kept.remove(item)
    expected = sorted(item.span for item in kept)
    assert [item.span for item in items] == expected
    at = items.at(address)
    assert (at.span if at else None) == next(
        (span for span in expected if span.first <= address <= span.last), None
    )
    window = Span(address, address + 5)
    assert [item.span for item in items.meeting(window)] == [s for s in expected if s.meets(window)]
