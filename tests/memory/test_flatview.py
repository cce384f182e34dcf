from __future__ import annotations

import pytest

from vfiocore.memory import (
    Alias,
    Backing,
    FlatRange,
    FlatView,
    Io,
    Ram,
    Region,
    difference,
    flatten,
)

MEMORY = Backing(0x7F00_0000_0000, 1 << 40)


def ram(name: str, size: int, *, readonly: bool = False) -> Ram:
    return Ram(name, size, MEMORY, readonly=readonly)


@pytest.fixture
def root() -> Region:
    return Region("system", 1 << 64)


def test_an_empty_tree_has_no_ranges(root: Region) -> None:
    assert flatten(root) == FlatView()


def test_memory_is_where_it_was_put(root: Region) -> None:
    low, high = ram("low", 0xA0000), ram("high", 0x1000)
    root.add(high, (1 << 64) - 0x1000)
    root.add(low, 0)

    assert list(flatten(root)) == [
        FlatRange(0, 0xA0000, low, 0),
        FlatRange((1 << 64) - 0x1000, 0x1000, high, 0),
    ]


def test_the_higher_priority_is_seen(root: Region) -> None:
    below, above = ram("below", 0x3000), ram("above", 0x1000)
    root.add(above, 0x1000, priority=1)
    root.add(below, 0)

    assert list(flatten(root)) == [
        FlatRange(0, 0x1000, below, 0),
        FlatRange(0x1000, 0x1000, above, 0),
        FlatRange(0x2000, 0x1000, below, 0x2000),
    ]


def test_among_equals_the_one_added_last_is_seen(root: Region) -> None:
    first, second = ram("first", 0x2000), ram("second", 0x2000)
    root.add(first, 0)
    root.add(second, 0x1000)

    assert list(flatten(root)) == [
        FlatRange(0, 0x1000, first, 0),
        FlatRange(0x1000, 0x2000, second, 0),
    ]


def test_priorities_count_only_among_neighbours(root: Region) -> None:
    inner, bank, cover = Region("inner", 0x1000), ram("bank", 0x1000), ram("cover", 0x1000)
    inner.add(bank, 0, priority=100)
    root.add(inner, 0)
    root.add(cover, 0, priority=1)

    assert list(flatten(root)) == [FlatRange(0, 0x1000, cover, 0)]


def test_the_gaps_of_a_container_show_what_is_beneath(root: Region) -> None:
    bus, bar, bank = Region("bus", 0x3000), ram("bar", 0x1000), ram("bank", 0x3000)
    bus.add(bar, 0x1000)
    root.add(bank, 0)
    root.add(bus, 0, priority=1)

    assert [flat.ram for flat in flatten(root)] == [bank, bar, bank]


def test_registers_hide_memory_and_are_not_mapped(root: Region) -> None:
    bank = ram("bank", 0x3000)
    root.add(bank, 0)
    root.add(Io("apic", 0x1000), 0x1000, priority=1)

    assert list(flatten(root)) == [
        FlatRange(0, 0x1000, bank, 0),
        FlatRange(0x2000, 0x1000, bank, 0x2000),
    ]


def test_what_sticks_out_of_a_container_is_cut_off(root: Region) -> None:
    window, bank = Region("window", 0x1000), ram("bank", 0x4000)
    window.add(bank, 0x800)
    root.add(window, 0x10000)

    assert list(flatten(root)) == [FlatRange(0x10800, 0x800, bank, 0)]


def test_a_disabled_region_is_as_good_as_absent(root: Region) -> None:
    inner, bank = Region("inner", 0x1000), ram("bank", 0x1000)
    inner.add(bank, 0)
    root.add(inner, 0)
    inner.set_enabled(False)

    assert len(flatten(root)) == 0


def test_an_alias_shows_a_part_of_its_target_elsewhere(root: Region) -> None:
    bank = ram("bank", 0x8000)
    root.add(Alias("high", 0x2000, bank, 0x6000), 0x100000)

    assert list(flatten(root)) == [FlatRange(0x100000, 0x2000, bank, 0x6000)]


def test_where_the_target_of_an_alias_sits_does_not_matter(root: Region) -> None:
    bank = ram("bank", 0x1000)
    root.add(bank, 0x5000)
    root.add(Alias("window", 0x1000, bank), 0x9000)

    assert [flat.start for flat in flatten(root)] == [0x5000, 0x9000]


def test_an_alias_shows_no_more_than_there_is(root: Region) -> None:
    bank = ram("bank", 0x1000)
    root.add(Alias("window", 0x4000, bank, 0x800), 0)

    assert list(flatten(root)) == [FlatRange(0, 0x800, bank, 0x800)]


def test_an_alias_that_shows_itself_is_refused(root: Region) -> None:
    inner = Region("inner", 0x2000)
    inner.add(Alias("mirror", 0x1000, inner), 0)
    root.add(inner, 0)

    with pytest.raises(ValueError, match="alias mirror shows itself"):
        flatten(root)


def test_all_below_a_read_only_region_is_read_only(root: Region) -> None:
    bank = ram("bank", 0x2000)
    root.add(bank, 0)
    root.add(Alias("shadow", 0x1000, bank, 0, readonly=True), 0, priority=1)

    assert list(flatten(root)) == [
        FlatRange(0, 0x1000, bank, 0, readonly=True),
        FlatRange(0x1000, 0x1000, bank, 0x1000),
    ]


def test_neighbours_that_continue_the_same_memory_are_one_range(root: Region) -> None:
    bank = ram("bank", 0x2000)
    root.add(Alias("low", 0x1000, bank, 0), 0)
    root.add(Alias("high", 0x1000, bank, 0x1000), 0x1000)

    assert list(flatten(root)) == [FlatRange(0, 0x2000, bank, 0)]


def test_neighbours_of_other_memory_stay_apart(root: Region) -> None:
    bank = ram("bank", 0x2000)
    root.add(Alias("low", 0x1000, bank, 0x1000), 0)
    root.add(Alias("high", 0x1000, bank, 0), 0x1000)

    assert [flat.offset for flat in flatten(root)] == [0x1000, 0]


def test_an_unchanged_range_is_no_difference(root: Region) -> None:
    stays, goes, comes = ram("stays", 0x1000), ram("goes", 0x1000), ram("comes", 0x1000)
    root.add(stays, 0)
    root.add(goes, 0x4000)
    old = flatten(root)
    root.remove(goes)
    root.add(comes, 0x2000)

    removed, added = difference(old, flatten(root))

    assert removed == (FlatRange(0x4000, 0x1000, goes, 0),)
    assert added == (FlatRange(0x2000, 0x1000, comes, 0),)


def test_a_change_of_access_is_a_difference(root: Region) -> None:
    bank = ram("bank", 0x1000)
    root.add(bank, 0)
    old = flatten(root)
    bank.set_readonly(True)

    assert difference(old, flatten(root)) == (
        (FlatRange(0, 0x1000, bank, 0),),
        (FlatRange(0, 0x1000, bank, 0, readonly=True),),
    )
