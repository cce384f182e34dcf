"""What is left afterwards: nothing."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from vfiocore.errors import VfioError
from vfiocore.testing.checks import needs, needs_faults, nothing_left, refused
from vfiocore.testing.topics.base import BackendTopic
from vfiocore.testing.under_test import BackendUnderTest, Faults
from vfiocore.testing.workbench import MemoryMaker, Workbench


class TeardownLeaks(BackendTopic):
    """Everything opened is closed, everything mapped is unmapped, also when a step fails."""

    def test_closing_leaves_nothing(self, backend: BackendUnderTest) -> None:
        """No file, no mapping, no pinned page."""
        backend.open().close()
        nothing_left(backend.leftovers, "one device was opened and closed")

    def test_closing_several_devices_leaves_nothing(self, backend: BackendUnderTest) -> None:
        """Whatever they share."""
        needs(len(backend.devices) > 1, "BackendUnderTest.devices has one device alone")
        backend.open(2).close()
        nothing_left(backend.leftovers, "two devices were opened and closed")

    def test_closing_with_memory_mapped_leaves_nothing(self, bench: Workbench) -> None:
        """Mappings go with the last device."""
        bench.container.dma_map(bench.mappings(0, 1, 7))
        bench.close("a session was closed with memory mapped")

    def test_a_buffer_that_was_not_closed_leaves_nothing(self, bench: Workbench) -> None:
        """`Session.dma_alloc`, and then nothing."""
        bench.session.dma_alloc(3 * bench.page)
        bench.close("a session was closed with a buffer alive")

    def test_a_batch_that_was_refused_leaves_nothing(self, bench: Workbench) -> None:
        """Neither pinned nor mapped."""
        needs(bench.backend.checks_memory, "declared: checks_memory=False")
        with refused(VfioError, "mapping memory that is not there"):
            bench.container.dma_map([*bench.mappings(0, 1), bench.nowhere(2)])
        bench.empty()
        bench.close("a batch was refused")

    def test_a_device_that_cannot_be_opened_takes_the_others_down(
        self, backend: BackendUnderTest
    ) -> None:
        """The configuration as a whole is open, or nothing of it."""
        needs(len(backend.devices) > 1, "BackendUnderTest.devices has one device alone")
        first, second = backend.devices[:2]
        with backend.open(devices=[second]):
            with refused(VfioError, "opening two devices, the second of which is taken"):
                backend.open(devices=[first, second])
            backend.open(devices=[first]).close()
        nothing_left(backend.leftovers, "opening failed at the second device")

    def test_whatever_fails_leaves_nothing(self, backend: BackendUnderTest) -> None:
        """Each call of opening, mapping and closing in turn: it fails, and all is taken down.

        Some failures are no reason to fail (a feature that is asked for and not there); then
        everything works. What is raised is of `vfiocore.errors`, and the next try works.
        """
        faults = needs_faults(backend.faults)
        calls = self._calls_of_a_run(backend, faults)
        needs(calls, "Faults.calls tells of nothing that could be made to fail")
        for number, name in enumerate(calls):
            faults.fail_call(name, errno.EIO, after=calls[:number].count(name))
            what = f"{name} (call {number + 1} of {len(calls)}) failed"
            try:
                self._run(backend)
            except VfioError:
                pass
            except Exception as error:
                text = f"{what}: the contract wants a VfioError, this is {error!r}"
                raise AssertionError(text) from error
            nothing_left(backend.leftovers, what)
        self._run(backend)

    def _calls_of_a_run(self, backend: BackendUnderTest, faults: Faults) -> Sequence[str]:
        before = len(faults.calls())
        self._run(backend)
        return faults.calls()[before:]

    def _run(self, backend: BackendUnderTest) -> None:
        count = min(2, len(backend.devices))
        with MemoryMaker(backend.host) as memory, backend.open(count) as session:
            if backend.maps:
                bench = Workbench(backend, session, memory)
                session.space.map(bench.mappings(0, 1))
