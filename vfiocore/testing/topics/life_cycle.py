"""Opening and closing."""

from __future__ import annotations

import pytest

from vfiocore.errors import ClosedError, KernelError
from vfiocore.memory.mapping import DmaMapping
from vfiocore.testing.checks import needs, nothing_left, refused
from vfiocore.testing.topics.base import BackendTopic
from vfiocore.testing.under_test import BackendUnderTest
from vfiocore.testing.workbench import MemoryMaker, Workbench


class LifeCycle(BackendTopic):
    """What opening gives, and that closing takes all of it back."""

    def test_a_container_tells_what_it_is(self, backend: BackendUnderTest) -> None:
        """Its backend, a name for messages, the sizes of its pages, and the device in it."""
        with backend.open() as session:
            device = session["device0"]
            container = device.container
            assert container.backend == backend.name, "Container.backend is the backend's name"
            assert container.label, "Container.label is what messages call it"
            assert container.page_sizes > 0, "Container.page_sizes is a bitmap of sizes in bytes"
            assert [item.target.name for item in container.attachments] == [device.name], (
                "vfio_setup_context enters its attachment into container.attachments"
            )
            assert not container.closed

    def test_capabilities_are_those_that_are_declared(self, backend: BackendUnderTest) -> None:
        """Who asks a container what it can do gets the truth."""
        with backend.open() as session:
            found = session["device0"].container.capabilities
            assert found == backend.capabilities, (
                f"declared are {backend.capabilities}, and Container.capabilities has {found}"
            )

    def test_an_object_outlives_its_devices(self, backend: BackendUnderTest) -> None:
        """Closing the last device leaves the object, and the session, open."""
        with backend.open() as session:
            session.close_device("device0")
            assert len(session) == 0
        nothing_left(backend.leftovers, "the last device and then the session were closed")

    def test_closing_closes_device_and_container(self, backend: BackendUnderTest) -> None:
        """Neither can be used any more, and says so."""
        session = backend.open()
        device = session["device0"]
        session.close()
        assert device.access.closed, "vfio_close_device closes the DeviceAccess"
        assert device.container.closed, "vfio_teardown_context closes a container without devices"
        assert device.container.attachments == [], "it takes the attachment out of the list"
        with refused(ClosedError, "asking a closed device"):
            device.access.info()

    def test_a_closed_container_maps_nothing(self, backend: BackendUnderTest) -> None:
        """ClosedError, rather than whatever a closed fd would answer."""
        with MemoryMaker(backend.host) as memory:
            session = backend.open()
            container = session["device0"].container
            piece = memory.make(container.page_size, align=container.page_size)
            session.close()
            with refused(ClosedError, "mapping in a closed container"):
                container.dma_map([DmaMapping(0, piece.size, piece.vaddr)])

    def test_closing_again_does_nothing(self, backend: BackendUnderTest) -> None:
        """`Session.close` is idempotent."""
        session = backend.open()
        session.close()
        session.close()

    @pytest.mark.parametrize("times", [3])
    def test_what_was_closed_can_be_opened_again(
        self, backend: BackendUnderTest, times: int
    ) -> None:
        """As often as one likes."""
        for _ in range(times):
            with backend.open() as session:
                session["device0"].access.info()

    def test_a_device_is_open_once(self, backend: BackendUnderTest) -> None:
        """A second opening is refused, as a KernelError, and disturbs the first in nothing."""
        with backend.open() as session:
            with refused(KernelError, "opening a device that is open"):
                backend.open()
            session["device0"].access.info()

    def test_two_sessions_do_not_meet(self, backend: BackendUnderTest, memory: MemoryMaker) -> None:
        """Devices of two sessions see two address spaces."""
        needs(backend.maps, "declared: Capability.NO_IOMMU, so nothing can be mapped")
        needs(len(backend.devices) > 1, "BackendUnderTest.devices has one device alone")
        one, two = backend.devices[:2]
        with backend.open(devices=[one]) as first, backend.open(devices=[two]) as second:
            benches = [Workbench(backend, session, memory) for session in (first, second)]
            mappings = [bench.mapping() for bench in benches]
            for bench, mapping in zip(benches, mappings, strict=True):
                bench.container.dma_map([mapping])
            first.close()
            benches[1].reached(mappings[1])
