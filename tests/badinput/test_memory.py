"""Memory that cannot be shown to devices: the same mistake has the same class on either backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vfiocore.errors import (
    DmaAddressError,
    DmaAlignmentError,
    DmaError,
    DmaLimitError,
    DmaMemlockError,
    DmaNotMappedError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
)
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.session import Session
from vfiocore_sim.host import SimHost

from .reading import CARD, WAYS, assert_says, opened, refused, refused_open

PAGE = SimHost().page_size
MEBI = 1 << 20
END = 1 << 64


@pytest.fixture(params=WAYS)
def words(request: pytest.FixtureRequest) -> str:
    return WAYS[request.param]


def told(words: str, kind: type[DmaError], act: Callable[[Session], object]) -> str:
    """What `act` is refused with; the account of mappings is as it was before."""
    host = SimHost()
    with opened(words, host) as session:
        container = session["card"].container
        session.dma_alloc(2 * PAGE, iova=MEBI)
        before = (list(container.mappings), host.pinned_bytes)
        text = refused(kind, lambda: act(session))
        assert (list(container.mappings), host.pinned_bytes) == before
    assert host.open_files() == []
    return text


def test_a_misaligned_address_is_told_with_the_alignment(words: str) -> None:
    text = told(words, DmaAlignmentError, lambda session: session.dma_alloc(PAGE, iova=MEBI + 1))
    assert_says(text, "iova 0x100001", f"multiples of {PAGE:#x} bytes", "EINVAL")


def test_an_overlap_is_told_with_what_is_there(words: str) -> None:
    text = told(words, DmaOverlapError, lambda session: session.dma_alloc(PAGE, iova=MEBI + PAGE))
    assert_says(text, f"iova {MEBI + PAGE:#x}", f"iova {MEBI:#x} size {2 * PAGE:#x} is mapped")


@pytest.mark.parametrize("iova", [0xFEE00000, 1 << 60])
def test_an_address_out_of_the_window_is_told_with_the_window(words: str, iova: int) -> None:
    text = told(words, DmaRangeError, lambda session: session.dma_alloc(PAGE, iova=iova))
    assert_says(text, f"iova {iova:#x}", "outside the usable ranges 0x0-0xfedfffff, 0xfef00000-")


@pytest.mark.parametrize("iova", [END - PAGE, -PAGE])
def test_a_range_that_leaves_the_address_space_is_told(words: str, iova: int) -> None:
    text = told(words, DmaRangeError, lambda session: session.dma_alloc(2 * PAGE, iova=iova))
    assert_says(text, "leaves the 64-bit space", "EOVERFLOW")


def test_memory_that_is_not_there_is_told_with_its_address(words: str) -> None:
    nowhere = DmaMapping(2 * MEBI, PAGE, PAGE, Access.READ_WRITE)
    text = told(words, DmaAddressError, lambda session: session.space.map([nowhere]))
    assert_says(text, f"vaddr {PAGE:#x}", "the memory cannot be pinned", "EFAULT")


def test_too_little_lockable_memory_is_told_with_the_need_the_limit_and_the_remedy(
    words: str,
) -> None:
    host = SimHost(memlock_limit=65536)
    memory = "-object memory-backend-ram,id=ram0,size=1M"
    text = refused_open(DmaMemlockError, f"{memory} {words}", host)
    assert_says(text, "1048576 bytes", "RLIMIT_MEMLOCK is 65536 bytes", "ulimit -l", "CAP_IPC_LOCK")


def test_too_many_mappings_are_told_with_the_limit_and_what_raises_it() -> None:
    host = SimHost(dma_entry_limit=2)
    with opened(CARD, host) as session:
        for number in range(2):
            session.dma_alloc(PAGE, iova=number * MEBI)
        text = refused(DmaLimitError, lambda: session.dma_alloc(PAGE, iova=2 * MEBI))
    assert_says(text, "2 of 2 mapping entries", "fewer, larger ranges", "dma_entry_limit")


def test_an_unmap_of_nothing_is_told_with_its_place(words: str) -> None:
    text = told(words, DmaNotMappedError, lambda s: s["card"].container.dma_unmap([(0, PAGE)]))
    assert_says(text, f"nothing is mapped in iova 0x0 size {PAGE:#x}", "ENOENT")


def test_an_unmap_of_a_part_is_told_with_the_whole(words: str) -> None:
    text = told(words, DmaSplitError, lambda s: s["card"].container.dma_unmap([(MEBI, PAGE)]))
    part, whole = (f"iova {MEBI:#x} size {size:#x}" for size in (PAGE, 2 * PAGE))
    assert_says(text, f"{part} cuts the mapping at {whole}")


def test_a_bad_item_of_a_batch_is_told_by_its_number(words: str) -> None:
    with opened(words) as session:
        buffers = [session.dma_alloc(PAGE, iova=number * MEBI) for number in range(2)]
        good = DmaMapping(4 * MEBI, PAGE, buffers[0].vaddr, Access.READ_WRITE)
        bad = DmaMapping(MEBI, PAGE, buffers[1].vaddr, Access.READ_WRITE)
        with pytest.raises(DmaOverlapError) as caught:
            session["card"].container.dma_map([good, bad])
        assert caught.value.index == 1
        assert session["card"].container.mappings.overlapping(4 * MEBI, PAGE) is None
