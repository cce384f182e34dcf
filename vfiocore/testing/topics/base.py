"""The fixtures that the topics of a backend share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vfiocore.testing.checks import needs
from vfiocore.testing.under_test import BackendUnderTest
from vfiocore.testing.workbench import MemoryMaker, Workbench


class BackendTopic:
    """Base of a topic; whoever runs it gives the fixture ``backend``."""

    @pytest.fixture
    def memory(self, backend: BackendUnderTest) -> Iterator[MemoryMaker]:
        """Memory to map; it outlives the session."""
        with MemoryMaker(backend.host) as memory:
            yield memory

    @pytest.fixture
    def bench(self, backend: BackendUnderTest, memory: MemoryMaker) -> Iterator[Workbench]:
        """The first device, open, in a container that maps."""
        needs(backend.maps, "declared: Capability.NO_IOMMU, so nothing can be mapped")
        with backend.open() as session:
            yield Workbench(backend, session, memory)

    @pytest.fixture
    def pair(self, backend: BackendUnderTest, memory: MemoryMaker) -> Iterator[Workbench]:
        """Two devices, open, in a container that maps, or in one each."""
        needs(backend.maps, "declared: Capability.NO_IOMMU, so nothing can be mapped")
        needs(len(backend.devices) > 1, "BackendUnderTest.devices has one device alone")
        with backend.open(2) as session:
            yield Workbench(backend, session, memory)
