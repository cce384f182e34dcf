"""Mapping and unmapping: flags, batches, sizes that come back, and errno by errno."""

from __future__ import annotations

import contextlib
import ctypes
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from vfiocore.memory.ranges import FULL_RANGE
from vfiocore.uapi import vfio
from vfiocore_legacy import plugin
from vfiocore_legacy.container import LegacyContainer
from vfiocore_sim.device import DmaFault
from vfiocore_sim.host import SimHost

from .wiring import CARD, PAGE, AnsweringHost, Wiring, nothing_left, topology

if TYPE_CHECKING:
    from vfiocore.host.protocol import IoctlArgument

PageAt = Callable[[int], DmaMapping]
MAP, UNMAP = "VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA"


@pytest.fixture
def container(wiring: Wiring, host: SimHost) -> LegacyContainer:
    container = wiring.open(CARD).container
    host.forget_calls()
    return container


class ShortHost(SimHost):
    """A kernel that says it unmapped `unmapped` bytes, once it is set."""

    unmapped: int | None = None

    def ioctl(self, fd: int, request: int, arg: IoctlArgument = 0) -> int:
        result = super().ioctl(fd, request, arg)
        if request == vfio.VFIO_IOMMU_UNMAP_DMA and self.unmapped is not None:
            assert isinstance(arg, bytearray | memoryview)
            answer = vfio.vfio_iommu_type1_dma_unmap.from_buffer(arg)
            answer.size, self.unmapped = self.unmapped, None
        return result


class FailingHost(SimHost):
    """A kernel that fails the n-th map or unmap from now on, once."""

    countdown: int | None = None

    def ioctl(self, fd: int, request: int, arg: IoctlArgument = 0) -> int:
        if request in (vfio.VFIO_IOMMU_MAP_DMA, vfio.VFIO_IOMMU_UNMAP_DMA):
            if self.countdown == 0:
                self.countdown = None
                raise OSError(errno.EIO, "as asked")
            if self.countdown is not None:
                self.countdown -= 1
        return super().ioctl(fd, request, arg)


# -- map -------------------------------------------------------------------------------------------
def test_a_device_reaches_what_is_mapped(
    container: LegacyContainer, host: SimHost, vaddr: int
) -> None:
    container.dma_map([DmaMapping(0x4_0000, 2 * PAGE, vaddr)])
    host.device(CARD).dma.write(0x4_0000 + PAGE, b"hello")
    assert ctypes.string_at(vaddr + PAGE, 5) == b"hello"


def test_a_batch_is_one_ioctl_an_item(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    container.dma_map([page_at(0), page_at(PAGE), page_at(4 * PAGE)])
    assert host.call_names() == [f"ioctl {MAP}"] * 3


def test_a_device_may_only_do_what_the_access_says(
    container: LegacyContainer, host: SimHost, vaddr: int
) -> None:
    container.dma_map([DmaMapping(0, PAGE, vaddr, Access.READ)])
    dma = host.device(CARD).dma
    assert dma.read(0, 4) == bytes(4)
    with pytest.raises(DmaFault):
        dma.write(0, b"no")


def test_the_memory_file_of_a_mapping_is_not_looked_at(
    container: LegacyContainer, vaddr: int
) -> None:
    container.dma_map([DmaMapping(0, PAGE, vaddr, fd=9999)])
    assert len(container.mappings) == 1


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EEXIST, DmaOverlapError),
        (errno.EINVAL, DmaRangeError),
        (errno.EOVERFLOW, DmaRangeError),
        (errno.ENOSPC, DmaLimitError),
        (errno.ENOMEM, DmaMemlockError),
        (errno.EFAULT, DmaAddressError),
        (errno.EIO, DmaError),
    ],
)
def test_each_errno_of_map_has_its_class_and_nothing_of_the_batch_remains(
    container: LegacyContainer, host: SimHost, page_at: PageAt, number: int, kind: type[DmaError]
) -> None:
    host.fail(MAP, number, after=2)
    with pytest.raises(kind) as caught:
        container.dma_map([page_at(0), page_at(PAGE), page_at(2 * PAGE)])
    assert type(caught.value) is kind
    assert caught.value.errno == number
    assert caught.value.index == 2
    assert f"iova {2 * PAGE:#x} size {PAGE:#x}" in str(caught.value)
    assert host.pinned_bytes == 0
    assert len(container.mappings) == 0


def test_a_failed_batch_is_undone_last_item_first(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    host.fail(MAP, errno.EFAULT, after=2)
    with pytest.raises(DmaAddressError):
        container.dma_map([page_at(0), page_at(PAGE), page_at(2 * PAGE)])
    assert host.call_names() == [f"ioctl {MAP}"] * 3 + [f"ioctl {UNMAP}"] * 2


LARGE = 300
"""More than the structs that are filled at a time."""


def test_every_item_of_a_large_batch_is_mapped_with_its_own_access(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    batch = [page_at(number * PAGE) for number in range(LARGE)]
    batch[LARGE - 2] = evolve(batch[LARGE - 2], access=Access.READ)
    container.dma_map(batch)
    assert host.call_names() == [f"ioctl {MAP}"] * LARGE
    assert_kernel_agrees(host, container)
    host.device(CARD).dma.write((LARGE - 1) * PAGE, b"x")
    with pytest.raises(DmaFault):
        host.device(CARD).dma.write((LARGE - 2) * PAGE, b"x")


@pytest.mark.parametrize("bad", [0, 20, LARGE - 1])
def test_a_large_batch_that_fails_leaves_nothing_and_names_the_item(
    container: LegacyContainer, host: SimHost, page_at: PageAt, bad: int
) -> None:
    host.fail(MAP, errno.ENOMEM, after=bad)
    with pytest.raises(DmaMemlockError, match=f"iova {bad * PAGE:#x} ") as caught:
        container.dma_map([page_at(number * PAGE) for number in range(LARGE)])
    assert caught.value.index == bad
    assert host.pinned_bytes == 0
    assert len(container.mappings) == 0


def test_a_busy_range_of_a_large_batch_is_cleared_and_mapped_once_more(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    host.fail(MAP, errno.EBUSY, after=20)
    container.dma_map([page_at(number * PAGE) for number in range(LARGE)])
    assert host.call_names().count(f"ioctl {MAP}") == LARGE + 1
    assert_kernel_agrees(host, container)


def test_einval_for_a_misaligned_address_is_an_alignment_error(container: LegacyContainer) -> None:
    with pytest.raises(DmaAlignmentError):
        plugin.vfio_dma_map(container, [DmaMapping(0, PAGE, 1)])


def test_einval_for_no_access_at_all_says_so(container: LegacyContainer, vaddr: int) -> None:
    with pytest.raises(DmaError, match="neither read nor write"):
        container.dma_map([DmaMapping(0, PAGE, vaddr, Access(0))])


def test_einval_outside_the_ranges_is_a_range_error(container: LegacyContainer, vaddr: int) -> None:
    with pytest.raises(DmaRangeError, match="IOMMU can translate"):
        plugin.vfio_dma_map(container, [DmaMapping(0xFEE0_0000, PAGE, vaddr)])


def test_memory_that_is_not_there_cannot_be_pinned(container: LegacyContainer) -> None:
    with pytest.raises(DmaAddressError, match="cannot be pinned"):
        container.dma_map([DmaMapping(0, PAGE, PAGE)])


def test_a_busy_range_is_cleared_and_mapped_once_more(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    host.fail(MAP, errno.EBUSY)
    container.dma_map([page_at(0)])
    assert host.call_names() == [f"ioctl {name}" for name in (MAP, UNMAP, MAP)]
    assert host.pinned_bytes == PAGE


def test_a_range_that_stays_busy_is_an_error(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    host.fail(MAP, errno.EBUSY, times=2)
    with pytest.raises(DmaError) as caught:
        container.dma_map([page_at(0)])
    assert caught.value.errno == errno.EBUSY


# -- the locked-memory limit -----------------------------------------------------------------------
def test_too_much_locked_memory_is_reported_with_need_and_limit(vaddr: int) -> None:
    wiring = Wiring(SimHost(topology(), memlock_limit=8 * PAGE))
    container = wiring.open(CARD).container
    container.dma_map([DmaMapping(0, 4 * PAGE, vaddr)])
    with pytest.raises(DmaMemlockError) as caught:
        container.dma_map([DmaMapping(16 * PAGE, 8 * PAGE, vaddr)])
    hint = caught.value.hint or ""
    assert f"{12 * PAGE} bytes have to be locked and RLIMIT_MEMLOCK is {8 * PAGE}" in hint
    assert "LimitMEMLOCK=" in hint


def test_need_below_the_limit_points_to_other_users_of_it(vaddr: int) -> None:
    host = SimHost(topology(), memlock_limit=8 * PAGE)
    container = Wiring(host).open(CARD).container
    host.fail(MAP, errno.ENOMEM)
    with pytest.raises(DmaMemlockError) as caught:
        container.dma_map([DmaMapping(0, PAGE, vaddr)])
    assert "other containers" in (caught.value.hint or "")


def test_no_memory_without_a_limit_is_the_kernels_own(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    host.fail(MAP, errno.ENOMEM)
    with pytest.raises(DmaMemlockError) as caught:
        container.dma_map([page_at(0)])
    assert "unlimited" in (caught.value.hint or "")


# -- unmap -----------------------------------------------------------------------------------------
def test_mappings_are_unmapped_each_by_its_exact_range(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    container.dma_map([page_at(0), page_at(PAGE), page_at(2 * PAGE)])
    host.forget_calls()
    container.dma_unmap([(0, 2 * PAGE)])
    assert host.call_names() == [f"ioctl {UNMAP}"] * 2
    assert host.pinned_bytes == PAGE


def test_everything_is_unmapped_with_one_call(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    container.dma_map([page_at(0), page_at(PAGE), page_at(8 * PAGE)])
    host.forget_calls()
    container.unmap_all()
    assert host.call_names() == [f"ioctl {UNMAP}"]
    assert host.pinned_bytes == 0


def test_unmapping_no_range_asks_nobody(container: LegacyContainer, host: SimHost) -> None:
    container.dma_unmap([])
    assert host.call_names() == []


def test_a_kernel_without_unmap_all_takes_one_call_a_mapping(page_at: PageAt) -> None:
    host = AnsweringHost(vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_UNMAP_ALL, 0)
    container = Wiring(host).open(CARD).container
    container.dma_map([page_at(0), page_at(PAGE)])
    host.forget_calls()
    container.unmap_all()
    assert host.call_names() == [f"ioctl {UNMAP}"] * 2
    assert host.pinned_bytes == 0


def test_one_mapping_named_twice_is_not_everything(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    first, second = page_at(0), page_at(PAGE)
    container.dma_map([first, second])
    with pytest.raises(DmaNotMappedError):
        plugin.vfio_dma_unmap(container, [first, first])
    assert host.pinned_bytes == 2 * PAGE


@pytest.mark.parametrize("unmapped", [0, PAGE, 4 * PAGE])
def test_another_size_than_asked_for_is_an_error(unmapped: int, vaddr: int) -> None:
    host = ShortHost(topology())
    container = Wiring(host).open(CARD).container
    container.dma_map([DmaMapping(0, 2 * PAGE, vaddr)])
    host.unmapped = unmapped
    with pytest.raises(DmaNotMappedError, match=f"{unmapped:#x} of {2 * PAGE:#x} bytes"):
        container.dma_unmap([(0, 2 * PAGE)])


def test_another_size_within_a_large_batch_names_the_mapping_and_the_others_are_mapped_again(
    page_at: PageAt,
) -> None:
    host = ShortHost(topology())
    container = Wiring(host).open(CARD).container
    stays, *batch = [page_at(number * PAGE) for number in range(LARGE)]
    container.dma_map([stays, *batch])
    host.unmapped = 0
    with pytest.raises(
        DmaNotMappedError, match=f"0x0 of {PAGE:#x} bytes at iova {PAGE:#x}"
    ) as caught:
        container.dma_remove(batch)
    assert caught.value.index == 0
    assert len(container.mappings) == LARGE
    assert host.pinned_bytes == LARGE * PAGE


def test_a_large_batch_is_unmapped_one_by_one_and_nothing_else(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    stays, *batch = [page_at(number * PAGE) for number in range(LARGE)]
    container.dma_map([stays, *batch])
    host.forget_calls()
    container.dma_unmap([(mapping.iova, mapping.size) for mapping in batch])
    assert host.call_names() == [f"ioctl {UNMAP}"] * (LARGE - 1)
    assert host.pinned_bytes == PAGE


def test_another_size_than_everything_is_an_error_after_which_everything_is_mapped(
    page_at: PageAt,
) -> None:
    host = ShortHost(topology())
    container = Wiring(host).open(CARD).container
    container.dma_map([page_at(0), page_at(PAGE)])
    host.unmapped = PAGE
    with pytest.raises(DmaNotMappedError, match="of everything"):
        container.unmap_all()
    assert len(container.mappings) == 2
    assert host.pinned_bytes == 2 * PAGE


def test_an_everything_that_cannot_be_mapped_again_says_both(page_at: PageAt) -> None:
    host = ShortHost(topology())
    container = Wiring(host).open(CARD).container
    container.dma_map([page_at(0), page_at(PAGE)])
    host.unmapped = PAGE
    host.fail(MAP, errno.ENOMEM)
    with pytest.raises(DmaNotMappedError) as caught:
        container.unmap_all()
    assert any("while mapping everything again" in note for note in caught.value.__notes__)


def test_a_failed_unmap_maps_again_what_was_unmapped_before_it(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    container.dma_map([page_at(iova * PAGE) for iova in range(4)])
    host.fail(UNMAP, errno.EINVAL, after=2)
    with pytest.raises(DmaSplitError) as caught:
        container.dma_unmap([(iova * PAGE, PAGE) for iova in range(3)])
    assert caught.value.index == 2
    assert host.pinned_bytes == 4 * PAGE
    assert len(container.mappings) == 4


def test_unmap_all_that_fails_changes_nothing(
    container: LegacyContainer, host: SimHost, page_at: PageAt
) -> None:
    container.dma_map([page_at(0), page_at(PAGE)])
    host.fail(UNMAP, errno.EIO)
    with pytest.raises(DmaError, match="everything"):
        container.unmap_all()
    assert host.pinned_bytes == 2 * PAGE


def test_the_end_of_the_space_on_old_kernels_is_explained(
    container: LegacyContainer, host: SimHost, vaddr: int
) -> None:
    container.iova_ranges = (FULL_RANGE,)  # as before Linux 5.4, when no ranges were known
    last = DmaMapping((1 << 64) - PAGE, PAGE, vaddr)
    host.fail(UNMAP, errno.EINVAL)
    with pytest.raises(DmaSplitError) as caught:
        plugin.vfio_dma_unmap(container, [last])
    assert "Linux 4.15 to 4.20" in (caught.value.hint or "")


def test_version_1_of_type1_unmaps_like_version_2(page_at: PageAt) -> None:
    host = AnsweringHost(vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_TYPE1v2_IOMMU, 0)
    wiring = Wiring(host)
    container = wiring.open(CARD).container
    container.dma_map([page_at(0), page_at(PAGE), page_at(2 * PAGE)])
    container.dma_unmap([(PAGE, PAGE)])
    assert host.pinned_bytes == 2 * PAGE
    with pytest.raises(DmaFault):
        host.device(CARD).dma.read(PAGE, 1)
    wiring.close_all()
    nothing_left(host)


# -- any sequence ----------------------------------------------------------------------------------
slots = st.lists(st.integers(0, 15), min_size=1, max_size=6, unique=True)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.booleans(), slots, st.integers(0, 8)), max_size=12))
def test_whatever_fails_the_kernel_has_exactly_what_the_container_knows(
    page_at: PageAt, steps: list[tuple[bool, list[int], int]]
) -> None:
    host = FailingHost(topology())
    wiring = Wiring(host)
    container = wiring.open(CARD).container
    for mapping, chosen, failing in steps:
        host.countdown = failing
        with contextlib.suppress(DmaError):
            if mapping:
                container.dma_map([page_at(slot * PAGE) for slot in chosen])
            else:
                container.dma_unmap([(slot * PAGE, PAGE) for slot in chosen])
        host.countdown = None
        assert_kernel_agrees(host, container)
    wiring.close_all()
    nothing_left(host)


def assert_kernel_agrees(host: SimHost, container: LegacyContainer) -> None:
    assert host.pinned_bytes == container.mappings.bytes
    for mapping in container.mappings:
        assert host.device(CARD).dma.read(mapping.iova, 1) == bytes(1)
