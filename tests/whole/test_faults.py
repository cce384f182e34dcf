"""Whatever call fails, opening or closing: nothing is left, and the error is told."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from attrs import frozen

from vfiocore.errors import KernelError
from vfiocore.session import Session
from vfiocore_sim.host import SimHost

from .cards import machine_with_memory
from .machine import AP, CCW, EDU, NOTHING, TIMER, Way, left_behind

MEMORY = "-object memory-backend-memfd,id=ram0,size=64K,addr=1M"

# munmap of a whole mapping does not fail (mm/mmap.c: only a split needs memory).
CANNOT_FAIL = "munmap"


@frozen
class Point:
    """The `after`-th call of an operation, by a way of opening."""

    way: str
    operation: str
    after: int

    def __str__(self) -> str:
        return f"{self.way}-{self.operation}-{self.after}"

    def fail(self, host: SimHost, code: int) -> None:
        host.fail(self.operation, code, after=self.after)


@pytest.fixture
def host() -> SimHost:
    return machine()


def machine() -> SimHost:
    """One whose edu card has a BAR that can be mapped."""
    return SimHost(machine_with_memory())


def opened(way: Way) -> Session:
    """Every kind of device, with guest memory."""
    return way.open(EDU, TIMER, AP, CCW, first=MEMORY)


def used(way: Way) -> Session:
    session = opened(way)
    card = session["edu"]
    card.memory_decode = True
    card.bars[0].map()
    card.msi.enable()
    session["timer"].irqs[0].enable()
    session["ap"].config_changed.enable()
    session.dma_alloc(4096)
    return session


def points(name: str, calls: Callable[[SimHost, Way], None]) -> Iterator[Point]:
    """One point for each call that was made."""
    host = machine()
    calls(host, Way(name, host))
    made: list[str] = [call.operation for call in host.calls]
    for index, operation in enumerate(made):
        if not operation.startswith(CANNOT_FAIL):
            yield Point(name, operation, made[:index].count(operation))


def open_once(_host: SimHost, way: Way) -> None:
    way.open(EDU, TIMER, AP, CCW, first=MEMORY)


def close_once(host: SimHost, way: Way) -> None:
    session = used(way)
    host.forget_calls()
    session.close()


@cache
def openings() -> list[Point]:
    return [point for name in ("legacy", "iommufd") for point in points(name, open_once)]


@cache
def closings() -> list[Point]:
    return [point for name in ("legacy", "iommufd") for point in points(name, close_once)]


def refusal(way: Way) -> int | None:
    """The errno that opening fails with, or None if it works all the same."""
    try:
        opened(way).close()
    except KernelError as error:
        return error.errno
    return None


def is_probe(point: Point) -> bool:
    """The call that asks whether the kernel knows mapping by file: any refusal but one says yes."""
    return point.operation == "IOMMU_IOAS_MAP_FILE" and point.after == 0


# -- opening ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("point", openings(), ids=str)
def test_an_opening_that_fails_anywhere_is_undone_and_can_be_repeated(point: Point) -> None:
    host = machine()
    way = Way(point.way, host)
    point.fail(host, errno.EIO)
    if is_probe(point):
        opened(way).close()
    else:
        with pytest.raises(KernelError) as caught:
            opened(way)
        assert caught.value.errno == errno.EIO
        assert not getattr(caught.value, "__notes__", [])
    assert left_behind(host) == NOTHING
    opened(way).close()
    assert left_behind(host) == NOTHING


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EBUSY, errno.ENOMEM, errno.ENOTTY])
def test_an_opening_that_is_refused_for_any_reason_either_works_or_leaves_nothing(
    code: int,
) -> None:
    for point in openings():
        host = machine()
        point.fail(host, code)
        assert refusal(Way(point.way, host)) in (code, None), point
        assert left_behind(host) == NOTHING, point


def test_what_was_done_before_a_failure_is_undone_in_reverse(legacy: Way, host: SimHost) -> None:
    host.fail("VFIO_GROUP_GET_DEVICE_FD", errno.EIO)
    with pytest.raises(KernelError):
        legacy.open(EDU, first=MEMORY)
    names = host.call_names()
    assert names[names.index("ioctl VFIO_GROUP_GET_DEVICE_FD") + 1 :] == [
        "ioctl VFIO_IOMMU_UNMAP_DMA",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close container",
        "close group 1",
    ]


def test_a_second_device_that_fails_takes_the_first_one_down_too(
    iommufd: Way, host: SimHost
) -> None:
    host.fail("VFIO_DEVICE_ATTACH_IOMMUFD_PT", errno.EIO, after=1)
    with pytest.raises(KernelError):
        iommufd.open(EDU, TIMER)
    names = host.call_names()
    assert names.index(f"close device {TIMER.name}") < names.index(f"close device {EDU.name}")


def test_an_interrupt_that_cannot_be_wired_leaves_the_device_usable(
    way: Way, host: SimHost
) -> None:
    with way.open(EDU) as session:
        card = session["edu"]
        host.fail("VFIO_DEVICE_SET_IRQS", errno.EIO)
        with pytest.raises(KernelError):
            card.msi.enable()
        host.fail("eventfd", errno.EMFILE)
        with pytest.raises(KernelError):
            card.msi.enable()
        (vector,) = card.msi.enable()
        card.msi.trigger()
        assert vector.wait(timeout=1) == 1


# -- closing ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("point", closings(), ids=str)
def test_a_closing_that_fails_anywhere_still_closes_the_rest(point: Point) -> None:
    host = machine()
    way = Way(point.way, host)
    session = used(way)
    point.fail(host, errno.EIO)
    with pytest.raises(KernelError) as caught:
        session.close()
    assert caught.value.errno == errno.EIO
    assert left_behind(host) == NOTHING
    opened(way).close()
    assert left_behind(host) == NOTHING


def test_the_first_of_two_errors_is_raised_and_the_other_is_a_note(
    legacy: Way, host: SimHost
) -> None:
    session = used(legacy)
    host.fail("VFIO_DEVICE_SET_IRQS", errno.EIO)
    host.fail("close container", errno.ENOSPC)
    with pytest.raises(KernelError) as caught:
        session.close()
    assert caught.value.errno == errno.EIO
    assert any("ENOSPC" in note for note in caught.value.__notes__)


def test_what_fails_while_an_error_passes_is_a_note_of_it(way: Way, host: SimHost) -> None:
    def body() -> None:
        with way.open(EDU) as session:
            session["edu"].msi.enable()
            host.fail("VFIO_DEVICE_SET_IRQS", errno.EIO)
            raise LookupError

    with pytest.raises(LookupError) as caught:
        body()
    assert any("EIO" in note for note in caught.value.__notes__)
