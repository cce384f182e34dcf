from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from functools import partial

import pytest

from vfiocore.memory import (
    AddressSpace,
    Alias,
    Backing,
    FlatRange,
    Io,
    MemoryListener,
    Ram,
    Region,
    flatten,
)

MEMORY = Backing(0x7F00_0000_0000, 1 << 40)


class RefusedError(Exception):
    """What a listener of these tests raises."""


class Follower(MemoryListener):
    """Maps what it is told, as a container does; can be made to refuse one call.

    `refuse` is the call's name, or its name and the start of the range.
    """

    def __init__(self, refuse: str | tuple[str, int] | None = None) -> None:
        self.calls: list[tuple[str, int] | str] = []
        self.mapped: dict[int, FlatRange] = {}
        self.refuse = refuse

    def begin(self) -> None:
        self.before = dict(self.mapped)
        self._note("begin")

    def region_del(self, flat: FlatRange) -> None:
        self._note("del", flat.start)
        assert self.mapped.pop(flat.start) == flat

    def region_add(self, flat: FlatRange) -> None:
        self._note("add", flat.start)
        for other in self.mapped.values():
            assert flat.last < other.start or other.last < flat.start
        self.mapped[flat.start] = flat

    def commit(self) -> None:
        try:
            self._note("commit")
        except RefusedError:
            self.mapped = self.before
            raise

    def _note(self, name: str, *start: int) -> None:
        call = (name, *start) if start else name
        self.calls.append(call)  # type: ignore[arg-type]
        if self.refuse in (name, call):
            raise RefusedError(name)

    def take_calls(self) -> list[tuple[str, int] | str]:
        calls, self.calls = self.calls, []
        return calls


class Collector(Follower):
    """Collects, and acts in commit, all or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fail = False

    def begin(self) -> None:
        self.pending: list[tuple[Callable[[FlatRange], None], FlatRange]] = []

    def region_del(self, flat: FlatRange) -> None:
        self.pending.append((super().region_del, flat))

    def region_add(self, flat: FlatRange) -> None:
        self.pending.append((super().region_add, flat))

    def commit(self) -> None:
        if self.fail:
            raise RefusedError("commit")
        for act, flat in self.pending:
            act(flat)


@pytest.fixture
def space() -> AddressSpace:
    return AddressSpace("memory")


def ram(name: str, size: int = 0x1000) -> Ram:
    return Ram(name, size, MEMORY)


def together(space: AddressSpace, *changes: Callable[[], object]) -> None:
    with space.transaction():
        for change in changes:
            change()


def fail() -> None:
    raise RefusedError


def followed(space: AddressSpace, refuse: str | None = None) -> Follower:
    follower = Follower(refuse)
    space.add_listener(follower)
    follower.take_calls()
    return follower


# -- what listeners are told -----------------------------------------------------------------------
def test_a_transaction_tells_all_dels_then_all_adds(space: AddressSpace) -> None:
    follower = followed(space)
    one, two = ram("one"), ram("two")
    with space.transaction():
        space.root.add(one, 0x1000)
        space.root.add(two, 0x5000)
    assert follower.take_calls() == ["begin", ("add", 0x1000), ("add", 0x5000), "commit"]

    with space.transaction():
        one.move(0x2000)
        two.move(0x6000)
    assert follower.take_calls() == [
        "begin",
        ("del", 0x1000),
        ("del", 0x5000),
        ("add", 0x2000),
        ("add", 0x6000),
        "commit",
    ]


def test_nothing_is_told_before_the_transaction_ends(space: AddressSpace) -> None:
    follower = followed(space)
    with space.transaction():
        space.root.add(ram("one"), 0)
        assert follower.calls == []
        assert len(space.view) == 0
    assert follower.calls


def test_nested_transactions_end_with_the_outermost(space: AddressSpace) -> None:
    follower = followed(space)
    with space.transaction():
        with space.transaction():
            space.root.add(ram("one"), 0)
        assert follower.calls == []
        space.root.add(ram("two"), 0x1000)

    assert follower.take_calls() == ["begin", ("add", 0), ("add", 0x1000), "commit"]


def test_a_change_outside_a_transaction_is_one_of_its_own(space: AddressSpace) -> None:
    follower = followed(space)
    one = ram("one")
    space.root.add(one, 0x1000)
    one.set_enabled(False)

    assert follower.take_calls() == [
        "begin", ("add", 0x1000), "commit",
        "begin", ("del", 0x1000), "commit",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda root, one: one.set_enabled(False),
        lambda root, one: one.set_readonly(True),
        lambda root, one: one.resize(0x800),
        lambda root, one: one.move(0x8000),
        lambda root, one: root.remove(one),
        lambda root, one: root.add(Io("registers", 0x10), 0x1000, priority=1),
        lambda root, one: root.set_enabled(False),
    ],
)
def test_every_kind_of_change_is_followed(
    space: AddressSpace, change: Callable[[Region, Ram], None]
) -> None:
    one = ram("one")
    space.root.add(one, 0x1000)
    follower = followed(space)
    change(space.root, one)

    assert follower.calls
    assert list(follower.mapped.values()) == list(space.view)


def test_an_unchanged_range_is_told_nothing(space: AddressSpace) -> None:
    space.root.add(ram("stays"), 0)
    follower = followed(space)
    space.root.add(ram("comes"), 0x4000)

    assert follower.take_calls() == ["begin", ("add", 0x4000), "commit"]


def test_a_transaction_without_effect_tells_nothing(space: AddressSpace) -> None:
    one = ram("one")
    space.root.add(one, 0)
    follower = followed(space)
    with space.transaction():
        space.root.add(Region("empty", 0x1000), 0)
        one.move(0x1000)
        one.move(0)
        one.set_enabled(True)

    assert follower.calls == []


def test_a_late_listener_is_told_all_that_is_there(space: AddressSpace) -> None:
    space.root.add(ram("one"), 0x1000)
    space.root.add(ram("two"), 0x4000)
    late = Follower()
    space.add_listener(late)

    assert late.take_calls() == ["begin", ("add", 0x1000), ("add", 0x4000), "commit"]


def test_a_listener_that_leaves_is_told_that_all_is_gone(space: AddressSpace) -> None:
    space.root.add(ram("one"), 0x1000)
    follower = followed(space)
    space.remove_listener(follower)
    space.root.add(ram("two"), 0x4000)

    assert follower.take_calls() == ["begin", ("del", 0x1000), "commit"]


def test_a_listener_added_in_a_transaction_is_told_the_rest_when_it_ends(
    space: AddressSpace,
) -> None:
    space.root.add(ram("old"), 0)
    late = Follower()
    with space.transaction():
        space.root.add(ram("new"), 0x1000)
        space.add_listener(late)
        assert set(late.mapped) == {0}

    assert set(late.mapped) == {0, 0x1000}


def test_a_listener_listens_once(space: AddressSpace) -> None:
    follower = followed(space)
    with pytest.raises(ValueError, match="listens to memory already"):
        space.add_listener(follower)
    space.remove_listener(follower)
    with pytest.raises(ValueError, match="does not listen to memory"):
        space.remove_listener(follower)


def test_a_listener_must_not_change_what_it_is_told_about(space: AddressSpace) -> None:
    class Meddler(Follower):
        def region_add(self, flat: FlatRange) -> None:
            flat.ram.set_enabled(False)

    space.add_listener(Meddler())
    one = ram("one")
    with pytest.raises(RuntimeError, match="changes while its listeners are told"):
        space.root.add(one, 0)

    assert one.enabled
    assert space.root.children == []


# -- failures --------------------------------------------------------------------------------------
def test_a_body_that_raises_leaves_the_tree_as_it_was(space: AddressSpace) -> None:
    first, second, third = ram("first"), ram("second"), ram("third")
    for bank in (first, second, third):
        space.root.add(bank, 0)
    follower = followed(space)

    with pytest.raises(RefusedError):
        together(
            space,
            lambda: space.root.remove(second),
            lambda: third.set_readonly(True),
            lambda: third.resize(0x100),
            lambda: third.move(0x7000),
            lambda: space.root.add(ram("fourth"), 0x1000),
            fail,
        )

    assert space.root.children == [third, second, first]
    assert (third.readonly, third.size, third.offset) == (False, 0x1000, 0)
    assert follower.calls == []


def test_an_inner_transaction_that_raises_takes_back_only_its_own(space: AddressSpace) -> None:
    follower = followed(space)
    with space.transaction():
        space.root.add(ram("outer"), 0)
        with pytest.raises(RefusedError):
            together(space, lambda: space.root.add(ram("inner"), 0x1000), fail)

    assert set(follower.mapped) == {0}


REVERSE = ["begin", ("del", 0x2000), ("add", 0x1000), "commit"]
ROUND = ["begin", ("del", 0x1000), ("add", 0x2000)]
TAKEN_BACK = [*ROUND, *REVERSE[1:]]


@pytest.mark.parametrize(
    ("refused", "told_before", "told_after"),
    [
        ("begin", ["begin", "commit"], []),
        (("del", 0x1000), ["begin", "commit"], [*ROUND[:2], *REVERSE[2:]]),
        (("add", 0x2000), TAKEN_BACK, [*ROUND[:2], *REVERSE[2:]]),
        ("commit", [*ROUND, "commit", *REVERSE], TAKEN_BACK),
    ],
)
def test_when_a_listener_refuses_all_is_as_before(
    space: AddressSpace,
    refused: str | tuple[str, int],
    told_before: list[object],
    told_after: list[object],
) -> None:
    one = ram("one")
    space.root.add(one, 0x1000)
    before, middle, after = followed(space), Follower(), followed(space)
    space.remove_listener(after)
    space.add_listener(middle)
    space.add_listener(after)
    for follower in (before, middle, after):
        follower.take_calls()
    view = space.view
    middle.refuse = refused

    with pytest.raises(RefusedError), space.transaction():
        one.move(0x2000)

    assert (one.offset, space.view) == (0x1000, view)
    assert before.mapped == after.mapped == {0x1000: view.ranges[0]}
    assert (before.calls, after.calls) == (told_before, told_after)
    middle.refuse = None
    one.move(0x3000)
    assert set(before.mapped) == set(after.mapped) == {0x3000}


def test_a_listener_that_refuses_an_add_is_told_its_round_in_reverse(space: AddressSpace) -> None:
    one, two = ram("one"), ram("two")
    space.root.add(one, 0x1000)
    follower = followed(space)
    follower.refuse = ("add", 0x5000)

    with pytest.raises(RefusedError):
        together(space, lambda: one.move(0x2000), lambda: space.root.add(two, 0x5000))

    assert follower.take_calls() == [
        "begin", ("del", 0x1000), ("add", 0x2000), ("add", 0x5000),
        ("del", 0x2000), ("add", 0x1000), "commit",
    ]  # fmt: skip
    assert set(follower.mapped) == {0x1000}


def test_a_listener_that_collects_is_as_before_when_its_commit_refuses(
    space: AddressSpace,
) -> None:
    one = ram("one")
    space.root.add(one, 0x1000)
    early, collector = Collector(), Collector()
    space.add_listener(early)
    space.add_listener(collector)
    collector.fail = True

    with pytest.raises(RefusedError):
        one.move(0x2000)
    collector.fail = False
    space.root.add(ram("two"), 0x8000)

    assert set(early.mapped) == set(collector.mapped) == {0x1000, 0x8000}


def test_a_listener_that_refuses_what_is_there_is_not_added(space: AddressSpace) -> None:
    space.root.add(ram("one"), 0x1000)
    space.root.add(ram("two"), 0x4000)
    follower = Follower(("add", 0x4000))
    with pytest.raises(RefusedError):
        space.add_listener(follower)

    assert follower.mapped == {}
    follower.take_calls()
    space.root.add(ram("three"), 0x8000)
    assert follower.calls == []


def test_a_listener_that_cannot_let_go_listens_still(space: AddressSpace) -> None:
    one = ram("one")
    space.root.add(one, 0x1000)
    follower = followed(space)
    follower.refuse = ("del", 0x1000)
    with pytest.raises(RefusedError):
        space.remove_listener(follower)
    follower.refuse = None
    one.move(0x2000)

    assert set(follower.mapped) == {0x2000}


def test_what_cannot_be_taken_back_is_said_in_the_error(space: AddressSpace) -> None:
    stuck, refusing = followed(space), followed(space)
    stuck.refuse = ("del", 0x1000)
    refusing.refuse = ("add", 0x1000)

    with pytest.raises(RefusedError) as caught:
        space.root.add(ram("one"), 0x1000)

    assert caught.value.__notes__ == ["and could not be taken back: RefusedError: del"]
    assert space.root.children == []


def test_an_alias_that_shows_itself_is_refused_and_taken_back(space: AddressSpace) -> None:
    space.root.add(ram("one"), 0)
    with pytest.raises(ValueError, match="shows itself"):
        space.root.add(Alias("mirror", 0x1000, space.root), 0, priority=-1)

    assert len(space.root.children) == 1


# -- trees in several spaces -----------------------------------------------------------------------
@pytest.fixture
def windowed(space: AddressSpace) -> AddressSpace:
    """A device's own space, which shows `space` through an alias at 0x100000."""
    own = AddressSpace("device")
    own.root.add(Alias("bus master", 0x10000, space.root), 0x100000)
    return own


def test_a_space_follows_what_it_shows_through_an_alias(
    space: AddressSpace, windowed: AddressSpace
) -> None:
    follower = followed(windowed)
    space.root.add(ram("one"), 0x1000)

    assert set(follower.mapped) == {0x101000}


def test_an_alias_that_was_dropped_is_not_followed(space: AddressSpace) -> None:
    alias = weakref.ref(Alias("window", 0x1000, space.root))
    gc.collect()

    assert alias() is None
    space.root.add(ram("one"), 0)


@pytest.mark.parametrize("refusing", ["space", "windowed"])
def test_when_one_space_refuses_a_change_the_other_is_put_back(
    space: AddressSpace, windowed: AddressSpace, refusing: str
) -> None:
    here, there = followed(space), followed(windowed)
    (here if refusing == "space" else there).refuse = "add"

    with pytest.raises(RefusedError):
        space.root.add(ram("one"), 0x1000)

    assert here.mapped == there.mapped == {}
    assert len(space.view) == len(windowed.view) == 0
    assert space.root.children == []


def test_when_a_transaction_fails_spaces_that_followed_it_already_are_put_back(
    space: AddressSpace, windowed: AddressSpace
) -> None:
    there = followed(windowed)
    with pytest.raises(RefusedError):
        together(space, lambda: space.root.add(ram("one"), 0x1000), fail)

    assert there.calls == [
        "begin", ("add", 0x101000), "commit",
        "begin", ("del", 0x101000), "commit",
    ]  # fmt: skip
    assert there.mapped == {}


def test_a_space_that_could_not_be_put_back_catches_up_with_its_next_change(
    space: AddressSpace, windowed: AddressSpace
) -> None:
    there = followed(windowed)
    there.refuse = "del"
    with pytest.raises(RefusedError) as caught:
        together(space, lambda: space.root.add(ram("one"), 0x1000), fail)
    assert caught.value.__notes__ == ["and could not be taken back: RefusedError: del"]
    assert set(there.mapped) == {0x101000}

    there.refuse = None
    windowed.root.add(ram("two"), 0x5000)
    assert set(there.mapped) == {0x5000}
    assert windowed.view == flatten(windowed.root)


def test_a_change_that_is_taken_back_is_followed_to_where_the_region_is_by_then(
    space: AddressSpace,
) -> None:
    # The other space shows the RAM and not the bank that it is in, whose move therefore stays.
    bank, one, other = Region("bank", 0x4000), ram("one"), AddressSpace("other")
    bank.add(one, 0)
    space.root.add(bank, 0x100000)
    other.root.add(Alias("of one", 0x1000, one), 0)
    with pytest.raises(RefusedError):
        together(other, lambda: one.resize(0x800), lambda: bank.move(0x200000), fail)

    assert space.view == flatten(space.root)
    assert other.view == flatten(other.root)
    assert [(flat.start, flat.size) for flat in space.view] == [(0x200000, 0x1000)]


def test_many_scattered_changes_at_once_are_followed(space: AddressSpace) -> None:
    banks = [ram(f"bank {index}") for index in range(200)]
    together(space, *(partial(space.root.add, bank, 0x3000 * i) for i, bank in enumerate(banks)))
    follower = followed(space)
    assert len(space.view) == 200
    together(space, *(partial(bank.resize, 0x800) for bank in banks[::2]))
    together(space, *(partial(bank.set_enabled, False) for bank in banks[::3]))

    assert space.view == flatten(space.root)
    assert sorted(follower.mapped.values(), key=lambda flat: flat.start) == list(space.view)


def calls_of(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, are called."""
    count = 0

    def note(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def calls_of_a_change_among(count: int) -> int:
    space = AddressSpace("memory")
    banks = [ram(f"bank {index}") for index in range(count)]
    together(space, *(partial(space.root.add, bank, 0x3000 * i) for i, bank in enumerate(banks)))
    space.add_listener(MemoryListener())
    one = banks[count // 2]
    return sum(
        map(
            calls_of,
            [
                lambda: one.set_enabled(False),
                lambda: one.set_enabled(True),
                lambda: one.move(one.offset + 0x800),
                lambda: one.resize(0x800),
                lambda: space.root.remove(one),
                lambda: space.root.add(one, 0x1800),
            ],
        )
    )


def test_a_change_takes_no_more_steps_among_many_ranges_than_among_few() -> None:
    few, many = calls_of_a_change_among(100), calls_of_a_change_among(5000)

    assert many <= few + 20


def test_a_change_that_two_transactions_took_note_of_is_taken_back_once(
    space: AddressSpace, windowed: AddressSpace
) -> None:
    one = ram("one")
    there = followed(windowed)
    there.refuse = "add"
    with pytest.raises(RefusedError), space.transaction(), windowed.transaction():
        space.root.add(one, 0x1000)

    assert one.container is None
    assert (space.root.children, there.mapped) == ([], {})
