"""The control plane is safe from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from vfiocore.errors import DmaOverlapError
from vfiocore.testing.checks import nothing_left
from vfiocore.testing.topics.base import BackendTopic
from vfiocore.testing.under_test import BackendUnderTest
from vfiocore.testing.workbench import Workbench

T = TypeVar("T")

THREADS = 4
ROUNDS = 8


class Threads(BackendTopic):
    """Hooks run under the session's lock, but on whichever thread made the call."""

    def test_threads_map_and_unmap_side_by_side(self, bench: Workbench) -> None:
        """Each at its own addresses; each finds its own memory there."""
        mappings = bench.mappings(*range(THREADS))

        def work(number: int) -> None:
            mapping = mappings[number]
            for _ in range(ROUNDS):
                bench.container.dma_map([mapping])
                bench.reached(mapping)
                bench.container.dma_unmap([(mapping.iova, mapping.size)])

        _together([partial(work, number) for number in range(THREADS)])
        bench.not_reached(*mappings)
        bench.empty()

    def test_one_of_many_that_want_a_place_gets_it(self, bench: Workbench) -> None:
        """The others get a DmaOverlapError."""
        mappings = bench.mappings(*[0] * THREADS)
        lost: list[int] = []

        def work(number: int) -> None:
            try:
                bench.container.dma_map([mappings[number]])
            except DmaOverlapError:
                lost.append(number)

        _together([partial(work, number) for number in range(THREADS)])
        assert len(lost) == THREADS - 1, f"{THREADS - len(lost)} threads mapped one place"
        (winner,) = set(range(THREADS)) - set(lost)
        bench.reached(mappings[winner])

    def test_one_thread_opens_and_another_closes(self, backend: BackendUnderTest) -> None:
        """Nothing belongs to the thread that made it, which is still there."""
        session = backend.open()
        _together([session.close])
        nothing_left(backend.leftovers, "a session was closed on another thread")

    def test_what_a_thread_opened_outlives_it(self, backend: BackendUnderTest) -> None:
        """And can be used and closed by others."""
        (session,) = _together([backend.open])
        session["device0"].access.info()
        session.close()
        nothing_left(backend.leftovers, "a session was closed after its thread had ended")


def _together(works: Sequence[Callable[[], T]]) -> list[T]:
    """Run each on a thread of its own, all at the same time; their results, or the first error."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], T]) -> T:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(run, work) for work in works]]
