from __future__ import annotations

import errno
import threading
from collections.abc import Iterable

import pytest
from attrs import evolve

from vfiocore.address_space import MSI_HOLE, OutOfStep, VfioAddressSpace
from vfiocore.container import NO_CAPABILITY, Capability, Container
from vfiocore.errors import (
    DmaError,
    DmaLimitError,
    DmaNotMappedError,
    DmaOverlapError,
    DmaRangeError,
)
from vfiocore.log import VfioWarning
from vfiocore.memory import AddressSpace, Backing, DmaMapping, IovaRange, Ram, RamDevice

from .scripted import PAGE, ScriptedHost
from .test_container import Kernel, iovas, page


class Mapped(Container):
    """A container and its kernel."""

    kernel: Kernel


def container(
    label: str = "IOAS", capabilities: Capability = Capability.BAR_BY_ADDRESS, page_size: int = PAGE
) -> Mapped:
    made = Mapped(
        host=ScriptedHost(),
        backend="toy",
        label=label,
        page_sizes=page_size,
        capabilities=capabilities,
    )
    made.kernel = Kernel()
    made.connect(made.kernel.dma_map, made.kernel.dma_unmap, threading.RLock())
    return made


@pytest.fixture
def space() -> VfioAddressSpace:
    return VfioAddressSpace(PAGE)


def with_containers(space: VfioAddressSpace, count: int = 2) -> list[Mapped]:
    made = [container(f"IOAS {number}") for number in range(count)]
    for item in made:
        space.add(item)
    return made


def guest(
    space: VfioAddressSpace, size: int, *, offset: int = 0, name: str = "ram"
) -> tuple[AddressSpace, Ram]:
    """An address space with one RAM region, which `space` follows."""
    memory = AddressSpace("memory")
    ram = Ram(name, size, backing=Backing.allocate(ScriptedHost(), size))
    memory.root.add(ram, offset)
    memory.add_listener(space)
    return memory, ram


# -- containers ------------------------------------------------------------------------------------
def test_every_container_gets_each_mapping_once(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    space.map([page(1), page(2)])
    assert first.kernel.calls == second.kernel.calls == ["map 2"]
    space.unmap([page(1)])
    assert iovas(first.mappings) == iovas(second.mappings) == iovas(space.mappings) == [2]


def test_a_container_that_comes_late_gets_everything_that_is_there(
    space: VfioAddressSpace,
) -> None:
    space.map([page(1)])
    space.show_bar(page(9))
    late = container()
    space.add(late)
    assert iovas(late.mappings) == [1, 9]
    assert late.kernel.calls == ["map 2"]


def test_a_late_container_that_cannot_show_bars_gets_the_memory(space: VfioAddressSpace) -> None:
    space.map([page(1)])
    space.show_bar(page(9))
    late = container(capabilities=NO_CAPABILITY)
    space.add(late)
    assert iovas(late.mappings) == [1]


def test_a_late_container_that_cannot_take_it_all_gets_nothing(space: VfioAddressSpace) -> None:
    space.map([page(1), page(5)])
    late = container()
    late.iova_ranges = (IovaRange(0, 2 * PAGE - 1),)
    with pytest.raises(DmaRangeError):
        space.add(late)
    assert late.kernel.mapped == {}
    assert space.containers == []


def test_a_container_that_fails_takes_the_batch_back_in_all(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    space.map([page(1)])
    second.kernel.refuse_map = {3 * PAGE}
    with pytest.raises(DmaError) as caught:
        space.map([page(2), page(3)])
    assert caught.value.index == 1
    for item in (first, second):
        assert iovas(item.mappings) == [1]
        assert list(item.kernel.mapped) == [PAGE]
    assert iovas(space.mappings) == [1]


def test_a_large_batch_goes_to_every_container_as_one(space: VfioAddressSpace) -> None:
    batch = [page(number) for number in range(100)]
    first, second = with_containers(space)
    space.map(batch)
    space.unmap(batch)
    assert first.kernel.calls == second.kernel.calls == ["map 100", "unmap 100"]
    assert list(space.mappings) == []


def test_a_large_batch_is_taken_back_in_all(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    second.kernel.refuse_map = {70 * PAGE}
    with pytest.raises(DmaError) as caught:
        space.map([page(number) for number in range(100)])
    assert caught.value.index == 70
    assert first.kernel.mapped == second.kernel.mapped == {}
    assert list(space.mappings) == list(first.mappings) == []


def test_an_unmap_that_fails_in_one_container_leaves_all_mapped(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    space.map([page(1)])
    second.kernel.refuse_unmap = {PAGE}
    with pytest.raises(DmaError):
        space.unmap([page(1)])
    assert iovas(first.mappings) == iovas(second.mappings) == iovas(space.mappings) == [1]


def test_what_is_not_mapped_cannot_be_unmapped_also_without_containers(
    space: VfioAddressSpace,
) -> None:
    space.map([page(1)])
    with pytest.raises(DmaNotMappedError) as caught:
        space.unmap([page(1), page(2)])
    assert (caught.value.errno, caught.value.index) == (errno.ENOENT, 1)
    assert iovas(space.mappings) == [1]


def test_two_mappings_are_not_unmapped_as_if_they_were_one(space: VfioAddressSpace) -> None:
    (only,) = with_containers(space, 1)
    space.map([page(1), page(2)])
    with pytest.raises(DmaNotMappedError):
        space.unmap([page(1, 2)])
    assert iovas(only.mappings) == iovas(space.mappings) == [1, 2]


def test_an_overlap_is_refused_also_without_containers(space: VfioAddressSpace) -> None:
    space.map([page(1)])
    with pytest.raises(DmaOverlapError) as caught:
        space.map([page(5), page(1)])
    assert (caught.value.errno, caught.value.index) == (errno.EEXIST, 1)
    assert iovas(space.mappings) == [1]


def test_a_container_that_leaves_is_emptied(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    space.map([page(1)])
    space.remove(first)
    assert first.kernel.mapped == {}
    assert iovas(second.mappings) == iovas(space.mappings) == [1]
    assert space.containers == [second]


# -- BARs ------------------------------------------------------------------------------------------
def test_a_bar_is_shown_where_that_is_possible_and_the_rest_is_told(
    space: VfioAddressSpace,
) -> None:
    able, unable = container("able"), container("unable", NO_CAPABILITY)
    space.add(able)
    space.add(unable)
    assert space.show_bar(page(9)) == (unable,)
    assert iovas(able.mappings) == [9]
    assert iovas(unable.mappings) == []
    space.hide_bar(page(9))
    assert iovas(able.mappings) == []
    assert iovas(space.bars) == []


def test_a_bar_that_one_container_refuses_is_shown_in_none(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    second.kernel.refuse_map = {9 * PAGE}
    with pytest.raises(DmaError):
        space.show_bar(page(9))
    assert iovas(first.mappings) == iovas(space.bars) == []


def test_a_bar_is_hidden_in_every_container_even_if_one_fails(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    space.show_bar(page(9))
    second.kernel.refuse_unmap = {9 * PAGE}
    with pytest.raises(DmaError):
        space.hide_bar(page(9))
    assert first.kernel.mapped == {}


def test_memory_and_bars_share_one_space_also_without_containers(space: VfioAddressSpace) -> None:
    space.show_bar(page(9))
    with pytest.raises(DmaOverlapError):
        space.map([page(9)])
    with pytest.raises(DmaOverlapError):
        space.show_bar(page(9))


def as_file(number: int) -> DmaMapping:
    """A BAR that can be had as a file."""
    return evolve(page(number), fd=7)


BY_FILE = Capability.MAP_FILE


def test_a_container_that_maps_files_shows_a_bar_that_is_one(space: VfioAddressSpace) -> None:
    by_file = container("by file", BY_FILE)
    space.add(by_file)
    assert space.show_bar(page(9)) == (by_file,)
    assert space.show_bar(as_file(10)) == ()
    assert iovas(by_file.mappings) == [10]


def test_a_bar_that_does_not_answer_stays_where_it_is_mapped_by_its_address(
    space: VfioAddressSpace,
) -> None:
    by_file, by_address = container("by file", BY_FILE), container("by address")
    space.add(by_file)
    space.add(by_address)
    space.show_bar(as_file(9))
    for _ in range(2):
        space.suspend_bar(as_file(9))
        assert (iovas(by_file.mappings), iovas(by_address.mappings)) == ([], [9])
    for _ in range(2):
        space.resume_bar(as_file(9))
        assert (iovas(by_file.mappings), iovas(by_address.mappings)) == ([9], [9])
    assert by_address.kernel.calls == ["map 1"]


def test_the_addresses_of_a_bar_that_does_not_answer_stay_its_own(space: VfioAddressSpace) -> None:
    space.show_bar(as_file(9))
    space.suspend_bar(as_file(9))
    with pytest.raises(DmaOverlapError):
        space.map([page(9)])


def test_a_bar_that_does_not_answer_can_be_hidden(space: VfioAddressSpace) -> None:
    by_file = container("by file", BY_FILE)
    space.add(by_file)
    space.show_bar(as_file(9))
    space.suspend_bar(as_file(9))
    space.hide_bar(as_file(9))
    assert space.suspended == set()
    space.resume_bar(as_file(9))
    assert iovas(by_file.mappings) == iovas(space.bars) == []


def test_a_late_container_shows_files_of_bars_that_answer(space: VfioAddressSpace) -> None:
    space.show_bar(as_file(9))
    space.show_bar(as_file(10))
    space.suspend_bar(as_file(10))
    late = container("late", BY_FILE)
    space.add(late)
    assert iovas(late.mappings) == [9]
    space.resume_bar(as_file(10))
    assert iovas(late.mappings) == [9, 10]


def test_a_bar_that_one_container_does_not_take_again_is_in_none(space: VfioAddressSpace) -> None:
    first, second = container("first", BY_FILE), container("second", BY_FILE)
    space.add(first)
    space.add(second)
    space.show_bar(as_file(9))
    space.suspend_bar(as_file(9))
    second.kernel.refuse_map = {9 * PAGE}
    with pytest.raises(DmaError):
        space.resume_bar(as_file(9))
    assert iovas(first.mappings) == iovas(second.mappings) == []
    second.kernel.refuse_map = set()
    space.resume_bar(as_file(9))
    assert iovas(first.mappings) == iovas(second.mappings) == [9]


# -- addresses -------------------------------------------------------------------------------------
def test_addresses_are_usable_in_every_container(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    first.iova_ranges = (IovaRange(0, 8 * PAGE - 1),)
    second.iova_ranges = (IovaRange(4 * PAGE, 16 * PAGE - 1),)
    assert space.usable_ranges() == (IovaRange(4 * PAGE, 8 * PAGE - 1),)
    assert space.allocate(PAGE, align=PAGE) == 4 * PAGE


def test_the_interrupt_window_is_left_free_where_no_container_knows_ranges(
    space: VfioAddressSpace,
) -> None:
    for _ in range(2):
        assert all(
            hole.last < MSI_HOLE.start or hole.start > MSI_HOLE.last
            for hole in space.usable_ranges()
        )
        space.add(container())


def test_neither_memory_nor_bars_are_given_out_twice(space: VfioAddressSpace) -> None:
    space.map([page(1)])
    space.show_bar(page(2))
    assert space.allocate(PAGE, align=PAGE) == 3 * PAGE


def test_an_address_that_became_free_is_given_out_again(space: VfioAddressSpace) -> None:
    iova = space.allocate(PAGE, align=PAGE)
    mapping = DmaMapping(iova, PAGE, PAGE)
    space.map([mapping])
    assert space.allocate(PAGE, align=PAGE) == iova + PAGE
    space.unmap([mapping])
    assert space.allocate(PAGE, align=PAGE) == iova


def test_without_a_free_address_there_is_a_limit_error(space: VfioAddressSpace) -> None:
    with pytest.raises(DmaLimitError) as caught:
        space.allocate(4 * PAGE, align=PAGE, below=2 * PAGE)
    assert caught.value.errno == errno.ENOSPC


def test_the_largest_page_suits_every_container(space: VfioAddressSpace) -> None:
    assert space.granularity == PAGE
    space.add(container(page_size=16 * PAGE))
    assert space.granularity == 16 * PAGE


# -- guest memory ----------------------------------------------------------------------------------
def test_guest_memory_reaches_the_containers(space: VfioAddressSpace) -> None:
    (only,) = with_containers(space, 1)
    _memory, ram = guest(space, 4 * PAGE, offset=PAGE)
    (mapping,) = only.mappings
    assert (mapping.iova, mapping.size, mapping.vaddr) == (PAGE, 4 * PAGE, ram.backing.address)


def test_guest_memory_that_goes_is_unmapped(space: VfioAddressSpace) -> None:
    (only,) = with_containers(space, 1)
    memory, ram = guest(space, 4 * PAGE)
    memory.root.remove(ram)
    assert only.kernel.mapped == {}
    assert space.skipped == {}


def test_a_change_that_a_container_refuses_changes_nothing(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    memory, ram = guest(space, 4 * PAGE)
    second.kernel.refuse_map = {8 * PAGE}
    with pytest.raises(DmaError):
        ram.move(8 * PAGE)
    assert ram.offset == 0
    for item in (first, second):
        assert iovas(item.mappings) == [0]
        assert list(item.kernel.mapped) == [0]
    second.kernel.refuse_map = set()
    ram.move(8 * PAGE)
    assert iovas(first.mappings) == [8]
    assert iovas(memory_of(memory)) == [8]


def memory_of(memory: AddressSpace) -> Iterable[DmaMapping]:
    return [flat.mapping() for flat in memory.view.ranges]


def test_a_round_is_two_batches_at_most(space: VfioAddressSpace) -> None:
    (only,) = with_containers(space, 1)
    memory, ram = guest(space, 2 * PAGE)
    other = Ram("other", PAGE, backing=Backing.allocate(ScriptedHost(), PAGE))
    only.kernel.calls.clear()
    with memory.transaction():
        ram.move(16 * PAGE)
        memory.root.add(other, 0)
    assert only.kernel.calls == ["unmap 1", "map 2"]


def test_parts_of_pages_are_left_out_and_said_so(space: VfioAddressSpace) -> None:
    (only,) = with_containers(space, 1)
    memory, ram = guest(space, 2 * PAGE)
    with memory.transaction():
        ram.resize(PAGE + 16)
    assert [(m.iova, m.size) for m in only.mappings] == [(0, PAGE)]
    assert space.skipped == {(PAGE, 16): f"a part of a page of {PAGE:#x}"}
    ram.resize(2 * PAGE)
    assert space.skipped == {}


def test_memory_without_a_whole_page_is_left_out(space: VfioAddressSpace) -> None:
    (only,) = with_containers(space, 1)
    _memory, ram = guest(space, 64)
    assert list(only.mappings) == []
    assert space.skipped == {(0, 64): f"no whole page of {PAGE:#x}"}
    ram.set_enabled(False)
    assert space.skipped == {}


def test_memory_that_is_askew_is_left_out(space: VfioAddressSpace) -> None:
    (only,) = with_containers(space, 1)
    guest(space, 4 * PAGE, offset=16)
    assert list(only.mappings) == []
    assert "differ by 0x10 within a page" in space.skipped[16, 4 * PAGE]


def test_a_refused_change_leaves_the_list_of_what_is_left_out(space: VfioAddressSpace) -> None:
    (only,) = with_containers(space, 1)
    _memory, ram = guest(space, PAGE + 16)
    before = dict(space.skipped)
    only.kernel.refuse_map = {PAGE}
    with pytest.raises(DmaError):
        ram.move(PAGE)
    assert space.skipped == before == {(PAGE, 16): f"a part of a page of {PAGE:#x}"}


# -- memory of devices in guest memory -------------------------------------------------------------
def with_device_memory(space: VfioAddressSpace) -> tuple[AddressSpace, RamDevice]:
    memory = AddressSpace("memory")
    bar = RamDevice("bar", 2 * PAGE, backing=Backing.allocate(ScriptedHost(), 2 * PAGE))
    memory.root.add(bar, 4 * PAGE)
    memory.add_listener(space)
    return memory, bar


def test_memory_of_a_device_is_shown_where_that_can_be_done(space: VfioAddressSpace) -> None:
    able, unable = container("able"), container("unable", NO_CAPABILITY)
    space.add(able)
    space.add(unable)
    with pytest.warns(VfioWarning, match="p2p DMA is unsupported in unable"):
        memory, bar = with_device_memory(space)
    assert iovas(able.mappings) == [4]
    assert iovas(unable.mappings) == iovas(space.mappings) == []
    memory.root.remove(bar)
    assert iovas(able.mappings) == iovas(space.bars) == []


def test_memory_of_a_device_moves_as_ram_does(space: VfioAddressSpace) -> None:
    (able,) = with_containers(space, 1)
    _, bar = with_device_memory(space)
    bar.move(8 * PAGE)
    assert iovas(able.mappings) == iovas(space.bars) == [8]


def test_of_a_change_with_memory_of_a_device_all_is_taken_back(space: VfioAddressSpace) -> None:
    first, second = with_containers(space)
    memory, bar = with_device_memory(space)
    ram = Ram("ram", PAGE, backing=Backing.allocate(ScriptedHost(), PAGE))
    second.kernel.refuse_map = {8 * PAGE}

    def change() -> None:
        with memory.transaction():
            memory.root.add(ram, 0)
            bar.move(8 * PAGE)

    with pytest.raises(DmaError):
        change()
    assert bar.offset == 4 * PAGE
    assert iovas(first.mappings) == iovas(second.mappings) == [4]
    assert iovas(space.bars) == [4]
    assert iovas(space.mappings) == []


# -- what could not be taken back ------------------------------------------------------------------
def test_containers_are_in_step(space: VfioAddressSpace) -> None:
    with_containers(space)
    space.map([page(1)])
    assert space.out_of_step() == ()
    space.bring_into_step()


def test_a_container_that_could_not_be_put_back_is_told_with_its_ranges(
    space: VfioAddressSpace,
) -> None:
    first, second = with_containers(space)
    space.map([page(1)])
    first.kernel.refuse_unmap = {2 * PAGE}
    second.kernel.refuse_map = {2 * PAGE}
    with pytest.raises(DmaError) as caught:
        space.map([page(2)])
    assert "while undoing" in caught.value.__notes__[0]
    (found,) = space.out_of_step()
    assert found == OutOfStep(first, missing=(), extra=(page(2),))
    assert str(found) == f"IOAS 0 still has {page(2)}"


@pytest.fixture
def lacking(space: VfioAddressSpace) -> Mapped:
    """The first of two containers: it refuses to map page 2 again, whose unmapping failed."""
    first, second = with_containers(space)
    space.map([page(1), page(2)])
    first.kernel.refuse_map = {2 * PAGE}
    second.kernel.refuse_unmap = {2 * PAGE}
    with pytest.raises(DmaError):
        space.unmap([page(2)])
    return first


def test_a_container_lacks_what_could_not_be_mapped_again(
    space: VfioAddressSpace, lacking: Mapped
) -> None:
    (found,) = space.out_of_step()
    assert (found.container, found.missing, found.extra) == (lacking, (page(2),), ())
    assert str(found) == f"IOAS 0 lacks {page(2)}"


def test_what_is_out_of_step_is_mended_when_the_kernel_lets_it(
    space: VfioAddressSpace, lacking: Mapped
) -> None:
    with pytest.raises(DmaError):
        space.bring_into_step()
    lacking.kernel.refuse_map = set()
    space.bring_into_step()
    assert space.out_of_step() == ()
    assert iovas(lacking.mappings) == [1, 2]
