"""Whatever happens, what the library believes to be mapped is what the kernel has mapped."""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfiocore.errors import DmaError
from vfiocore_sim.device import DmaFault

PAGE = mmap.PAGESIZE
SLOT = 1 << 20
CARD = "0000:02:00.0"

batches = st.lists(st.integers(1, 8), min_size=1, max_size=5)
steps = st.lists(
    st.tuples(
        st.sampled_from(["map", "unmap", "everything"]),
        batches,
        st.none() | st.integers(0, 4),  # how many calls go through before one fails
    ),
    max_size=12,
)


def failing_once(host: Any, after: int | None) -> Callable[[int, int, Any], int]:
    """The ioctl of the host, failing once after that many calls."""
    count = itertools.count()

    def ioctl(fd: int, request: int, arg: Any) -> int:
        if next(count) == after:
            raise OSError(errno.EBUSY, "")
        return int(host.ioctl(fd, request, arg))

    return ioctl


def reachable(host: Any, iova: int) -> bool:
    try:
        host.device(CARD).dma.read(iova, 1)
    except DmaFault:
        return False
    return True


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps)
def test_the_account_is_the_truth_after_any_failure(
    make_rig: Any, steps: Sequence[tuple[str, Sequence[int], int | None]]
) -> None:
    rig = make_rig()
    container = rig.open(CARD).container
    for what, slots, failing in steps:
        container.mapper._ioctl = failing_once(rig.host, failing)
        with contextlib.suppress(DmaError):
            if what == "map":
                container.dma_map([rig.mapping(slot * SLOT) for slot in slots])
            elif what == "unmap":
                container.dma_unmap([(slot * SLOT, PAGE) for slot in dict.fromkeys(slots)])
            else:
                container.unmap_all()
        container.mapper._ioctl = rig.host.ioctl
        mapped = {mapping.iova for mapping in container.mappings}
        assert rig.host.pinned_bytes == container.mappings.bytes == len(mapped) * PAGE
        assert {n * SLOT for n in range(9) if reachable(rig.host, n * SLOT)} == mapped
