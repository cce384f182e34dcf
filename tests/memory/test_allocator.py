from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.memory import (
    FULL_RANGE,
    DmaMapping,
    IovaAllocator,
    IovaRange,
    MappingTable,
    NoIovaLeft,
)

PAGE = 0x1000
X86 = (IovaRange(0, 0xFEDF_FFFF), IovaRange(0xFEF0_0000, (1 << 48) - 1))


class Space:
    """An allocator with a table, as a container has them."""

    def __init__(self, *ranges: IovaRange) -> None:
        self.ranges = ranges
        self.table = MappingTable()
        self.allocator = IovaAllocator()

    def take(self, size: int, align: int = PAGE, below: int | None = None) -> int:
        iova = self.allocator.allocate(
            size, align=align, below=below, ranges=self.ranges, taken=self.table
        )
        self.table.add(DmaMapping(iova, size, 0))
        return iova

    def give(self, iova: int) -> None:
        (mapping,) = self.table.covered_by(iova, self.size_at(iova))
        self.table.remove(mapping)
        self.allocator.freed(iova)

    def size_at(self, iova: int) -> int:
        mapping = self.table.overlapping(iova, 1)
        assert mapping is not None
        return mapping.size


def test_the_lowest_page_that_is_free_is_given_but_never_zero() -> None:
    space = Space(FULL_RANGE)

    assert [space.take(PAGE) for _ in range(3)] == [0x1000, 0x2000, 0x3000]


def test_an_address_is_a_multiple_of_the_alignment() -> None:
    space = Space(FULL_RANGE)
    space.take(PAGE)

    assert space.take(PAGE, align=0x200000) == 0x200000
    assert space.take(PAGE) == 0x2000


def test_a_range_that_begins_unaligned_is_used_from_its_first_aligned_address() -> None:
    assert Space(IovaRange(0x8001, 0xFFFFF)).take(PAGE) == 0x9000


def test_an_allocation_does_not_reach_into_a_reserved_range() -> None:
    space = Space(*X86)
    space.table.add(DmaMapping(0x1000, 0xFEDF_E000, 0))  # all but the last page below the hole

    assert space.take(2 * PAGE) == 0xFEF0_0000
    assert space.take(PAGE) == 0xFEDF_F000


def test_below_bounds_every_byte() -> None:
    space = Space(FULL_RANGE)
    space.table.add(DmaMapping(0x1000, 0xFFFE_E000, 0))

    assert space.take(0x10000, align=0x10000, below=1 << 32) == 0xFFFF_0000
    with pytest.raises(NoIovaLeft):
        space.take(0x2000, below=1 << 32)
    assert space.take(0x2000) == 1 << 32


def test_when_nothing_is_left_the_error_says_what_was_asked_and_where() -> None:
    space = Space(IovaRange(0, 0x2FFF))
    space.take(2 * PAGE)

    with pytest.raises(NoIovaLeft, match=r"0x1000 bytes aligned to 0x1000 .* 0x0-0x2fff"):
        space.take(PAGE)


def test_without_any_usable_range_nothing_is_left() -> None:
    with pytest.raises(NoIovaLeft, match="no range at all"):
        Space().take(PAGE)


def test_the_last_page_of_the_space_is_given_too() -> None:
    top = (1 << 64) - PAGE

    assert Space(IovaRange(top, (1 << 64) - 1)).take(PAGE) == top


def test_what_was_freed_is_given_again_first() -> None:
    space = Space(FULL_RANGE)
    first, _second, third = (space.take(PAGE) for _ in range(3))
    space.give(third)
    space.give(first)

    assert space.take(PAGE) == first
    assert space.take(PAGE) == third


def test_a_free_page_beside_a_freed_one_counts_as_room() -> None:
    space = Space(FULL_RANGE)
    space.table.add(DmaMapping(0x2000, PAGE, 0))  # 0x1000 stays free
    assert space.take(2 * PAGE) == 0x3000

    space.give(0x2000)

    assert space.take(2 * PAGE) == 0x1000


def test_room_that_became_free_without_a_word_is_found_when_nothing_else_is_left() -> None:
    space = Space(IovaRange(0, 0x2FFF))
    first = space.take(PAGE)
    space.take(PAGE)
    space.table.remove(space.table.covered_by(first, PAGE)[0])

    assert space.take(PAGE) == first


def test_after_a_reset_the_search_begins_at_the_bottom() -> None:
    space = Space(FULL_RANGE)
    for _ in range(4):
        space.take(PAGE)
    space.table.clear()
    space.allocator.reset()

    assert space.take(PAGE) == PAGE


@pytest.mark.parametrize(("size", "align"), [(0, PAGE), (-1, PAGE), (PAGE, 0), (PAGE, 0x3000)])
def test_a_size_or_alignment_that_cannot_be_is_refused(size: int, align: int) -> None:
    with pytest.raises(ValueError, match=r"size|alignment"):
        Space(FULL_RANGE).take(size, align)


def test_many_sizes_do_not_make_the_allocator_grow() -> None:
    space = Space(FULL_RANGE)
    for pages in range(1, 300):
        space.take(pages * PAGE)

    assert len(space.allocator._hints) <= 64


def test_the_ten_thousandth_allocation_costs_what_the_first_did() -> None:
    space = Space(*X86)

    def thousand() -> float:
        start = time.process_time()
        for _ in range(1000):
            space.take(PAGE)
        return time.process_time() - start

    early = min(thousand() for _ in range(3))
    for _ in range(10):
        thousand()
    late = min(thousand() for _ in range(3))

    # A search from the bottom would walk over 10,000 mappings here: hundreds of times as long.
    assert late < 20 * early


REQUESTS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 4, 8]), st.integers(1, 70)),
        st.integers(0, 30),  # free the n-th that is there
    ),
    max_size=40,
)
WINDOWS = st.lists(
    st.tuples(st.integers(0, 63), st.integers(0, 63)).map(
        lambda ends: IovaRange(min(ends), max(ends))
    ),
    min_size=1,
    max_size=3,
)


@given(REQUESTS, WINDOWS)
def test_the_lowest_address_that_fits_is_given_or_there_is_none(
    requests: list[tuple[int, int, int] | int], windows: list[IovaRange]
) -> None:
    space = Space(*windows)
    usable = {address for item in windows for address in range(item.start, item.last + 1)}
    held: dict[int, int] = {}
    for request in requests:
        if isinstance(request, int):
            if held:
                iova = sorted(held)[request % len(held)]
                space.give(iova)
                del held[iova]
            continue
        size, align, below = request
        free = usable - {byte for at, length in held.items() for byte in range(at, at + length)}
        fits = [
            iova
            for iova in range(align, 64, align)
            if iova + size <= below and free.issuperset(range(iova, iova + size))
        ]
        if fits:
            assert space.take(size, align, below) == fits[0]
            held[fits[0]] = size
        else:
            with pytest.raises(NoIovaLeft):
                space.take(size, align, below)
