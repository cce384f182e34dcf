from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.memory import DmaBatch, DmaMapping, MappingCut, MappingTable, NothingMapped
from vfiocore.memory.table import Overlap

LOW = DmaMapping(0x1000, 0x1000, 0x70000)
HIGH = DmaMapping(0x4000, 0x2000, 0x90000)


@pytest.fixture
def table() -> MappingTable:
    table = MappingTable()
    table.add(HIGH)
    table.add(LOW)
    return table


def test_mappings_come_by_rising_iova(table: MappingTable) -> None:
    assert list(table) == [LOW, HIGH]
    assert len(table) == 2


def test_the_table_knows_how_many_bytes_are_mapped(table: MappingTable) -> None:
    assert table.bytes == 0x3000
    table.remove(LOW)
    assert table.bytes == 0x2000


@pytest.mark.parametrize(
    ("iova", "size"),
    [(0x1000, 0x1000), (0x1FFF, 1), (0xFFF, 2), (0, 0x10000), (0x5000, 0x1000), (0x4800, 0x10)],
)
def test_an_overlap_is_refused_and_changes_nothing(
    table: MappingTable, iova: int, size: int
) -> None:
    with pytest.raises(ValueError, match="overlaps"):
        table.add(DmaMapping(iova, size, 0))

    assert list(table) == [LOW, HIGH]
    assert table.bytes == 0x3000


def test_neighbours_that_touch_are_no_overlap(table: MappingTable) -> None:
    table.add(DmaMapping(0x2000, 0x2000, 0))

    assert len(table) == 3


def test_a_mapping_without_bytes_is_refused(table: MappingTable) -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        table.add(DmaMapping(0x8000, 0, 0))


def test_the_last_page_of_the_space_can_be_entered(table: MappingTable) -> None:
    top = DmaMapping((1 << 64) - 0x1000, 0x1000, 0)
    table.add(top)

    assert table.overlapping((1 << 64) - 1, 1) == top


def test_removing_what_is_not_there_is_refused(table: MappingTable) -> None:
    with pytest.raises(NothingMapped, match="0x2000"):
        table.remove(DmaMapping(0x2000, 0x1000, 0))


def test_removing_another_mapping_of_the_same_iova_is_refused(table: MappingTable) -> None:
    with pytest.raises(NothingMapped):
        table.remove(DmaMapping(LOW.iova, LOW.size, LOW.vaddr + 1))

    assert list(table) == [LOW, HIGH]


def test_an_equal_mapping_can_be_removed(table: MappingTable) -> None:
    table.remove(DmaMapping(LOW.iova, LOW.size, LOW.vaddr))

    assert list(table) == [HIGH]


def test_of_two_mappings_in_a_range_the_highest_is_in_the_way(table: MappingTable) -> None:
    assert table.overlapping(0x1000, 0x4000) == HIGH
    assert table.overlapping(0x2000, 0x2000) is None


def test_a_range_covers_the_mappings_inside_it_with_the_gaps_between(table: MappingTable) -> None:
    assert table.covered_by(0, 0x10000) == [LOW, HIGH]
    assert table.covered_by(0x1000, 0x1000) == [LOW]


@pytest.mark.parametrize(("iova", "size"), [(0x4000, 0x1000), (0x3000, 0x2000), (0x5000, 0x1000)])
def test_a_range_that_cuts_a_mapping_names_it(table: MappingTable, iova: int, size: int) -> None:
    with pytest.raises(MappingCut) as caught:
        table.covered_by(iova, size)

    assert caught.value.mapping == HIGH


def test_a_range_with_nothing_in_it_is_another_error_than_a_cut(table: MappingTable) -> None:
    with pytest.raises(NothingMapped, match="0x2000-0x3fff"):
        table.covered_by(0x2000, 0x2000)


def test_addresses_translate_both_ways(table: MappingTable) -> None:
    assert table.translate(0x4123) == 0x90123
    assert table.find_iova(0x90123) == 0x4123


@pytest.mark.parametrize("iova", [0xFFF, 0x2000, 0x6000])
def test_an_iova_with_nothing_behind_it_does_not_translate(table: MappingTable, iova: int) -> None:
    with pytest.raises(NothingMapped):
        table.translate(iova)


@pytest.mark.parametrize("vaddr", [0x6FFFF, 0x71000, 0x92000])
def test_an_address_that_is_not_mapped_has_no_iova(table: MappingTable, vaddr: int) -> None:
    with pytest.raises(NothingMapped):
        table.find_iova(vaddr)


def test_memory_that_is_mapped_twice_is_found_while_either_mapping_is_left(
    table: MappingTable,
) -> None:
    again = DmaMapping(0x10000, 0x1000, LOW.vaddr)
    table.add(again)
    assert table.find_iova(0x70010) in {0x1010, 0x10010}

    table.remove(LOW)
    assert table.find_iova(0x70010) == 0x10010


def test_a_small_mapping_does_not_hide_a_large_one_that_begins_earlier() -> None:
    table = MappingTable()
    table.add(DmaMapping(0x100000, 0x10000, 0x50000))
    table.add(DmaMapping(0x1000, 0x1000, 0x52000))

    assert table.find_iova(0x54000) == 0x104000


def test_a_cleared_table_is_empty(table: MappingTable) -> None:
    table.find_iova(LOW.vaddr)
    table.clear()

    assert (len(table), table.bytes, list(table)) == (0, 0, [])
    with pytest.raises(NothingMapped):
        table.find_iova(LOW.vaddr)


def test_sixty_thousand_mappings_can_be_entered_and_removed_in_any_order() -> None:
    mappings = [DmaMapping(i << 13, 0x1000, i << 12) for i in range(60_000)]
    random.Random(1).shuffle(mappings)
    table = MappingTable()
    for mapping in mappings:
        table.add(mapping)

    assert table.bytes == 60_000 << 12
    assert table.find_iova(12345 << 12) == 12345 << 13
    for mapping in mappings:
        table.remove(mapping)
    assert len(table) == 0


# -- batches ---------------------------------------------------------------------------------------
def run(*iovas: int) -> DmaBatch:
    return DmaBatch([DmaMapping(iova, 0x1000, iova) for iova in iovas])


@pytest.mark.parametrize("first", [0x2000, 0x6000, 0x7000])
def test_a_batch_enters_where_there_is_room(table: MappingTable, first: int) -> None:
    batch = run(first, first + 0x1000)
    table.extend(batch)

    assert list(table) == sorted([LOW, HIGH, *batch], key=lambda mapping: mapping.iova)
    table.discard(batch)
    assert list(table) == [LOW, HIGH]


def test_a_batch_may_go_around_what_is_there(table: MappingTable) -> None:
    table.extend(run(0, 0x2000, 0x7000))

    assert [mapping.iova for mapping in table] == [0, 0x1000, 0x2000, 0x4000, 0x7000]


def test_a_batch_need_not_be_in_order(table: MappingTable) -> None:
    table.extend(run(0x7000, 0x2000, 0))

    assert [mapping.iova for mapping in table] == [0, 0x1000, 0x2000, 0x4000, 0x7000]


@pytest.mark.parametrize("batch", [run(0x8000, 0x1000), run(0x3000, 0x5000), run(0x8000, 0x8000)])
def test_a_batch_that_overlaps_names_the_item_and_changes_nothing(
    table: MappingTable, batch: DmaBatch
) -> None:
    with pytest.raises(Overlap) as caught:
        table.extend(batch)

    assert caught.value.index == 1
    assert list(table) == [LOW, HIGH]


def test_the_table_has_a_batch_if_it_has_each_once(table: MappingTable) -> None:
    assert table.has_all(DmaBatch([LOW, HIGH]))
    assert table.has_all([HIGH, LOW])
    assert table.has_all([])
    assert not table.has_all([LOW, DmaMapping(LOW.iova, LOW.size, LOW.vaddr + 1)])
    assert not table.has_all([LOW, LOW])
    assert not table.has_all(run(0x9000))


def test_what_is_missing_of_a_batch_has_an_index(table: MappingTable) -> None:
    assert table.missing([LOW, *run(0x9000), HIGH]) == 1
    assert table.missing([LOW, HIGH, LOW]) == 2
    with pytest.raises(ValueError, match="none is missing"):
        table.missing([LOW, HIGH])


BATCHES = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 9), min_size=1, max_size=5)), max_size=12
)


@given(BATCHES, st.booleans())
def test_a_batch_at_once_is_the_same_as_item_by_item(
    steps: list[tuple[bool, list[int]]], indexed: bool
) -> None:
    at_once, one_by_one = MappingTable(), MappingTable()
    if indexed:
        with pytest.raises(NothingMapped):
            at_once.find_iova(0)
    for add, iovas in steps:
        batch = DmaBatch([DmaMapping(2 * iova, 2, iova) for iova in iovas])
        if not add and at_once.has_all(batch):
            at_once.discard(batch)
            one_by_one.discard(list(batch))
        elif add:
            assert refusal(at_once, batch) == refusal(one_by_one, list(batch))
        assert list(at_once) == list(one_by_one)
    check_reverse(at_once, list(one_by_one))


def refusal(table: MappingTable, batch: Sequence[DmaMapping]) -> int | None:
    try:
        table.extend(batch)
    except Overlap as overlap:
        return overlap.index
    return None


SMALL = st.builds(DmaMapping, st.integers(0, 40), st.integers(1, 9), st.integers(0, 40))
STEPS = st.lists(st.tuples(st.booleans(), SMALL), max_size=25)


@given(STEPS, st.booleans())
def test_the_table_agrees_with_a_dictionary_of_bytes(
    steps: list[tuple[bool, DmaMapping]],
    indexed: bool,
) -> None:
    table = MappingTable()
    model: dict[int, DmaMapping] = {}  # every byte that is mapped
    if indexed:  # the index by vaddr exists from the start and follows each step
        with pytest.raises(NothingMapped):
            table.find_iova(0)
    for add, mapping in steps:
        held = set(range(mapping.iova, mapping.last + 1))
        if add and not held & model.keys():
            table.add(mapping)
            model |= dict.fromkeys(held, mapping)
        elif add:
            with pytest.raises(ValueError, match="overlaps"):
                table.add(mapping)
        else:
            remove_inside(table, model, mapping.iova, mapping.size)

    mapped = sorted(set(model.values()), key=lambda mapping: mapping.iova)
    assert list(table) == mapped
    assert table.bytes == len(model)
    for iova, mapping in model.items():
        assert table.translate(iova) == mapping.vaddr + iova - mapping.iova
    check_reverse(table, mapped)


def remove_inside(table: MappingTable, model: dict[int, DmaMapping], iova: int, size: int) -> None:
    held = set(range(iova, iova + size))
    touched = {model[address] for address in held & model.keys()}
    cut = {item for item in touched if not held.issuperset(range(item.iova, item.last + 1))}
    if not touched:
        with pytest.raises(NothingMapped):
            table.covered_by(iova, size)
    elif cut:
        with pytest.raises(MappingCut) as caught:
            table.covered_by(iova, size)
        assert caught.value.mapping in cut
    else:
        inside = table.covered_by(iova, size)
        assert set(inside) == touched
        for mapping in inside:
            table.remove(mapping)
            for address in range(mapping.iova, mapping.last + 1):
                del model[address]


def check_reverse(table: MappingTable, mapped: list[DmaMapping]) -> None:
    for vaddr in range(60):
        found = {
            item.iova + vaddr - item.vaddr
            for item in mapped
            if item.vaddr <= vaddr < item.vaddr + item.size
        }
        if found:
            assert table.find_iova(vaddr) in found
        else:
            with pytest.raises(NothingMapped):
                table.find_iova(vaddr)
