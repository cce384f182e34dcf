"""What is raised: the same class for the same mistake on every backend, with what one needs to know."""

from __future__ import annotations

import errno

import pytest

from vfiocore.container import Capability
from vfiocore.errors import (
    DmaAddressError,
    DmaError,
    DmaMemlockError,
    KernelError,
    UnsupportedError,
)
from vfiocore.memory.buffer import address_of
from vfiocore.memory.mapping import DmaMapping
from vfiocore.region import Region
from vfiocore.testing.checks import needs, needs_faults, refused
from vfiocore.testing.topics.base import BackendTopic
from vfiocore.testing.under_test import BackendUnderTest
from vfiocore.testing.workbench import MemoryMaker, Workbench


class Errors(BackendTopic):
    """Errors name the operation, the object and the addresses, and say what to do."""

    def test_memory_that_is_not_there_is_an_address_error(self, bench: Workbench) -> None:
        """DmaAddressError with EFAULT."""
        needs(bench.backend.checks_memory, "declared: checks_memory=False")
        mapping = bench.nowhere()
        with refused(DmaAddressError, "mapping memory that is not there", errno=errno.EFAULT) as no:
            bench.container.dma_map([mapping])
        self._tells(no.error, bench, mapping)

    def test_too_much_memory_is_a_memlock_error(self, bench: Workbench) -> None:
        """DmaMemlockError with ENOMEM, and a hint, since users are known to be stuck here."""
        limit = bench.backend.memlock_limit
        if limit is None:
            pytest.skip("declared: memlock_limit=None, no limit that a test could reach")
        pages = limit // bench.page + 1
        mapping = bench.mapping(pages=pages, room=pages)
        with refused(DmaMemlockError, "pinning more than is allowed", errno=errno.ENOMEM) as no:
            bench.container.dma_map([mapping])
        self._tells(no.error, bench, mapping)
        assert no.error.hint, "a DmaMemlockError has a hint: what the limit is, how to raise it"
        bench.empty()

    def test_a_failed_map_is_a_dma_error(self, bench: Workbench) -> None:
        """Whatever the errno: never a bare OSError."""
        faults, mapping = needs_faults(bench.backend.faults), bench.mapping()
        faults.fail_map(errno.EIO, after=0)
        with refused(DmaError, "a map that fails with EIO", errno=errno.EIO) as no:
            bench.container.dma_map([mapping])
        self._tells(no.error, bench, mapping)

    def test_a_failed_unmap_is_a_dma_error(self, bench: Workbench) -> None:
        """And never taken for a success."""
        faults, (mapping, other) = needs_faults(bench.backend.faults), bench.mappings(0, 1)
        bench.container.dma_map([mapping, other])
        faults.fail_unmap(errno.EIO, after=0)
        with refused(DmaError, "an unmap that fails with EIO", errno=errno.EIO) as no:
            bench.container.dma_unmap([(mapping.iova, mapping.size)])
        self._tells(no.error, bench, mapping)

    def test_without_an_iommu_nothing_is_mapped(
        self, backend: BackendUnderTest, memory: MemoryMaker
    ) -> None:
        """``Capability.NO_IOMMU``: UnsupportedError, rather than a mapping that does nothing."""
        needs(not backend.maps, "declared: there is an IOMMU")
        with backend.open() as session:
            bench = Workbench(backend, session, memory)
            mapping = bench.mapping()
            with refused(UnsupportedError, "mapping without an IOMMU"):
                bench.container.dma_map([mapping])
            assert not list(bench.container.mappings)

    def test_another_devices_bar_is_mapped_or_refused(self, pair: Workbench) -> None:
        """``Capability.BAR_BY_ADDRESS`` declared: it works; absent: DmaError, and nothing mapped."""
        region = self._mappable_region(pair)
        region.map()
        area = region.areas[0]
        with region.view(area.offset, area.size) as view:
            bar = DmaMapping(pair.iova(), area.size, address_of(view))
        if Capability.BAR_BY_ADDRESS in pair.backend.capabilities:
            pair.container.dma_map([bar])
            pair.container.dma_unmap([(bar.iova, bar.size)])
            return
        with refused(DmaError, "mapping a BAR, which is declared absent"):
            pair.container.dma_map([bar])
        pair.not_reached(bar, by=[pair.device])

    def _mappable_region(self, bench: Workbench) -> Region:
        device = bench.devices[-1]
        for index in range(device.info.num_regions):
            try:
                region = device.region(index)
            except KernelError:
                continue  # an index that this device has not
            if region.areas:
                return region
        pytest.skip(f"{device.name} has no region that can be mapped")

    def _tells(self, error: KernelError, bench: Workbench, mapping: DmaMapping) -> None:
        assert error.operation, "KernelError.operation is what was asked, by its uAPI name"
        assert error.subject == bench.container.label, "KernelError.subject is the container"
        assert f"{mapping.iova:#x}" in str(error), "the message has the iova, in hex"
