"""What cannot be mapped or unmapped: overlaps, cuts, misalignment, addresses, numbers."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Sequence

import pytest
from attrs import evolve

from vfiocore.errors import (
    DmaAlignmentError,
    DmaLimitError,
    DmaNotMappedError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
)
from vfiocore.memory.ranges import IovaRange
from vfiocore.testing.checks import needs, refused
from vfiocore.testing.topics.base import BackendTopic
from vfiocore.testing.under_test import BackendUnderTest
from vfiocore.testing.workbench import MemoryMaker, Workbench


class OverlapAndLimits(BackendTopic):
    """Each mistake has one class of exception, on every backend, and changes nothing."""

    @pytest.mark.parametrize(("at", "pages"), [(4, 2), (3, 2), (5, 2), (3, 4), (4, 1), (5, 1)])
    def test_nothing_is_mapped_over_a_mapping(self, bench: Workbench, at: int, pages: int) -> None:
        """DmaOverlapError, however the two meet."""
        there = bench.mapping(4, pages=2)
        bench.container.dma_map([there])
        with refused(DmaOverlapError, "mapping over a mapping", errno=errno.EEXIST):
            bench.container.dma_map([bench.mapping(at, pages=pages)])
        bench.reached(there)

    def test_items_of_a_batch_do_not_overlap_each_other(self, bench: Workbench) -> None:
        """The second one is at fault, and the first is not mapped either."""
        batch = [bench.mapping(0, pages=2), bench.mapping(1)]
        with refused(DmaOverlapError, "a batch that overlaps itself", index=1):
            bench.container.dma_map(batch)
        bench.not_reached(batch[0])

    @pytest.mark.parametrize("what", ["iova", "vaddr", "size"])
    def test_addresses_and_sizes_are_whole_pages(self, bench: Workbench, what: str) -> None:
        """Of the container: ``Container.page_size``."""
        good = bench.mapping(pages=2)
        bad = evolve(good, **{what: getattr(good, what) + 8})
        with refused(DmaAlignmentError, f"a misaligned {what}", errno=errno.EINVAL):
            bench.container.dma_map([bad])
        bench.not_reached(good)

    def test_an_empty_mapping_is_refused(self, bench: Workbench) -> None:
        """A size of 0 would mean 2^64 to some kernels, and nothing to others."""
        with refused(DmaAlignmentError, "a mapping of 0 bytes"):
            bench.container.dma_map([evolve(bench.mapping(), size=0)])

    def test_nothing_is_mapped_past_the_end_of_the_space(self, bench: Workbench) -> None:
        """DmaRangeError for what would wrap around."""
        page = bench.page
        bad = evolve(bench.mapping(pages=2), iova=(1 << 64) - page)
        with refused(DmaRangeError, "a mapping that goes past 2^64"):
            bench.container.dma_map([bad])

    def test_only_what_is_mapped_is_unmapped(self, bench: Workbench) -> None:
        """DmaNotMappedError for a range with nothing in it."""
        with refused(DmaNotMappedError, "unmapping where nothing is", errno=errno.ENOENT):
            bench.container.dma_unmap([(bench.iova(), bench.page)])

    @pytest.mark.parametrize(("at", "pages"), [(0, 1), (1, 2), (1, 5), (2, 1)])
    def test_a_mapping_is_not_cut(self, bench: Workbench, at: int, pages: int) -> None:
        """DmaSplitError for a range that takes a part of one, and all of it stays."""
        whole = bench.mapping(0, pages=4)
        bench.container.dma_map([whole])
        with refused(DmaSplitError, "unmapping a part of a mapping", errno=errno.EINVAL):
            bench.container.dma_unmap([(bench.iova(at), pages * bench.page)])
        bench.reached(whole)

    def test_a_refused_range_leaves_the_others_of_its_batch(self, bench: Workbench) -> None:
        """The error names the range by its place in what was asked."""
        first, second = bench.mappings(0, 2)
        bench.container.dma_map([first, second])
        ranges = [(first.iova, bench.page), (bench.iova(5), bench.page)]
        with refused(DmaNotMappedError, "unmapping where nothing is", index=1):
            bench.container.dma_unmap(ranges)
        bench.reached(first, second)

    def test_as_many_mappings_as_declared_can_be_made(self, bench: Workbench) -> None:
        """``Container.max_mappings`` of them; then DmaLimitError, until one is unmapped."""
        limit = bench.backend.max_mappings
        if limit is None:
            pytest.skip("declared: max_mappings=None, no limit that a test could reach")
        assert bench.container.max_mappings == limit, "Container.max_mappings is kept current"
        room = limit + 1
        batch = bench.mappings(*range(limit), room=room)
        one_more = bench.mapping(limit, room=room)
        bench.container.dma_map(batch)
        with refused(DmaLimitError, "one mapping more than there are entries", errno=errno.ENOSPC):
            bench.container.dma_map([one_more])
        bench.reached(batch[0], batch[-1])
        bench.container.dma_unmap([(batch[0].iova, batch[0].size)])
        bench.container.dma_map([one_more])
        bench.reached(one_more)


class Ranges(BackendTopic):
    """``Container.iova_ranges``: where something can be mapped, now."""

    def test_ranges_are_sorted_and_apart(self, bench: Workbench) -> None:
        """Empty means that no limit is known."""
        ranges = bench.container.iova_ranges
        for before, after in itertools.pairwise(ranges):
            assert before.last < after.start, f"{before} and {after} are out of order, or overlap"

    def test_the_ends_of_every_range_can_be_mapped(self, bench: Workbench) -> None:
        """What is said to be usable is usable."""
        needs(bench.container.iova_ranges, "this container knows no limit of its addresses")
        page, some = bench.page, bench.mapping()
        for usable in bench.container.iova_ranges:
            first = -(-usable.start // page) * page
            last = (usable.last + 1) // page * page - page
            ends = [evolve(some, iova=iova) for iova in {first, last}]
            bench.container.dma_map(ends)
            bench.reached(*ends)
            bench.container.dma_unmap([(end.iova, end.size) for end in ends])

    def test_nothing_is_mapped_outside_of_them(self, bench: Workbench) -> None:
        """DmaRangeError."""
        ranges, page = bench.container.iova_ranges, bench.page
        places = {usable.last + 1 for usable in ranges} | {u.start - page for u in ranges}
        outside = [
            iova
            for iova in places
            if 0 <= iova < 1 << 64 and not any(usable.covers(iova, page) for usable in ranges)
        ]
        needs(outside, "this container knows no limit of its addresses")
        for iova in outside:
            with refused(DmaRangeError, f"mapping at {iova:#x}, outside of every range"):
                bench.container.dma_map([evolve(bench.mapping(), iova=iova & -page)])

    def test_ranges_follow_the_devices_that_come_and_go(
        self, backend: BackendUnderTest, memory: MemoryMaker
    ) -> None:
        """They are read again after each attach and each detach."""
        if backend.narrow is None:
            pytest.skip("BackendUnderTest.narrow is None: no device with fewer addresses")
        with backend.open() as session:
            wide = session["device0"].container.iova_ranges
        with backend.open(devices=[backend.devices[0], backend.narrow]) as session:
            bench = Workbench(backend, session, memory)
            both = bench.container.iova_ranges
            assert both != wide, (
                "a device with fewer usable addresses joined, and iova_ranges are what they were:"
                " read them again at the end of vfio_setup_context"
            )
            for iova in _lost(wide, both, bench.page):
                with refused(DmaRangeError, f"mapping at {iova:#x}, which the second device lacks"):
                    bench.container.dma_map([evolve(bench.mapping(), iova=iova)])
            session.close_device("device1")
            assert bench.container.iova_ranges == wide, (
                "the device left, and its limits stayed: read iova_ranges again on the way out"
            )


def _lost(before: Sequence[IovaRange], now: Sequence[IovaRange], page: int) -> list[int]:
    """Pages beside the ranges of `now` that could be mapped before, and cannot any more."""
    places = {usable.last + 1 for usable in now} | {usable.start - 1 for usable in now}
    return [
        iova
        for iova in sorted(place & -page for place in places)
        if any(usable.covers(iova, page) for usable in before)
        and not any(usable.covers(iova, page) for usable in now)
    ]
