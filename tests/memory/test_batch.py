from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.memory import Access, DmaBatch, DmaMapping, merged

PAGE = 0x1000
TOP = 1 << 64


def page(iova: int, **more: object) -> DmaMapping:
    return DmaMapping(iova, PAGE, iova + 8 * PAGE, **more)  # type: ignore[arg-type] - its fields


def test_a_batch_is_the_sequence_of_its_mappings() -> None:
    mappings = [page(0), page(PAGE)]

    assert list(DmaBatch(mappings)) == mappings


def test_a_batch_is_not_made_twice() -> None:
    batch = DmaBatch([page(0)])

    assert DmaBatch.of(batch) is batch
    assert DmaBatch.of([page(0)]) == batch


def test_the_columns_have_the_numbers_in_order() -> None:
    columns = DmaBatch([DmaMapping(1, 2, 3), DmaMapping(4, 5, 6)]).columns

    assert columns is not None
    assert list(columns.iovas) == [1, 4]
    assert list(columns.sizes) == [2, 5]
    assert list(columns.vaddrs) == [3, 6]
    assert (columns.start, columns.end) == (1, 9)


@pytest.mark.parametrize(
    "mapping", [DmaMapping(-1, 1, 0), DmaMapping(TOP, 1, 0), DmaMapping(0, 1, TOP)]
)
def test_numbers_that_no_kernel_can_take_have_no_columns(mapping: DmaMapping) -> None:
    assert DmaBatch([page(0), mapping]).columns is None


def test_the_end_of_the_address_space_is_in_reach() -> None:
    columns = DmaBatch([DmaMapping(TOP - PAGE, PAGE, 0)]).columns

    assert columns is not None
    assert columns.in_order
    assert columns.end == TOP


small = st.builds(
    DmaMapping, iova=st.integers(0, 20), size=st.integers(0, 4), vaddr=st.integers(0, 20)
)


@given(st.lists(small, min_size=1, max_size=6))
def test_in_order_is_what_a_look_at_each_pair_says(mappings: list[DmaMapping]) -> None:
    columns = DmaBatch(mappings).columns

    assert columns is not None
    assert columns.in_order == (
        all(mapping.size > 0 for mapping in mappings)
        and all(one.iova + one.size <= next_.iova for one, next_ in pairwise(mappings))
    )


@given(st.lists(small, min_size=1, max_size=6), st.sampled_from([1, 2, 4]))
def test_aligned_is_what_a_look_at_each_number_says(
    mappings: list[DmaMapping], page_size: int
) -> None:
    columns = DmaBatch(mappings).columns

    assert columns is not None
    assert columns.aligned(page_size) == all(
        number % page_size == 0
        for mapping in mappings
        for number in (mapping.iova, mapping.size, mapping.vaddr)
    )


def test_an_access_that_all_have_is_the_batch_s() -> None:
    assert DmaBatch([page(0), page(PAGE)]).access is Access.READ_WRITE
    assert DmaBatch([page(0, access=Access.READ), page(PAGE)]).access is None


def test_one_memory_file_is_enough_to_have_files() -> None:
    assert DmaBatch([page(0), page(PAGE, fd=3)]).has_files
    assert not DmaBatch([page(0), page(PAGE)]).has_files


# -- neighbours ------------------------------------------------------------------------------------
def test_neighbours_become_one_mapping() -> None:
    assert merged([page(0), page(PAGE), page(2 * PAGE)]) == (DmaMapping(0, 3 * PAGE, 8 * PAGE),)


def test_what_has_a_gap_before_it_begins_a_mapping_of_its_own() -> None:
    assert merged([page(0), page(2 * PAGE), page(3 * PAGE)]) == (
        page(0),
        DmaMapping(2 * PAGE, 2 * PAGE, 10 * PAGE),
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (page(0), DmaMapping(PAGE, PAGE, 0)),  # elsewhere in the process
        (page(0), page(PAGE, access=Access.READ)),
        (page(0), page(PAGE, fd=3, fd_offset=PAGE)),
        (page(0, fd=3), page(PAGE, fd=4, fd_offset=PAGE)),
        (page(0, fd=3), page(PAGE, fd=3)),  # elsewhere in the file
        (page(PAGE), page(0)),  # the wrong way round
        (page(0), page(0)),
        (page(0), DmaMapping(PAGE, 0, 9 * PAGE)),  # nothing, which is refused
    ],
)
def test_what_is_of_another_kind_or_place_stays_apart(one: DmaMapping, other: DmaMapping) -> None:
    assert merged([one, other]) == (one, other)


def test_neighbours_in_one_file_become_one_mapping_of_the_file() -> None:
    found = merged([page(0, fd=3, fd_offset=PAGE), page(PAGE, fd=3, fd_offset=2 * PAGE)])

    assert found == (DmaMapping(0, 2 * PAGE, 8 * PAGE, fd=3, fd_offset=PAGE),)


def test_of_nothing_nothing_is_left() -> None:
    assert merged([]) == ()


def bytes_of(mappings: Sequence[DmaMapping]) -> list[tuple[int, int, Access]]:
    return [
        (mapping.iova + n, mapping.vaddr + n, mapping.access)
        for mapping in mappings
        for n in range(mapping.size)
    ]


@given(
    st.lists(
        st.builds(
            DmaMapping,
            iova=st.integers(0, 8),
            size=st.integers(1, 3),
            vaddr=st.integers(0, 8),
            access=st.sampled_from([Access.READ, Access.READ_WRITE]),
        ),
        max_size=8,
    )
)
def test_every_byte_stays_where_it_was_and_no_neighbours_are_left(
    mappings: list[DmaMapping],
) -> None:
    found = merged(mappings)

    assert bytes_of(found) == bytes_of(mappings)
    assert not any(
        one.iova + one.size == other.iova
        and one.vaddr + one.size == other.vaddr
        and one.access is other.access
        for one, other in pairwise(found)
    )
