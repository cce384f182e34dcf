"""Random trees of regions, against a model that asks byte after byte what is seen there."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vfiocore.memory import (
    AddressSpace,
    Alias,
    Backing,
    FlatRange,
    FlatView,
    Io,
    MemoryListener,
    MemoryRegion,
    Ram,
    Region,
    difference,
    flatten,
)

SPACE = 48

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a busy machine a time says nothing; what a change costs is counted in steps (test_space)."""

Byte = tuple[Ram, int, bool]
"""The RAM at an address, the offset in it, and whether it is read-only."""


@st.composite
def trees(draw: st.DrawFn) -> tuple[Region, list[MemoryRegion]]:
    """A root of `SPACE` bytes and every other region of its tree."""
    root = Region("root", SPACE)
    holders = [root]
    regions: list[MemoryRegion] = []
    for index in range(draw(st.integers(0, 9))):
        region = draw(nodes(f"r{index}", regions))
        holder = draw(st.sampled_from(holders))
        holder.add(region, draw(st.integers(0, SPACE)), priority=draw(st.integers(-1, 1)))
        regions.append(region)
        if isinstance(region, Region):
            holders.append(region)
    assume(flat(root) is not None)
    return root, regions


@st.composite
def nodes(draw: st.DrawFn, name: str, others: list[MemoryRegion]) -> MemoryRegion:
    size = draw(st.integers(0, 24))
    readonly, enabled = draw(st.booleans()), draw(st.integers(0, 3)) > 0
    kinds = ["ram", "ram", "io", "region"] + ["alias"] * bool(others)
    match draw(st.sampled_from(kinds)):
        case "ram":
            backing = Backing(0x10000 * (len(others) + 1), 64)
            return Ram(name, size, backing, readonly=readonly, enabled=enabled)
        case "io":
            return Io(name, size, readonly=readonly, enabled=enabled)
        case "region":
            return Region(name, size, readonly=readonly, enabled=enabled)
        case _:
            target = draw(st.sampled_from(others))
            offset = draw(st.integers(0, 12))
            return Alias(name, size, target, offset, readonly=readonly, enabled=enabled)


def flat(root: Region) -> FlatView | None:
    """The view, or None where an alias shows itself."""
    try:
        return flatten(root)
    except ValueError:
        return None


def seen_at(region: MemoryRegion, offset: int, *, readonly: bool = False) -> Byte | Io | None:
    """What is seen at `offset` in `region`: a byte of RAM, registers, or nothing."""
    if not region.enabled or not 0 <= offset < region.size:
        return None
    readonly = readonly or region.readonly
    match region:
        case Ram():
            return region, offset, readonly
        case Io():
            return region
        case Alias():
            return seen_at(region.target, offset + region.target_offset, readonly=readonly)
        case Region():
            for child in region.children:
                seen = seen_at(child, offset - child.offset, readonly=readonly)
                if seen is not None:
                    return seen
    return None


def expected_bytes(root: Region) -> dict[int, Byte]:
    found = {address: seen_at(root, address) for address in range(SPACE)}
    return {address: seen for address, seen in found.items() if isinstance(seen, tuple)}


def bytes_of(view: FlatView | Iterable[FlatRange]) -> dict[int, Byte]:
    return {
        flat.start + index: (flat.ram, flat.offset + index, flat.readonly)
        for flat in view
        for index in range(flat.size)
    }


# -- the flat view ----------------------------------------------------------------------------------
@patient
@given(trees())
def test_the_flat_view_is_what_asking_byte_after_byte_gives(
    tree: tuple[Region, list[MemoryRegion]],
) -> None:
    root, _ = tree

    assert bytes_of(flatten(root)) == expected_bytes(root)


@patient
@given(trees())
def test_ranges_are_sorted_apart_and_merged(tree: tuple[Region, list[MemoryRegion]]) -> None:
    view = list(flatten(tree[0]))

    for flat in view:
        assert flat.size > 0
    for before, after in pairwise(view):
        assert before.last < after.start
        continues = (
            before.last + 1 == after.start
            and before.ram is after.ram
            and before.offset + before.size == after.offset
            and before.readonly == after.readonly
        )
        assert not continues


@patient
@given(trees(), trees())
def test_the_difference_applied_to_the_old_view_gives_the_new(
    one: tuple[Region, list[MemoryRegion]], other: tuple[Region, list[MemoryRegion]]
) -> None:
    # One tree, before and after the other is laid over it.
    old = flatten(one[0])
    outer = Region("outer", 1 << 64)
    outer.add(one[0], 0)
    outer.add(other[0], 0, priority=1)
    new = flatten(outer)

    removed, added = difference(old, new)

    assert not set(removed) & set(added)
    kept = [flat for flat in old if flat not in removed]
    assert set(kept) <= set(new)
    assert sorted([*kept, *added], key=lambda flat: flat.start) == list(new)


# -- listeners -------------------------------------------------------------------------------------
class RefusedError(Exception):
    """What a listener of these tests raises."""


class Listener(MemoryListener):
    """Maps as it is told, and can be made to refuse the n-th call from now."""

    def __init__(self) -> None:
        self.mapped: dict[int, FlatRange] = {}
        self.logged: set[FlatRange] = set()
        self.refuse_in = 0

    def begin(self) -> None:
        self._perhaps_refuse()
        self.before = dict(self.mapped), set(self.logged)

    def region_del(self, flat: FlatRange) -> None:
        self._perhaps_refuse()
        assert flat not in self.logged
        assert self.mapped.pop(flat.start) == flat

    def region_add(self, flat: FlatRange) -> None:
        self._perhaps_refuse()
        assert not bytes_of([flat]).keys() & bytes_of(self.mapped.values()).keys()
        self.mapped[flat.start] = flat

    def log_start(self, flat: FlatRange) -> None:
        self._perhaps_refuse()
        assert self.mapped[flat.start] == flat
        assert flat not in self.logged
        self.logged.add(flat)

    def log_stop(self, flat: FlatRange) -> None:
        self._perhaps_refuse()
        assert self.mapped[flat.start] == flat
        self.logged.remove(flat)

    def commit(self) -> None:
        try:
            self._perhaps_refuse()
        except RefusedError:
            self.mapped, self.logged = self.before
            raise

    def _perhaps_refuse(self) -> None:
        self.refuse_in -= 1
        if self.refuse_in == 0:
            raise RefusedError


Step = tuple[int, int, int]
STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(0, 24)), max_size=4)
ROUNDS = st.lists(st.tuples(STEPS, st.integers(0, 6)), max_size=6)


def change(regions: list[MemoryRegion], step: Step) -> None:
    kind, which, value = step
    region = regions[which % len(regions)]
    if kind == 0:
        region.set_enabled(not region.enabled)
    elif kind == 1:
        region.set_readonly(not region.readonly)
    elif kind == 2:
        region.resize(value)
    elif kind == 5:
        if isinstance(region, Ram):
            region.set_logging(not region.logging)
    elif region.container is not None and kind == 3:
        region.move(value)
    elif region.container is not None:
        container = region.container
        container.remove(region)
        container.add(region, value, priority=value % 3)


def change_together(
    space: AddressSpace, root: Region, regions: list[MemoryRegion], steps: list[Step]
) -> FlatView | None:
    """The view that the changed tree has, if every listener followed and there is one."""
    view = None
    try:
        with space.transaction():
            for step in steps if regions else []:
                change(regions, step)
            view = flat(root)
    except RefusedError:
        return None
    except ValueError:
        assert view is None
    else:
        assert view is not None
    return view


@patient
@given(trees(), ROUNDS)
def test_listeners_have_what_the_tree_says_or_all_is_as_before(
    tree: tuple[Region, list[MemoryRegion]], rounds: list[tuple[list[Step], int]]
) -> None:
    root, regions = tree
    space = AddressSpace("memory", root)
    listeners = Listener(), Listener(), Listener()
    for listener in listeners:
        space.add_listener(listener)
    for steps, refuse_in in rounds:
        before = expected_bytes(root), space.view
        listeners[1].refuse_in = refuse_in
        followed = change_together(space, root, regions, steps)
        listeners[1].refuse_in = 0

        now = expected_bytes(root)
        assert followed is not None or (now, space.view) == before
        assert bytes_of(space.view) == now
        assert_shown(space, listeners)


@patient
@given(trees(), trees(), ROUNDS, st.integers(0, 24), st.sampled_from([0, 1]))
def test_spaces_that_share_a_tree_all_show_it_as_it_is(
    tree: tuple[Region, list[MemoryRegion]],
    around: tuple[Region, list[MemoryRegion]],
    rounds: list[tuple[list[Step], int]],
    offset: int,
    refusing: int,
) -> None:
    root, regions = tree
    outer, others = around
    outer.add(Alias("first", SPACE, root, 4), offset)
    outer.add(Alias("second", SPACE, root), 2 * SPACE)
    assume(flat(outer) is not None)
    spaces = AddressSpace("inner", root), AddressSpace("outer", outer)
    listeners = Listener(), Listener()
    for space, listener in zip(spaces, listeners, strict=True):
        space.add_listener(listener)
    for steps, refuse_in in rounds:
        listeners[refusing].refuse_in = refuse_in
        change_together(spaces[0], root, [*regions, *others], steps)
        listeners[refusing].refuse_in = 0

        for space, listener in zip(spaces, listeners, strict=True):
            assert_shown(space, [listener])


def assert_shown(space: AddressSpace, listeners: Iterable[Listener]) -> None:
    """The view is what rendering the whole tree gives, and the listeners have it too."""
    assert space.view == flatten(space.root)
    logged = {flat for flat in space.view if flat.ram.logging}
    assert {flat for flat in space.view if flat.logging} == logged
    for listener in listeners:
        assert tuple(sorted(listener.mapped.values(), key=lambda f: f.start)) == space.view.ranges
        assert listener.logged == logged


@patient
@given(trees(), ROUNDS)
def test_a_range_is_found_by_any_of_its_addresses(
    tree: tuple[Region, list[MemoryRegion]], rounds: list[tuple[list[Step], int]]
) -> None:
    root, regions = tree
    space = AddressSpace("memory", root)
    for steps, _ in rounds:
        change_together(space, root, regions, steps)
        expected = {
            address: flat for flat in flatten(root) for address in range(flat.start, flat.last + 1)
        }
        for address in range(-1, SPACE + 1):
            assert space.range_at(address) == expected.get(address)
