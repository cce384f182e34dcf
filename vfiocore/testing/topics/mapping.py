"""Mapping and unmapping, as devices see it."""

from __future__ import annotations

import errno

import pytest

from vfiocore.errors import DmaAddressError, DmaError
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.testing.checks import needs, needs_faults, refused
from vfiocore.testing.topics.base import BackendTopic
from vfiocore.testing.under_test import DeviceFault
from vfiocore.testing.workbench import SAMPLE, Workbench


class MapAndUnmap(BackendTopic):
    """A device reaches what is mapped, where it is mapped, as it may, and nothing else."""

    def test_nothing_is_mapped_at_first(self, bench: Workbench) -> None:
        """A device that was just opened reaches no memory."""
        bench.not_reached(bench.mapping())

    def test_a_device_reads_what_is_mapped(self, bench: Workbench) -> None:
        """At the mapping's iova, from its first byte to its last."""
        mapping = bench.mapping(pages=3)
        bench.container.dma_map([mapping])
        bench.reached(mapping)

    def test_a_device_writes_what_is_mapped(self, bench: Workbench) -> None:
        """And this process finds it in its memory."""
        mapping = bench.mapping()
        bench.container.dma_map([mapping])
        bench.backend.device_write(bench.device, mapping.iova, b"written by a device")
        assert bench.backend.device_read(bench.device, mapping.iova, 7) == b"written"
        bench.reached(mapping)

    def test_a_batch_maps_each_item_where_it_belongs(self, bench: Workbench) -> None:
        """In any order, neighbours or not; each with its own memory behind it."""
        batch = bench.mappings(5, 0, 2, 1)
        bench.container.dma_map(batch)
        bench.reached(*batch)
        bench.not_reached(bench.mapping(3))

    def test_what_is_unmapped_is_gone(self, bench: Workbench) -> None:
        """When dma_unmap returns no device reaches it, and its memory is not pinned."""
        mapping = bench.mapping(pages=2)
        bench.container.dma_map([mapping])
        bench.container.dma_unmap([(mapping.iova, mapping.size)])
        bench.not_reached(mapping)
        bench.empty()

    def test_each_item_of_an_unmapped_batch_is_gone(self, bench: Workbench) -> None:
        """All of them, and none of the others."""
        stays, *goes = bench.mappings(0, 1, 3, 4)
        bench.container.dma_map([stays, *goes])
        bench.container.dma_unmap([(mapping.iova, mapping.size) for mapping in goes])
        bench.not_reached(*goes)
        bench.reached(stays)

    def test_a_range_unmaps_everything_inside(self, bench: Workbench) -> None:
        """Gaps between mappings do not matter."""
        inside = bench.mappings(1, 2, 5)
        outside = bench.mapping(7)
        bench.container.dma_map([*inside, outside])
        bench.container.dma_unmap([(bench.iova(), 7 * bench.page)])
        bench.not_reached(*inside)
        bench.reached(outside)

    def test_everything_can_be_unmapped_at_once(self, bench: Workbench) -> None:
        """As closing does; afterwards the same addresses can be used again."""
        bench.container.dma_map(bench.mappings(0, 1, 5))
        bench.container.unmap_all()
        bench.empty()
        again = bench.mappings(0, 1, 5)
        bench.not_reached(*again)
        bench.container.dma_map(again)
        bench.reached(*again)

    def test_a_device_only_reads_what_it_may_only_read(self, bench: Workbench) -> None:
        """``Access.READ``: its writes do not arrive."""
        needs(bench.backend.protects, "declared: protects=False, the unit knows no access rights")
        needs(bench.backend.survives_faults, "declared: survives_faults=False")
        mapping = bench.mapping(access=Access.READ)
        bench.container.dma_map([mapping])
        with refused(DeviceFault, "a write to memory that was mapped with Access.READ"):
            bench.backend.device_write(bench.device, mapping.iova, bytes(SAMPLE))
        if bench.backend.reads_what_is_read_only:
            bench.reached(mapping)

    def test_one_memory_can_be_seen_at_two_addresses(self, bench: Workbench) -> None:
        """And unmapping one leaves the other."""
        first = bench.mapping()
        second = DmaMapping(bench.iova(4), first.size, first.vaddr)
        bench.container.dma_map([first, second])
        bench.container.dma_unmap([(first.iova, first.size)])
        bench.not_reached(first)
        bench.reached(second)

    def test_shared_memory_is_mapped_with_its_file_and_offset(self, bench: Workbench) -> None:
        """By file where the container can (``Capability.MAP_FILE``), else by address: the same."""
        whole = bench.mapping(pages=4, shared=True)
        part = DmaMapping(
            whole.iova,
            bench.page,
            whole.vaddr + 2 * bench.page,
            fd=whole.fd,
            fd_offset=whole.fd_offset + 2 * bench.page,
        )
        bench.container.dma_map([part])
        bench.reached(part)


BATCHES = [(4, 0), (4, 1), (4, 3), (40, 37)]
"""How many mappings, and which of them is refused."""


class BatchRollback(BackendTopic):
    """All of a batch or nothing: after an error everything is as it was, and the item is named.

    Small batches and large ones: a backend may well take another way for the latter.
    """

    @pytest.mark.parametrize(("count", "bad"), BATCHES)
    def test_a_batch_with_memory_that_is_not_there_maps_nothing(
        self, bench: Workbench, count: int, bad: int
    ) -> None:
        """DmaAddressError, its index that of the item; those before it are unmapped again."""
        needs(bench.backend.checks_memory, "declared: checks_memory=False")
        batch = bench.mappings(*range(count))
        batch[bad] = bench.nowhere(bad)
        with refused(DmaAddressError, "mapping memory that is not there", index=bad):
            bench.container.dma_map(batch)
        bench.not_reached(*batch)
        bench.empty()
        good = bench.mappings(*range(count))
        bench.container.dma_map(good)
        bench.reached(*good)

    @pytest.mark.parametrize(("count", "bad"), BATCHES)
    def test_a_map_that_fails_half_way_maps_nothing(
        self, bench: Workbench, count: int, bad: int
    ) -> None:
        """Whatever the reason; what was mapped before the batch stays."""
        faults = needs_faults(bench.backend.faults)
        before = bench.mapping(count + 9)
        bench.container.dma_map([before])
        batch = bench.mappings(*range(count))
        faults.fail_map(errno.EIO, after=bad)
        with refused(DmaError, "a map that fails with EIO", errno=errno.EIO, index=bad):
            bench.container.dma_map(batch)
        bench.not_reached(*batch)
        bench.reached(before)
        bench.container.dma_map(batch)
        bench.reached(*batch)

    @pytest.mark.parametrize(("count", "bad"), BATCHES)
    def test_an_unmap_that_fails_half_way_unmaps_nothing(
        self, bench: Workbench, count: int, bad: int
    ) -> None:
        """Those before the item are mapped again: the account and the device agree."""
        faults = needs_faults(bench.backend.faults)
        other, *batch = bench.mappings(count + 9, *range(count))
        bench.container.dma_map([other, *batch])
        ranges = [(mapping.iova, mapping.size) for mapping in batch]
        faults.fail_unmap(errno.EIO, after=bad)
        with refused(DmaError, "an unmap that fails with EIO", errno=errno.EIO, index=bad):
            bench.container.dma_unmap(ranges)
        bench.reached(other, *batch)
        bench.container.dma_unmap(ranges)
        bench.not_reached(*batch)

    def test_unmapping_everything_fails_whole(self, bench: Workbench) -> None:
        """Also where one call unmaps all that there is."""
        faults = needs_faults(bench.backend.faults)
        batch = bench.mappings(0, 1, 2)
        bench.container.dma_map(batch)
        faults.fail_unmap(errno.EIO, after=0)
        with refused(DmaError, "unmapping everything, which fails with EIO", errno=errno.EIO):
            bench.container.unmap_all()
        bench.reached(*batch)
        bench.container.unmap_all()
        bench.empty()
