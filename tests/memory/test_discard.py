from __future__ import annotations

import errno

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.errors import BusyError
from vfiocore.memory import (
    AddressSpace,
    Backing,
    DiscardableRam,
    FlatRange,
    RamDiscardPolicy,
)
from vfiocore.memory.discard import Runs

BLOCK = 0x200000
BLOCKS = 8
MEMORY = Backing(0x7F00_0000_0000, BLOCKS * BLOCK)


class RefusedError(Exception):
    """What a listener of these tests raises."""


@define(eq=False)
class Follower:
    """Has the blocks that it was told; can be made to refuse."""

    name: str = "follower"
    told: list[str] = field(factory=list)
    has: set[int] = field(factory=set)
    refuse: str = ""

    def populate(self, ram: DiscardableRam, runs: Runs) -> None:
        self._note("populate")
        blocks = blocks_of(runs)
        assert not self.has & blocks
        self.has |= blocks

    def discard(self, ram: DiscardableRam, runs: Runs) -> None:
        self._note("discard")
        blocks = blocks_of(runs)
        assert self.has >= blocks
        self.has -= blocks

    def _note(self, call: str) -> None:
        self.told.append(f"{self.name} {call}")
        if self.refuse == call:
            raise RefusedError(call)


def blocks_of(runs: Runs) -> set[int]:
    blocks: set[int] = set()
    for offset, size in runs:
        blocks |= set(range(offset // BLOCK, (offset + size) // BLOCK))
    return blocks


@pytest.fixture
def ram() -> DiscardableRam:
    return DiscardableRam("dimm", BLOCKS * BLOCK, MEMORY, BLOCK)


def followed(ram: DiscardableRam, *names: str) -> list[Follower]:
    """Followers that all write into one list."""
    told: list[str] = []
    followers = [Follower(name, told) for name in names]
    for follower in followers:
        ram.add_listener(follower)
    told.clear()
    return followers


# -- blocks ----------------------------------------------------------------------------------------
def test_all_blocks_are_discarded_in_the_beginning(ram: DiscardableRam) -> None:
    assert ram.populated == ()
    assert ram.populated_bytes == 0


def test_populated_blocks_that_touch_are_one_run(ram: DiscardableRam) -> None:
    ram.populate(BLOCK, BLOCK)
    ram.populate(2 * BLOCK, 2 * BLOCK)
    ram.populate(6 * BLOCK, BLOCK)
    assert ram.populated == ((BLOCK, 3 * BLOCK), (6 * BLOCK, BLOCK))
    assert ram.populated_bytes == 4 * BLOCK


def test_bytes_are_populated_if_every_block_of_theirs_is(ram: DiscardableRam) -> None:
    ram.populate(BLOCK, 2 * BLOCK)
    assert ram.is_populated(BLOCK + 5, BLOCK)
    assert not ram.is_populated(2 * BLOCK + 5, BLOCK)
    assert not ram.is_populated(BLOCK - 1, 2)
    assert ram.discarded_blocks(BLOCK - 1, 2 * BLOCK + 2) == 2


def test_only_what_changes_is_told(ram: DiscardableRam) -> None:
    runs: list[Runs] = []

    class Recorder(Follower):
        def populate(self, ram: DiscardableRam, told: Runs) -> None:
            runs.append(told)

        discard = populate

    ram.populate(2 * BLOCK, BLOCK)
    ram.add_listener(Recorder())
    runs.clear()

    ram.populate(0, 5 * BLOCK)
    ram.populate(0, 5 * BLOCK)
    ram.discard(4 * BLOCK, 4 * BLOCK)
    ram.discard(6 * BLOCK, BLOCK)

    assert runs == [((0, 2 * BLOCK), (3 * BLOCK, 2 * BLOCK)), ((4 * BLOCK, BLOCK),)]


@pytest.mark.parametrize(
    ("offset", "size", "reason"),
    [
        (1, BLOCK, "no whole blocks"),
        (0, BLOCK - 1, "no whole blocks"),
        (7 * BLOCK, 2 * BLOCK, "are not in"),
        (-BLOCK, BLOCK, "are not in"),
        (BLOCK, -BLOCK, "are not in"),
    ],
)
def test_a_range_is_of_whole_blocks_inside(
    ram: DiscardableRam, offset: int, size: int, reason: str
) -> None:
    for change in (ram.populate, ram.discard):
        with pytest.raises(ValueError, match=reason):
            change(offset, size)


@pytest.mark.parametrize("block", [0, -BLOCK, 3 * BLOCK])
def test_the_size_of_a_block_is_a_power_of_two(block: int) -> None:
    with pytest.raises(ValueError, match="no power of two"):
        DiscardableRam("dimm", BLOCKS * BLOCK, MEMORY, block)


def test_ram_is_of_whole_blocks(ram: DiscardableRam) -> None:
    with pytest.raises(ValueError, match="no whole blocks"):
        DiscardableRam("dimm", BLOCK + 1, MEMORY, BLOCK)
    with pytest.raises(ValueError, match="no whole blocks"):
        ram.resize(BLOCK // 2)


def test_blocks_that_a_shorter_ram_hides_are_there_again_when_it_grows(
    ram: DiscardableRam,
) -> None:
    ram.populate(0, BLOCKS * BLOCK)
    ram.resize(2 * BLOCK)
    assert ram.populated == ((0, 2 * BLOCK),)
    ram.resize(4 * BLOCK)
    assert ram.populated == ((0, 4 * BLOCK),)


def test_other_listeners_of_the_address_space_see_the_whole_ram(ram: DiscardableRam) -> None:
    space = AddressSpace("memory")
    space.root.add(ram, 0x1000)
    assert space.view.ranges == (FlatRange(0x1000, BLOCKS * BLOCK, ram, 0),)


# -- listeners -------------------------------------------------------------------------------------
def test_blocks_come_to_the_first_listener_first_and_go_from_it_last(ram: DiscardableRam) -> None:
    one, _two = followed(ram, "one", "two")
    ram.populate(0, BLOCK)
    ram.discard(0, BLOCK)
    assert one.told == ["one populate", "two populate", "two discard", "one discard"]


def test_a_listener_that_comes_late_is_told_what_is_populated(ram: DiscardableRam) -> None:
    ram.populate(0, BLOCK)
    ram.populate(3 * BLOCK, BLOCK)
    (late,) = followed(ram, "late")
    assert late.has == {0, 3}
    ram.remove_listener(late)
    assert late.has == set()
    ram.populate(5 * BLOCK, BLOCK)
    assert late.has == set()


def test_a_late_listener_that_refuses_is_not_added(ram: DiscardableRam) -> None:
    ram.populate(0, BLOCK)
    late = Follower(refuse="populate")
    with pytest.raises(RefusedError):
        ram.add_listener(late)
    late.refuse = ""
    ram.add_listener(late)
    assert late.has == {0}


def test_a_listener_that_cannot_let_go_listens_still(ram: DiscardableRam) -> None:
    (one,) = followed(ram, "one")
    ram.populate(0, BLOCK)
    one.refuse = "discard"
    with pytest.raises(RefusedError):
        ram.remove_listener(one)
    ram.populate(BLOCK, BLOCK)
    assert one.has == {0, 1}


@pytest.mark.parametrize("refusing", [0, 1, 2])
def test_a_populate_that_one_refuses_is_taken_back_in_the_others(
    ram: DiscardableRam, refusing: int
) -> None:
    followers = followed(ram, "one", "two", "three")
    followers[refusing].refuse = "populate"
    with pytest.raises(RefusedError):
        ram.populate(0, 2 * BLOCK)
    assert [follower.has for follower in followers] == [set(), set(), set()]
    assert ram.populated == ()


@pytest.mark.parametrize("refusing", [0, 1, 2])
def test_a_discard_that_one_refuses_is_taken_back_in_the_others(
    ram: DiscardableRam, refusing: int
) -> None:
    followers = followed(ram, "one", "two", "three")
    ram.populate(0, 2 * BLOCK)
    followers[refusing].refuse = "discard"
    with pytest.raises(RefusedError):
        ram.discard(0, BLOCK)
    assert [follower.has for follower in followers] == [{0, 1}] * 3
    assert ram.populated == ((0, 2 * BLOCK),)


def test_what_cannot_be_taken_back_is_in_the_notes(ram: DiscardableRam) -> None:
    one, two = followed(ram, "one", "two")
    one.refuse, two.refuse = "discard", "populate"
    with pytest.raises(RefusedError) as caught:
        ram.populate(0, BLOCK)
    assert str(caught.value) == "populate"
    assert caught.value.__notes__ == ["while undoing: RefusedError: discard"]


def test_a_listener_must_not_change_what_it_is_told_of(ram: DiscardableRam) -> None:
    class Meddler(Follower):
        def populate(self, ram: DiscardableRam, runs: Runs) -> None:
            ram.populate(BLOCK, BLOCK)

    ram.add_listener(Meddler())
    with pytest.raises(RuntimeError, match="while its followers are told"):
        ram.populate(0, BLOCK)
    assert ram.populated == ()


def test_a_listener_is_added_and_removed_once(ram: DiscardableRam) -> None:
    (one,) = followed(ram, "one")
    with pytest.raises(ValueError, match="already"):
        ram.add_listener(one)
    ram.remove_listener(one)
    with pytest.raises(ValueError, match="does not follow"):
        ram.remove_listener(one)


# -- holds -----------------------------------------------------------------------------------------
def test_a_block_that_is_held_cannot_be_discarded(ram: DiscardableRam) -> None:
    (one,) = followed(ram, "one")
    ram.populate(0, 4 * BLOCK)
    ram.hold(BLOCK + 5, BLOCK)
    for offset in (0, BLOCK, 2 * BLOCK):
        with pytest.raises(BusyError, match="is held"):
            ram.discard(offset, 2 * BLOCK)
    ram.discard(3 * BLOCK, BLOCK)
    assert one.has == {0, 1, 2}


def test_a_block_that_is_held_twice_is_released_twice(ram: DiscardableRam) -> None:
    ram.populate(0, BLOCK)
    ram.hold(0, 1)
    ram.hold(5, 1)
    ram.release(0, 1)
    with pytest.raises(BusyError):
        ram.discard(0, BLOCK)
    ram.release(5, 1)
    ram.discard(0, BLOCK)
    assert ram.populated == ()


def test_only_what_is_populated_can_be_held(ram: DiscardableRam) -> None:
    with pytest.raises(ValueError, match="not populated"):
        ram.hold(0, 1)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["populate", "discard", "hold", "release"]),
        st.integers(0, BLOCKS - 1),
        st.integers(0, 3),
    ),
    max_size=20,
)


@given(CHANGES)
def test_runs_are_what_asking_block_after_block_gives(
    changes: list[tuple[str, int, int]],
) -> None:
    ram = DiscardableRam("dimm", BLOCKS * BLOCK, MEMORY, BLOCK)
    (follower,) = followed(ram, "one")
    model: set[int] = set()
    held: list[int] = []
    for kind, first, count in changes:
        blocks = set(range(first, min(first + count, BLOCKS)))
        offset, size = first * BLOCK, len(blocks) * BLOCK
        match kind:
            case "populate":
                ram.populate(offset, size)
                model |= blocks
            case "discard" if blocks.isdisjoint(held):
                ram.discard(offset, size)
                model -= blocks
            case "discard":
                with pytest.raises(BusyError):
                    ram.discard(offset, size)
            case "hold" if first in model:
                ram.hold(offset, 1)
                held.append(first)
            case "release" if first in held:
                ram.release(offset, 1)
                held.remove(first)

        assert blocks_of(ram.populated) == follower.has == model
        assert all(ram.is_populated(block * BLOCK, 1) == (block in model) for block in range(8))
        ends = {offset + size for offset, size in ram.populated}
        assert ends.isdisjoint(offset for offset, _size in ram.populated)


# -- memory that is taken without telling ----------------------------------------------------------
def test_memory_may_be_taken_while_no_device_pins_it() -> None:
    policy = RamDiscardPolicy()
    assert policy.uncoordinated_allowed
    with policy.begin_uncoordinated():
        pass


def test_who_forbids_it_is_said_and_can_be_asked() -> None:
    policy = RamDiscardPolicy()
    policy.pin("nic0")
    policy.pin("disk0")
    assert not policy.uncoordinated_allowed
    assert policy.forbidden_by == ("nic0", "disk0")
    with pytest.raises(BusyError, match="pinned for nic0, disk0") as caught:
        policy.begin_uncoordinated("balloon0")
    assert (caught.value.errno, caught.value.subject) == (errno.EBUSY, "balloon0")


def test_it_is_allowed_once_the_last_device_is_gone() -> None:
    policy = RamDiscardPolicy()
    first, second = policy.pin("nic0"), policy.pin("nic0")
    first.close()
    first.close()
    assert policy.forbidden_by == ("nic0",)
    second.close()
    assert policy.uncoordinated_allowed


def test_no_device_may_pin_memory_that_is_being_taken() -> None:
    policy = RamDiscardPolicy()
    with (
        policy.begin_uncoordinated("balloon0"),
        pytest.raises(BusyError, match="discarded without telling by balloon0"),
    ):
        policy.pin("nic0")
    policy.pin("nic0")
    assert policy.forbidden_by == ("nic0",)
