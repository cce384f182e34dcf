from __future__ import annotations

import errno
import threading
from collections.abc import Iterable

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.container import Batch, Container, DeviceTarget, for_each
from vfiocore.errors import (
    ClosedError,
    DmaAlignmentError,
    DmaError,
    DmaLimitError,
    DmaNotMappedError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
)
from vfiocore.memory import DmaMapping, IovaRange, merged
from vfiocore.sysfs import HostDevice

from .scripted import PAGE, ScriptedHost

LARGE = 40
"""A batch that is looked at as a whole."""


@define(eq=False)
class Kernel:
    """What a kernel would have mapped; it refuses what it is told to."""

    mapped: dict[int, DmaMapping] = field(factory=dict)
    calls: list[str] = field(factory=list)
    refuse_map: set[int] = field(factory=set)
    refuse_unmap: set[int] = field(factory=set)

    def dma_map(self, _container: Container, batch: Batch) -> None:
        self.calls.append(f"map {len(batch)}")
        for_each(batch, self.map_one, self.unmap_one)

    def dma_unmap(self, _container: Container, batch: Batch) -> None:
        self.calls.append(f"unmap {len(batch)}")
        for_each(batch, self.unmap_one, self.map_one)

    def map_one(self, mapping: DmaMapping) -> None:
        if mapping.iova in self.refuse_map:
            raise DmaError(errno.EFAULT, "map", "kernel")
        self.mapped[mapping.iova] = mapping

    def unmap_one(self, mapping: DmaMapping) -> None:
        if mapping.iova in self.refuse_unmap:
            raise DmaError(errno.EIO, "unmap", "kernel")
        del self.mapped[mapping.iova]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def container(kernel: Kernel) -> Container:
    return connected(kernel)


def connected(kernel: Kernel) -> Container:
    container = Container(
        host=ScriptedHost(), backend="toy", label="IOAS 3", page_sizes=PAGE | PAGE << 9
    )
    container.connect(kernel.dma_map, kernel.dma_unmap, threading.RLock())
    return container


def page(number: int, pages: int = 1) -> DmaMapping:
    return DmaMapping(number * PAGE, pages * PAGE, (number + 1000) * PAGE)


def iovas(mappings: Iterable[DmaMapping]) -> list[int]:
    return [mapping.iova // PAGE for mapping in mappings]


# -- mapping ---------------------------------------------------------------------------------------
def test_a_batch_is_one_call_of_the_backend(container: Container, kernel: Kernel) -> None:
    container.dma_map([page(3), page(1)])
    assert kernel.calls == ["map 2"]
    assert iovas(container.mappings) == [1, 3]


def test_the_granularity_is_the_lowest_page_size(container: Container) -> None:
    assert container.page_size == PAGE


@pytest.mark.parametrize(
    "mapping",
    [
        DmaMapping(1, PAGE, PAGE),
        DmaMapping(PAGE, PAGE + 1, PAGE),
        DmaMapping(PAGE, PAGE, PAGE + 8),
        DmaMapping(PAGE, 0, PAGE),
        DmaMapping(PAGE, -PAGE, PAGE),
    ],
)
def test_what_is_not_in_whole_pages_is_refused_before_the_kernel_sees_it(
    container: Container, kernel: Kernel, mapping: DmaMapping
) -> None:
    with pytest.raises(DmaAlignmentError, match="must be multiples of") as caught:
        container.dma_map([mapping])
    assert caught.value.errno == errno.EINVAL
    assert kernel.calls == []


@pytest.mark.parametrize("iova", [-PAGE, (1 << 64) - PAGE, 1 << 64])
def test_a_range_that_leaves_64_bits_is_refused(
    container: Container, kernel: Kernel, iova: int
) -> None:
    with pytest.raises(DmaRangeError) as caught:
        container.dma_map([DmaMapping(iova, 2 * PAGE, PAGE)])
    assert caught.value.errno == errno.EOVERFLOW
    assert kernel.calls == []


def test_the_last_page_of_the_space_can_be_mapped(container: Container) -> None:
    container.dma_map([DmaMapping((1 << 64) - PAGE, PAGE, PAGE)])
    assert len(container.mappings) == 1


@pytest.mark.parametrize(("first", "pages", "fits"), [(4, 2, True), (3, 2, False), (5, 2, False)])
def test_a_mapping_has_to_fit_one_of_the_usable_ranges(
    container: Container, first: int, pages: int, fits: bool
) -> None:
    container.iova_ranges = (IovaRange(0, PAGE - 1), IovaRange(4 * PAGE, 6 * PAGE - 1))
    if fits:
        container.dma_map([page(first, pages)])
        return
    with pytest.raises(DmaRangeError, match="outside the usable ranges 0x0-") as caught:
        container.dma_map([page(first, pages)])
    assert caught.value.errno == errno.EINVAL


def test_an_overlap_names_what_is_there(container: Container, kernel: Kernel) -> None:
    container.dma_map([page(4, 2)])
    with pytest.raises(DmaOverlapError, match=f"iova {4 * PAGE:#x} size") as caught:
        container.dma_map([page(5)])
    assert caught.value.errno == errno.EEXIST
    assert kernel.calls == ["map 1"]


def test_two_items_of_one_batch_must_not_overlap(container: Container, kernel: Kernel) -> None:
    with pytest.raises(DmaOverlapError) as caught:
        container.dma_map([page(1), page(4, 2), page(5)])
    assert caught.value.index == 2
    assert len(container.mappings) == 0
    assert kernel.calls == []


def test_the_entry_limit_is_known_before_the_kernel_is_asked(
    container: Container, kernel: Kernel
) -> None:
    container.max_mappings = 3
    container.dma_map([page(1), page(2)])
    with pytest.raises(DmaLimitError, match="2 of 3 mapping entries are in use") as caught:
        container.dma_map([page(3), page(4)])
    assert (caught.value.errno, caught.value.index) == (errno.ENOSPC, 1)
    assert kernel.calls == ["map 2"]
    container.dma_map([page(3)])


@pytest.mark.parametrize("count", [1, 40])
def test_without_a_known_page_size_nothing_can_be_mapped(container: Container, count: int) -> None:
    container.page_sizes = 0
    with pytest.raises(DmaAlignmentError):
        container.dma_map([page(number) for number in range(1, count + 1)])


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_one_wrong_item_refuses_the_whole_batch_and_is_named(
    container: Container, kernel: Kernel, bad: int
) -> None:
    batch = [page(1), page(2), page(3)]
    batch[bad] = DmaMapping(7, PAGE, PAGE)
    with pytest.raises(DmaAlignmentError) as caught:
        container.dma_map(batch)
    assert caught.value.index == bad
    assert len(container.mappings) == 0
    assert kernel.calls == []


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_one_item_that_the_kernel_refuses_takes_the_whole_batch_back(
    container: Container, kernel: Kernel, bad: int
) -> None:
    kernel.refuse_map = {(bad + 1) * PAGE}
    with pytest.raises(DmaError) as caught:
        container.dma_map([page(1), page(2), page(3)])
    assert caught.value.index == bad
    assert kernel.mapped == {}
    assert len(container.mappings) == 0


def test_an_error_has_the_addresses_in_hex(container: Container) -> None:
    with pytest.raises(DmaAlignmentError) as caught:
        container.dma_map([DmaMapping(0x1001, PAGE, PAGE)])
    assert f"iova 0x1001 size {PAGE:#x} vaddr {PAGE:#x}" in str(caught.value)
    assert caught.value.subject == "IOAS 3"


# -- large batches ---------------------------------------------------------------------------------
def test_a_large_batch_is_mapped_and_unmapped_as_one(container: Container, kernel: Kernel) -> None:
    batch = [page(2 * number) for number in range(LARGE)]
    container.dma_map(batch)
    assert list(container.mappings) == batch
    container.dma_remove(batch)
    assert kernel.calls == [f"map {LARGE}", f"unmap {LARGE}"]
    assert len(container.mappings) == 0


def test_a_large_batch_need_not_be_in_order(container: Container) -> None:
    container.dma_map([page(LARGE - number) for number in range(LARGE)])
    assert iovas(container.mappings) == list(range(1, LARGE + 1))


def test_a_large_batch_may_lie_in_several_usable_ranges(container: Container) -> None:
    container.iova_ranges = (IovaRange(0, 10 * PAGE - 1), IovaRange(20 * PAGE, 1 << 40))
    container.dma_map([page(number) for number in (*range(10), *range(20, 20 + LARGE))])
    assert len(container.mappings) == LARGE + 10


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (DmaMapping(7, PAGE, PAGE), DmaAlignmentError),
        (DmaMapping(PAGE << 30, PAGE, 7), DmaAlignmentError),
        (DmaMapping(PAGE << 30, 0, PAGE), DmaAlignmentError),
        (DmaMapping(-PAGE, PAGE, PAGE), DmaRangeError),
        (DmaMapping(PAGE << 50, PAGE, PAGE), DmaRangeError),
        (page(5), DmaOverlapError),
    ],
)
def test_a_wrong_item_of_a_large_batch_is_named(
    container: Container, kernel: Kernel, wrong: DmaMapping, kind: type[DmaError]
) -> None:
    container.iova_ranges = (IovaRange(0, (PAGE << 40) - 1),)
    batch = [page(number) for number in range(LARGE)]
    batch[LARGE - 3] = wrong
    with pytest.raises(kind) as caught:
        container.dma_map(batch)
    assert caught.value.index == LARGE - 3
    assert len(container.mappings) == 0
    assert kernel.calls == []


def test_the_window_that_a_mapping_was_checked_by_goes_with_the_ranges(
    container: Container,
) -> None:
    container.dma_map([page(1)])
    container.iova_ranges = (IovaRange(0, 4 * PAGE - 1),)
    container.dma_map([page(3)])
    with pytest.raises(DmaRangeError):
        container.dma_map([page(4)])
    container.page_sizes = 2 * PAGE
    with pytest.raises(DmaAlignmentError):
        container.dma_map([page(2)])


# -- unmapping -------------------------------------------------------------------------------------
def test_a_range_takes_every_mapping_inside(container: Container, kernel: Kernel) -> None:
    container.dma_map([page(1), page(3), page(7)])
    container.dma_unmap([(0, 5 * PAGE)])
    assert iovas(container.mappings) == [7]
    assert list(kernel.mapped) == [7 * PAGE]


def test_where_nothing_is_mapped_there_is_nothing_to_unmap(
    container: Container, kernel: Kernel
) -> None:
    container.dma_map([page(1)])
    with pytest.raises(DmaNotMappedError) as caught:
        container.dma_unmap([(PAGE, PAGE), (5 * PAGE, PAGE)])
    assert (caught.value.errno, caught.value.index) == (errno.ENOENT, 1)
    assert iovas(container.mappings) == [1]
    assert kernel.calls == ["map 1"]


@pytest.mark.parametrize(("first", "pages"), [(4, 1), (3, 2), (5, 3), (5, 1)])
def test_unmapping_part_of_a_mapping_is_refused_and_changes_nothing(
    container: Container, kernel: Kernel, first: int, pages: int
) -> None:
    container.dma_map([page(4, 3)])
    with pytest.raises(DmaSplitError, match=f"cuts the mapping at iova {4 * PAGE:#x}") as caught:
        container.dma_unmap([(first * PAGE, pages * PAGE)])
    assert caught.value.errno == errno.EINVAL
    assert iovas(container.mappings) == [4]
    assert kernel.calls == ["map 1"]


def test_an_unmap_that_the_kernel_refuses_leaves_everything_mapped_and_names_the_range(
    container: Container, kernel: Kernel
) -> None:
    container.dma_map([page(1), page(2), page(3)])
    kernel.refuse_unmap = {3 * PAGE}
    with pytest.raises(DmaError) as caught:
        container.dma_unmap([(PAGE, 2 * PAGE), (3 * PAGE, PAGE)])
    assert caught.value.index == 1
    assert iovas(container.mappings) == [1, 2, 3]
    assert sorted(kernel.mapped) == [PAGE, 2 * PAGE, 3 * PAGE]


@pytest.mark.parametrize("count", [2, 40])
def test_what_is_not_mapped_as_it_is_named_cannot_be_removed(
    container: Container, kernel: Kernel, count: int
) -> None:
    batch = [page(number) for number in range(count)]
    container.dma_map(batch)
    for wrong in ([*batch, page(99)], [*batch, batch[0]], [*batch[:-1], page(count - 1, 2)]):
        with pytest.raises(DmaNotMappedError) as caught:
            container.dma_remove(wrong)
        assert caught.value.index == len(wrong) - 1
    assert list(container.mappings) == batch
    assert kernel.calls == [f"map {count}"]


def test_unmapping_everything_is_one_call(container: Container, kernel: Kernel) -> None:
    container.dma_map([page(1), page(2)])
    container.unmap_all()
    assert kernel.calls == ["map 2", "unmap 2"]
    assert len(container.mappings) == 0


def test_unmapping_everything_where_nothing_is_mapped_asks_nobody(
    container: Container, kernel: Kernel
) -> None:
    container.unmap_all()
    assert kernel.calls == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(1, 4)), max_size=30))
def test_the_kernel_has_what_the_container_says(steps: list[tuple[bool, int, int]]) -> None:
    kernel = Kernel()
    container = connected(kernel)
    for mapping, first, pages in steps:
        try:
            if mapping:
                container.dma_map([page(first, pages)])
            else:
                container.dma_unmap([(first * PAGE, pages * PAGE)])
        except DmaError:
            pass
        assert sorted(kernel.mapped) == [item.iova for item in container.mappings]


# -- life ------------------------------------------------------------------------------------------
def test_a_container_without_a_backend_cannot_map() -> None:
    container = Container(host=ScriptedHost(), backend="toy", label="IOAS 3", page_sizes=PAGE)
    with pytest.raises(ClosedError):
        container.dma_map([page(1)])


def test_a_closed_container_neither_maps_nor_unmaps(container: Container) -> None:
    container.dma_map([page(1)])
    container.closed = True
    with pytest.raises(ClosedError, match="IOAS 3 is closed"):
        container.dma_map([page(2)])
    with pytest.raises(ClosedError):
        container.dma_unmap([(PAGE, PAGE)])
    with pytest.raises(ClosedError):
        container.dma_remove([page(1)])


def test_mapping_waits_for_the_sessions_lock(container: Container) -> None:
    entered = threading.Event()

    def work() -> None:
        container.dma_map([page(1)])
        entered.set()

    thread = threading.Thread(target=work)
    with container.lock:
        thread.start()
        assert not entered.wait(0.05)
    thread.join(5)
    assert entered.is_set()


# -- for_each --------------------------------------------------------------------------------------
def test_what_was_done_before_a_failure_is_undone_in_reverse() -> None:
    record: list[str] = []

    def do(mapping: DmaMapping) -> None:
        if mapping.iova == 3 * PAGE:
            raise DmaError(errno.EIO, "map", "x")
        record.append(f"+{mapping.iova // PAGE}")

    with pytest.raises(DmaError) as caught:
        for_each([page(1), page(2), page(3)], do, lambda m: record.append(f"-{m.iova // PAGE}"))
    assert record == ["+1", "+2", "-2", "-1"]
    assert caught.value.index == 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_any_failure_is_undone(kind: type[BaseException]) -> None:
    undone: list[int] = []

    def do(mapping: DmaMapping) -> None:
        if mapping.iova == 2 * PAGE:
            raise kind

    with pytest.raises(kind):
        for_each([page(1), page(2)], do, lambda m: undone.append(m.iova // PAGE))
    assert undone == [1]


def test_the_first_error_is_raised_also_when_undoing_fails() -> None:
    def do(mapping: DmaMapping) -> None:
        if mapping.iova == 3 * PAGE:
            raise DmaError(errno.EIO, "map", "x", "first")

    undone: list[int] = []

    def undo(mapping: DmaMapping) -> None:
        undone.append(mapping.iova // PAGE)
        raise DmaError(errno.EIO, "unmap", "x", "second")

    with pytest.raises(DmaError, match="first") as caught:
        for_each([page(1), page(2), page(3)], do, undo)
    assert undone == [2, 1]
    assert len(caught.value.__notes__) == 2


# -- targets ---------------------------------------------------------------------------------------
def test_only_sysfs_tells_a_mediated_device() -> None:
    mdev = HostDevice("uuid", "mdev", "/sys/devices/x", "vfio_mdev", 1, None)
    assert DeviceTarget("uuid", mdev).is_mdev
    assert not DeviceTarget("VFIO_FD9", None, 9).is_mdev


# -- neighbours that were merged -------------------------------------------------------------------
def test_merged_neighbours_are_one_mapping_and_go_as_one(
    container: Container, kernel: Kernel
) -> None:
    pages = merged([page(number) for number in range(LARGE)])
    container.dma_map(pages)
    container.dma_unmap([(0, LARGE * PAGE)])
    assert kernel.calls == ["map 1", "unmap 1"]
    assert kernel.mapped == {}


def test_one_of_merged_neighbours_does_not_go_alone(container: Container, kernel: Kernel) -> None:
    container.dma_map(merged([page(number) for number in range(LARGE)]))
    with pytest.raises(DmaSplitError):
        container.dma_unmap([(PAGE, PAGE)])
    assert len(kernel.mapped) == 1
