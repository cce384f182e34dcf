from __future__ import annotations

import pytest

from vfiocore.memory import (
    AddressSpace,
    Alias,
    Backing,
    FlatRange,
    Io,
    MemoryListener,
    Ram,
    RamDevice,
    difference,
    flatten,
)

MEMORY = Backing(0x7F00_0000_0000, 1 << 40)

Call = tuple[str, str, int]
"""Whose call, which one, and the start of the range."""


class RefusedError(Exception):
    """What a listener of these tests raises."""


class Follower(MemoryListener):
    """Writes down what it is told besides `begin` and `commit`; can refuse one kind of call."""

    def __init__(self, calls: list[Call], name: str = "", priority: int = 0) -> None:
        self.calls = calls
        self.name = name
        self.priority = priority
        self.refuse = ""

    def region_del(self, flat: FlatRange) -> None:
        self._note("del", flat)

    def region_add(self, flat: FlatRange) -> None:
        self._note("add", flat)

    def log_start(self, flat: FlatRange) -> None:
        self._note("log_start", flat)

    def log_stop(self, flat: FlatRange) -> None:
        self._note("log_stop", flat)

    def log_sync(self, flat: FlatRange) -> None:
        self._note("log_sync", flat)

    def _note(self, call: str, flat: FlatRange) -> None:
        if self.refuse == call:
            raise RefusedError(call)
        self.calls.append((self.name, call, flat.start))


class Curious(Follower):
    """Wants to know what stays, too."""

    def region_nop(self, flat: FlatRange) -> None:
        self._note("nop", flat)


@pytest.fixture
def space() -> AddressSpace:
    return AddressSpace("memory")


@pytest.fixture
def calls() -> list[Call]:
    return []


@pytest.fixture
def follower(space: AddressSpace, calls: list[Call]) -> Follower:
    follower = Follower(calls)
    space.add_listener(follower)
    return follower


def ram(name: str, size: int = 0x1000) -> Ram:
    return Ram(name, size, MEMORY)


def replace(space: AddressSpace, old: Ram, new: Ram) -> None:
    with space.transaction():
        space.root.remove(old)
        space.root.add(new, 0x2000)


def test_a_listener_that_overrides_nothing_does_nothing(space: AddressSpace) -> None:
    listener = MemoryListener()
    space.add_listener(listener)
    one = ram("one")
    space.root.add(one, 0)
    one.set_logging(True)
    space.sync_log()
    space.remove_listener(listener)

    assert len(space.view) == 1


# -- priority --------------------------------------------------------------------------------------
@pytest.fixture
def ranked(space: AddressSpace, calls: list[Call]) -> None:
    for name, priority in {"high": 10, "low": -1, "first": 0, "second": 0}.items():
        space.add_listener(Follower(calls, name, priority))


@pytest.mark.usefixtures("ranked")
def test_what_comes_is_told_by_rising_priority_and_what_goes_by_falling(
    space: AddressSpace, calls: list[Call]
) -> None:
    one = ram("one")
    space.root.add(one, 0x1000)
    space.root.remove(one)

    rising = ["low", "first", "second", "high"]
    assert calls == [
        *((name, "add", 0x1000) for name in rising),
        *((name, "del", 0x1000) for name in reversed(rising)),
    ]


@pytest.mark.usefixtures("ranked")
def test_logs_start_by_rising_priority_and_stop_by_falling(
    space: AddressSpace, calls: list[Call]
) -> None:
    one = ram("one")
    space.root.add(one, 0x1000)
    calls.clear()
    one.set_logging(True)
    one.set_logging(False)

    rising = ["low", "first", "second", "high"]
    assert calls == [
        *((name, "log_start", 0x1000) for name in rising),
        *((name, "log_stop", 0x1000) for name in reversed(rising)),
    ]


def test_a_round_that_is_taken_back_keeps_the_order_of_priorities(
    space: AddressSpace, calls: list[Call]
) -> None:
    low, high = Follower(calls, "low"), Follower(calls, "high", 1)
    space.add_listener(low)
    space.add_listener(high)
    one, two = ram("one"), ram("two")
    space.root.add(one, 0x1000)
    calls.clear()
    high.refuse = "log_start"
    two.set_logging(True)
    with pytest.raises(RefusedError):
        replace(space, one, two)

    done = [
        ("high", "del", 0x1000), ("low", "del", 0x1000),
        ("low", "add", 0x2000), ("low", "log_start", 0x2000), ("high", "add", 0x2000),
    ]  # fmt: skip
    undone = [
        ("high", "del", 0x2000), ("low", "log_stop", 0x2000), ("low", "del", 0x2000),
        ("low", "add", 0x1000), ("high", "add", 0x1000),
    ]  # fmt: skip
    assert calls == [*done, *undone]


# -- what stays ------------------------------------------------------------------------------------
def test_who_wants_to_know_is_told_what_stays(space: AddressSpace, calls: list[Call]) -> None:
    space.root.add(ram("stays"), 0)
    space.add_listener(Curious(calls))
    space.root.add(ram("comes"), 0x4000)

    assert calls == [("", "add", 0), ("", "add", 0x4000), ("", "nop", 0)]


def test_when_nothing_changes_nothing_stays_either(space: AddressSpace, calls: list[Call]) -> None:
    space.root.add(ram("stays"), 0)
    space.add_listener(Curious(calls))
    calls.clear()
    space.root.add(Io("beside it", 0x1000), 0x4000)

    assert calls == []


def test_what_stays_is_not_taken_back(space: AddressSpace, calls: list[Call]) -> None:
    space.root.add(ram("stays"), 0)
    curious, last = Curious(calls), Follower([], "last", 1)
    space.add_listener(curious)
    space.add_listener(last)
    calls.clear()
    last.refuse = "add"
    with pytest.raises(RefusedError):
        space.root.add(ram("comes"), 0x4000)

    assert calls == [("", "add", 0x4000), ("", "nop", 0), ("", "del", 0x4000)]


# -- logs of what devices write --------------------------------------------------------------------
@pytest.mark.usefixtures("follower")
def test_a_log_starts_and_stops_for_each_range_of_the_ram_that_is_shown(
    space: AddressSpace, calls: list[Call]
) -> None:
    one = ram("one", 0x3000)
    space.root.add(one, 0)
    space.root.add(Io("hides a part", 0x1000), 0x1000, priority=1)
    space.root.add(Alias("again", 0x1000, one), 0x8000)
    space.root.add(ram("other"), 0x10000)
    calls.clear()
    one.set_logging(True)
    one.set_logging(False)

    starts = [0, 0x2000, 0x8000]
    assert calls == [
        *(("", "log_start", start) for start in starts),
        *(("", "log_stop", start) for start in starts),
    ]


@pytest.mark.usefixtures("follower")
def test_the_log_of_a_range_begins_after_it_came_and_ends_before_it_goes(
    space: AddressSpace, calls: list[Call]
) -> None:
    one = ram("one")
    one.set_logging(True)
    space.root.add(one, 0)
    space.root.remove(one)

    assert [call for _, call, _ in calls] == ["add", "log_start", "log_stop", "del"]


def test_who_comes_late_is_told_what_is_logged_and_who_leaves_that_it_ends(
    space: AddressSpace, calls: list[Call]
) -> None:
    one = ram("one")
    one.set_logging(True)
    space.root.add(one, 0)
    space.root.add(ram("two"), 0x4000)
    late = Follower(calls)
    space.add_listener(late)
    space.remove_listener(late)

    assert [(call, start) for _, call, start in calls] == [
        ("add", 0), ("add", 0x4000), ("log_start", 0),
        ("log_stop", 0), ("del", 0), ("del", 0x4000),
    ]  # fmt: skip


@pytest.mark.usefixtures("follower")
def test_what_is_logged_is_synced_when_asked_for(space: AddressSpace, calls: list[Call]) -> None:
    one, two = ram("one"), ram("two")
    space.root.add(one, 0)
    space.root.add(two, 0x4000)
    two.set_logging(True)
    calls.clear()
    with space.transaction():
        one.set_logging(True)
        space.sync_log()
    assert calls == [("", "log_sync", 0x4000), ("", "log_start", 0)]

    calls.clear()
    space.sync_log()
    assert calls == [("", "log_sync", 0), ("", "log_sync", 0x4000)]


def test_a_sync_that_fails_changes_nothing_and_can_be_asked_for_again(
    space: AddressSpace, follower: Follower, calls: list[Call]
) -> None:
    one = ram("one")
    one.set_logging(True)
    space.root.add(one, 0)
    follower.refuse = "log_sync"
    with pytest.raises(RefusedError):
        space.sync_log()
    follower.refuse = ""
    calls.clear()
    space.sync_log()

    assert calls == [("", "log_sync", 0)]


def test_when_a_log_cannot_start_the_ram_is_not_logged(
    space: AddressSpace, follower: Follower, calls: list[Call]
) -> None:
    one = ram("one")
    space.root.add(one, 0)
    follower.refuse = "log_start"
    with pytest.raises(RefusedError):
        one.set_logging(True)
    calls.clear()
    space.sync_log()

    assert not one.logging
    assert calls == []


def test_ranges_that_differ_in_their_log_alone_are_no_difference(space: AddressSpace) -> None:
    one = ram("one")
    space.root.add(one, 0)
    before = space.view
    one.set_logging(True)

    assert difference(before, space.view) == ((), ())
    assert [flat.logging for flat in (*before, *space.view)] == [False, True]


# -- memory of devices -----------------------------------------------------------------------------
def test_the_memory_of_a_device_is_told_apart(space: AddressSpace) -> None:
    space.root.add(ram("ram"), 0)
    space.root.add(RamDevice("bar", 0x1000, MEMORY), 0x1000)

    assert [flat.is_device for flat in flatten(space.root)] == [False, True]
