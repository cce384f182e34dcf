"""Device memory without side effects."""

from __future__ import annotations

import gc
import os

import pytest

from vfiocore_sim.vfio.ram import RamArea


def test_an_area_is_a_whole_number_of_pages() -> None:
    area = RamArea(0x1000, 1)
    assert area.size == os.sysconf("SC_PAGESIZE")
    assert 0x1000 in area
    assert 0x1000 + area.size not in area


def test_memory_that_cannot_be_had_leaves_no_file_open() -> None:
    gc.collect()  # areas of other tests
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Cannot allocate memory"):
        RamArea(0, 1 << 62)
    gc.collect()
    assert os.listdir("/proc/self/fd") == before
