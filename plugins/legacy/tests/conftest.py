from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator

import pytest

from vfiocore.memory.mapping import DmaMapping
from vfiocore_sim.host import SimHost

from .wiring import PAGE, Wiring, topology


@pytest.fixture
def host() -> SimHost:
    return SimHost(topology())


@pytest.fixture
def wiring(host: SimHost) -> Wiring:
    return Wiring(host)


@pytest.fixture
def vaddr() -> Iterator[int]:
    """64 pages of memory."""
    area = mmap.mmap(-1, 64 * PAGE)
    pin = ctypes.c_char.from_buffer(area)
    yield ctypes.addressof(pin)
    del pin
    area.close()


@pytest.fixture
def page_at(vaddr: int) -> Callable[[int], DmaMapping]:
    """One page of memory, mapped at an IOVA; different pages for different IOVAs."""
    return lambda iova: DmaMapping(iova, PAGE, vaddr + iova % (64 * PAGE))
