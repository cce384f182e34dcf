from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from vfiocore.access import IrqInfo
from vfiocore.errors import DeviceAccessError
from vfiocore.uapi import vfio
from vfiocore_pci.device import PciDevice

from .fake import NAME, FakeFunction

Wrap = Callable[[FakeFunction], PciDevice]
INTX, MSI, MSIX, ERR, REQ = range(5)
EVENTFD = vfio.VFIO_IRQ_INFO_EVENTFD


@pytest.fixture
def full(function: FakeFunction) -> FakeFunction:
    """A function with every kind of interrupt: 1 INTx, 4 MSI, 16 MSI-X, error, request."""
    for index, count in enumerate((1, 4, 16, 1, 1)):
        function.irqs[index] = IrqInfo(index, EVENTFD, count)
    return function


def test_every_kind_is_there_by_name(full: FakeFunction, wrap: Wrap) -> None:
    device = wrap(full)
    irqs = (device.intx, device.msi, device.msix, device.error, device.request)
    assert [irq and irq.name for irq in irqs] == [
        f"{NAME} INTx",
        f"{NAME} MSI",
        f"{NAME} MSI-X",
        f"{NAME} error",
        f"{NAME} request",
    ]


def test_a_kind_without_vectors_is_none(function: FakeFunction, wrap: Wrap) -> None:
    device = wrap(function)
    assert (device.intx, device.msi, device.msix, device.error, device.request) == (None,) * 5


def test_an_irq_is_the_same_object_each_time(full: FakeFunction, wrap: Wrap) -> None:
    device = wrap(full)
    assert device.msi is device.msi
    assert device.msi is device.irq(MSI)


# -- only one at a time ----------------------------------------------------------------------------
def test_enabling_msi_while_msix_is_on_names_what_is_on(full: FakeFunction, wrap: Wrap) -> None:
    device = wrap(full)
    assert device.msi is not None
    device.interrupts(2)
    with pytest.raises(DeviceAccessError, match=r"MSI: .*MSI-X is enabled.*only one") as caught:
        device.msi.enable()
    assert caught.value.errno == errno.EINVAL
    assert MSI not in full.enabled


def test_another_kind_can_be_enabled_after_disabling_the_first(
    full: FakeFunction, wrap: Wrap
) -> None:
    device = wrap(full)
    assert device.msi is not None
    device.interrupts(2)[0].irq.disable()
    device.msi.enable(4)
    assert device.active_irq is device.msi


def test_error_and_request_go_beside_any_kind(full: FakeFunction, wrap: Wrap) -> None:
    device = wrap(full)
    assert device.error is not None
    assert device.request is not None
    device.interrupts()
    device.error.enable()
    device.request.enable()
    assert device.active_irq is device.msix


def test_no_kind_is_active_at_first(full: FakeFunction, wrap: Wrap) -> None:
    assert wrap(full).active_irq is None


# -- the best of them ------------------------------------------------------------------------------
def test_interrupts_takes_msix_first(full: FakeFunction, wrap: Wrap) -> None:
    vectors = wrap(full).interrupts(8)
    assert len(vectors) == 8
    assert vectors[0].irq.index == MSIX


@pytest.mark.parametrize(("absent", "chosen"), [((MSIX,), MSI), ((MSIX, MSI), INTX)])
def test_interrupts_falls_back_to_what_there_is(
    full: FakeFunction, wrap: Wrap, absent: tuple[int, ...], chosen: int
) -> None:
    for index in absent:
        del full.irqs[index]
    (vector,) = wrap(full).interrupts()
    assert vector.irq.index == chosen


def test_fewer_vectors_are_fine_down_to_the_minimum(full: FakeFunction, wrap: Wrap) -> None:
    full.available[MSIX] = 5
    vectors = wrap(full).interrupts(8, minimum=2)
    assert len(vectors) == 5
    assert full.enabled == {MSIX: 5}


def test_more_vectors_than_the_device_has_are_fine_with_a_minimum(
    full: FakeFunction, wrap: Wrap
) -> None:
    assert len(wrap(full).interrupts(100, minimum=1)) == 16


def test_a_kind_the_host_has_too_few_vectors_for_is_passed_over(
    full: FakeFunction, wrap: Wrap
) -> None:
    full.available[MSIX] = 1
    vectors = wrap(full).interrupts(4, minimum=2)
    assert {vector.irq.index for vector in vectors} == {MSI}


def test_a_kind_the_host_has_no_vectors_for_is_passed_over(full: FakeFunction, wrap: Wrap) -> None:
    full.available[MSIX] = 0
    assert wrap(full).interrupts()[0].irq.index == MSI


def test_too_few_everywhere_says_how_many_there_are(full: FakeFunction, wrap: Wrap) -> None:
    del full.irqs[MSIX]
    reason = r"no kind of interrupt has 6 vectors: MSI-X has 0, MSI has 4, INTx has 1"
    with pytest.raises(DeviceAccessError, match=reason) as caught:
        wrap(full).interrupts(8, minimum=6)
    assert caught.value.errno == errno.ENOSPC
    assert full.enabled == {}


def test_an_error_that_is_no_shortage_ends_the_search(
    full: FakeFunction, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> int:
        raise DeviceAccessError(errno.EIO, "VFIO_DEVICE_SET_IRQS", NAME)

    device = wrap(full)
    with monkeypatch.context() as patch:
        patch.setattr(FakeFunction, "set_irqs", broken)
        with pytest.raises(DeviceAccessError, match="EIO"):
            device.interrupts()


def test_a_second_call_is_refused(full: FakeFunction, wrap: Wrap) -> None:
    device = wrap(full)
    device.interrupts()
    with pytest.raises(DeviceAccessError, match="already enabled"):
        device.interrupts()


@pytest.mark.parametrize(("vectors", "minimum"), [(0, None), (2, 3), (2, 0)])
def test_a_minimum_that_cannot_be_is_a_mistake(
    full: FakeFunction, wrap: Wrap, vectors: int, minimum: int | None
) -> None:
    with pytest.raises(ValueError, match="cannot be a minimum"):
        wrap(full).interrupts(vectors, minimum=minimum)


def test_no_eventfd_is_left_after_a_search_that_failed(full: FakeFunction, wrap: Wrap) -> None:
    full.available = {MSIX: 0, MSI: 0, INTX: 0}
    device = wrap(full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DeviceAccessError):
        device.interrupts()
    assert len(os.listdir("/proc/self/fd")) == before
