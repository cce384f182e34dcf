"""Several devices: in one container, in several, coming and going."""

from __future__ import annotations

from vfiocore.errors import VfioError
from vfiocore.testing.checks import needs, nothing_left, refused
from vfiocore.testing.topics.base import BackendTopic
from vfiocore.testing.under_test import BackendUnderTest, PassedDevice
from vfiocore.testing.workbench import MemoryMaker, Workbench


class AttachAndDetach(BackendTopic):
    """A device that comes finds what is mapped; one that goes leaves the others alone."""

    def test_a_device_that_comes_late_finds_what_is_mapped(self, backend: BackendUnderTest) -> None:
        """Memory was there before the first device, and the second joined with it mapped."""
        needs(backend.maps, "declared: Capability.NO_IOMMU, so nothing can be mapped")
        with backend.open(2) as session, MemoryMaker(backend.host) as memory:
            bench = Workbench(backend, session, memory)
            size, start = 16 * bench.page, bench.iova()
        words = f"-object memory-backend-memfd,id=ram0,size={size},addr={start}"
        with backend.open(2, first=words) as session, MemoryMaker(backend.host) as memory:
            Workbench(backend, session, memory).reached(*session.space.mappings)
        nothing_left(backend.leftovers, "a session with memory of its own")

    def test_every_device_reaches_what_is_mapped(self, pair: Workbench) -> None:
        """Through one container or two."""
        batch = pair.mappings(0, 3)
        pair.session.space.map(batch)
        pair.reached(*batch)
        pair.session.space.unmap(batch[:1])
        pair.not_reached(batch[0])
        pair.reached(batch[1])

    def test_devices_are_listed_in_the_order_of_arrival(self, pair: Workbench) -> None:
        """Each in ``attachments`` of its container."""
        wanted = [device.name for device in pair.devices]
        containers = dict.fromkeys(device.container for device in pair.devices)
        found = [item.target.name for each in containers for item in each.attachments]
        assert found == wanted, "vfio_setup_context appends its attachment to the container's list"

    def test_the_first_device_can_go(self, pair: Workbench) -> None:
        """The second keeps its container, and reaches what it reached."""
        self._one_goes(pair, "device0", "device1")

    def test_the_second_device_can_go(self, pair: Workbench) -> None:
        """And the first does not notice."""
        self._one_goes(pair, "device1", "device0")

    def test_the_last_device_takes_the_container_along(self, pair: Workbench) -> None:
        """Whatever was mapped in it."""
        containers = {device.container for device in pair.devices}
        pair.session.space.map(pair.mappings(0, 1))
        pair.session.close_device("device0")
        pair.session.close_device("device1")
        assert all(container.closed for container in containers), (
            "vfio_teardown_context closes a container when its last attachment leaves"
        )
        pinned = pair.backend.pinned_bytes()
        assert not pinned, f"no device is open, and {pinned} bytes are pinned"

    def _one_goes(self, pair: Workbench, goes: str, stays: str) -> None:
        before, after = pair.mappings(0, 3)
        pair.session.space.map([before])
        left = pair.session[stays]
        pair.session.close_device(goes)
        assert [item.target.name for item in left.container.attachments] == [left.name], (
            "vfio_teardown_context takes its own attachment out of the list, and no other"
        )
        assert not left.container.closed, "a container with a device in it stays open"
        left.access.info()
        pair.session.space.map([after])
        pair.reached(before, after, by=[left])


class Sharing(BackendTopic):
    """Containers are joined where they can be, so that memory is pinned once; objects are apart."""

    def test_devices_join_as_declared(self, pair: Workbench) -> None:
        """In one container, or in one each: ``ContextRequest.containers`` are those to join."""
        found = len({device.container for device in pair.devices})
        wanted = 1 if pair.backend.joins else len(pair.devices)
        assert found == wanted, (
            f"joins={pair.backend.joins}, and {len(pair.devices)} devices have {found} containers"
        )

    def test_memory_of_a_shared_container_is_pinned_once(self, pair: Workbench) -> None:
        """However many devices there are."""
        needs(pair.backend.joins, "declared: joins=False")
        needs(pair.backend.pinned_bytes() is not None, "what is pinned cannot be seen")
        batch = pair.mappings(0, 1, 2)
        pair.session.space.map(batch)
        assert pair.backend.pinned_bytes() == sum(mapping.size for mapping in batch)

    def test_two_objects_are_two_address_spaces(
        self, backend: BackendUnderTest, memory: MemoryMaker
    ) -> None:
        """A device is never put into a container of another object."""
        needs(backend.maps, "declared: Capability.NO_IOMMU, so nothing can be mapped")
        needs(backend.has_objects, "declared: has_objects=False")
        with backend.open(2, objects=2) as session:
            bench = Workbench(backend, session, memory)
            first, second = (device.container for device in bench.devices)
            assert first is not second, "devices of two objects share a container"
            only = bench.mapping()
            first.dma_map([only])
            bench.reached(only, by=bench.devices[:1])
            bench.not_reached(only, by=bench.devices[1:])

    def test_memory_that_two_objects_show_is_let_go_by_each(
        self, backend: BackendUnderTest, memory: MemoryMaker
    ) -> None:
        """One takes it down, and the other still shows it."""
        needs(backend.maps, "declared: Capability.NO_IOMMU, so nothing can be mapped")
        needs(backend.has_objects, "declared: has_objects=False")
        with backend.open(2, objects=2) as session:
            bench = Workbench(backend, session, memory)
            mapping = bench.mapping()
            session.space.map([mapping])
            bench.reached(mapping)
            second = session["device1"]
            session.close_device("device0")
            bench.reached(mapping, by=[second])
        nothing_left(backend.leftovers, "two objects that showed the same memory")

    def test_a_passed_device_is_used_and_left_open(self, backend: BackendUnderTest) -> None:
        """``accepts_device_fd``: it belongs to whoever opened it."""
        passed = backend.pass_device()
        if passed is None:
            self._passing_is_refused(backend)
            return
        try:
            with backend.open(devices=[passed.words]) as session:
                session["device0"].access.info()
            self._still_open(backend, passed)
        finally:
            for fd in passed.fds:
                backend.host.close(fd)
        nothing_left(backend.leftovers, "a device that was passed in, and closed by its owner")

    def _passing_is_refused(self, backend: BackendUnderTest) -> None:
        fd = backend.host.memfd("no-device", backend.host.page_size)
        try:
            words = f"{backend.devices[0].partition(',')[0]},fd={fd}"
            with refused(VfioError, "passing an fd to a backend that takes none"):
                backend.open(devices=[words]).close()
            backend.host.fstat(fd)
        finally:
            backend.host.close(fd)

    def _still_open(self, backend: BackendUnderTest, passed: PassedDevice) -> None:
        for fd in passed.fds:
            try:
                backend.host.fstat(fd)
            except OSError:
                text = (
                    f"fd {fd} was passed in, and the backend closed it: DeviceAccess(owned=False)"
                )
                raise AssertionError(text) from None
