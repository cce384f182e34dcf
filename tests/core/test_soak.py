"""Mapping and unmapping for long leaves nothing; on real kernels `make soak-vm` does it for longer."""

from __future__ import annotations

import gc
import sys

import pytest

from bench.soak import SLOT_PAGES, SLOTS, map_at_random
from vfiocore import Framework
from vfiocore_sim.host import SimHost

WARM_UP, PAIRS = 500, 2000
SLACK = PAIRS // 10
"""Blocks of memory by which caches may differ; what each pair would leave is ten times as much."""

WAYS = {
    "legacy": "-device vfio-pci,host=0000:02:00.0",
    "iommufd": "-object iommufd,id=i0 -device vfio-pci,host=0000:02:00.0,iommufd=i0",
}


@pytest.mark.parametrize("way", WAYS)
def test_random_pairs_of_map_and_unmap_leave_no_memory_no_file_and_no_pinned_page(way: str) -> None:
    host = SimHost()
    with (
        Framework(host=host).open(WAYS[way]) as session,
        session.dma_alloc(SLOTS * SLOT_PAGES * host.page_size) as buffer,
    ):
        map_at_random(session, buffer.vaddr, WARM_UP, seed=0)
        host.forget_calls()
        before = host.pinned_bytes, host.open_files(), allocated_blocks()
        map_at_random(session, buffer.vaddr, PAIRS, seed=1)
        host.forget_calls()
        pinned, files, blocks = host.pinned_bytes, host.open_files(), allocated_blocks()

    assert (pinned, files) == before[:2]
    assert blocks - before[2] < SLACK


def allocated_blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
