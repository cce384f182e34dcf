"""INTx, MSI, MSI-X, ERR and REQ of a PCI function."""

from __future__ import annotations

import errno
import gc
import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest

from vfiocore.uapi.pci_regs import (
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_MASTER,
)
from vfiocore.uapi.vfio import (
    VFIO_IRQ_INFO_AUTOMASKED,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_MASKABLE,
    VFIO_IRQ_INFO_NORESIZE,
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_REQ_IRQ_INDEX,
)
from vfiocore_sim.vfio.bench import Bench, fired
from vfiocore_sim.vfio.pci import Bar, MsixTable, PciDevice

Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
INTX, MSI, MSIX = VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX
ERR, REQ = VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX
MASK, UNMASK = VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK
TRIGGER = VFIO_IRQ_SET_ACTION_TRIGGER
NONE, BOOL, EVENTFD = VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD


class Ringer(PciDevice):
    vendor_id, device_id, class_code = 0x1AF4, 0x1002, 0xFF0000
    bars = (Bar(index=0, size=4096),)
    interrupt_pin = 1
    msi_vectors = 4
    msix = MsixTable(vectors=8, bar=0, table=0, pba=0x800)
    express = True


BenchMaker: TypeAlias = Callable[..., Bench[Ringer]]


@pytest.fixture
def bench_of() -> Iterator[BenchMaker]:
    """Makes a bench with a Ringer of the given constructor arguments, bus mastering on."""
    benches: list[Bench[Ringer]] = []

    def make(**options: int | bool | None) -> Bench[Ringer]:
        bench = Bench(Ringer(**options))  # type: ignore[arg-type]
        bench.__enter__()
        benches.append(bench)
        bench.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, PCI_COMMAND_MASTER, 2)
        return bench

    yield make
    for bench in benches:
        bench.__exit__(None, None, None)


@pytest.fixture
def ringer(bench_of: BenchMaker) -> Bench[Ringer]:
    return bench_of()


def wait(eventfd: int) -> int:
    """Wait for the thread that watches eventfds."""
    poller = select.poll()
    poller.register(eventfd, select.POLLIN)
    poller.poll(2000)
    return fired(eventfd)


# -- description ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("index", "count", "flags"),
    [
        (INTX, 1, VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED),
        (MSI, 4, VFIO_IRQ_INFO_NORESIZE),
        (MSIX, 8, 0),
        (ERR, 1, VFIO_IRQ_INFO_NORESIZE),
        (REQ, 1, VFIO_IRQ_INFO_NORESIZE),
    ],
)
def test_irq_info(ringer: Bench[Ringer], index: int, count: int, flags: int) -> None:
    info = ringer.irq(index)
    assert (info.count, info.flags) == (count, flags | VFIO_IRQ_INFO_EVENTFD)


def test_a_host_without_dynamic_msix_says_noresize(bench_of: BenchMaker) -> None:
    assert bench_of(dynamic_msix=False).irq(MSIX).flags & VFIO_IRQ_INFO_NORESIZE


class Conventional(PciDevice):
    """A function without PCI Express, which reports no errors."""

    vendor_id, device_id, class_code = 0x1AF4, 0x1004, 0xFF0000


def test_a_function_without_pci_express_has_no_error_irq(refused: Refused) -> None:
    with Bench(Conventional()) as bench:
        with refused(errno.EINVAL):
            bench.irq(ERR)
        with refused(errno.EINVAL):
            bench.listen(ERR)


# -- INTx -------------------------------------------------------------------------------------
def test_intx_masks_itself_with_each_delivery(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    ringer.device.raise_irq()
    ringer.device.raise_irq()
    assert fired(event) == 1


def test_unmasking_a_line_that_is_still_up_signals_again(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    ringer.device.raise_irq()
    fired(event)
    ringer.irq_action(INTX, UNMASK)
    assert fired(event) == 1


def test_unmasking_a_line_that_went_down_signals_nothing(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    ringer.device.raise_irq()
    fired(event)
    ringer.device.lower_irq()
    ringer.irq_action(INTX, UNMASK)
    assert fired(event) == 0
    ringer.device.raise_irq()
    assert fired(event) == 1


def test_a_masked_line_waits_until_it_is_unmasked(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    ringer.irq_action(INTX, MASK, on=True)
    ringer.device.raise_irq()
    assert fired(event) == 0
    ringer.irq_action(INTX, UNMASK, on=True)
    assert fired(event) == 1


def test_a_false_bool_masks_and_unmasks_nothing(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    ringer.irq_action(INTX, MASK, on=False)
    ringer.device.raise_irq()
    assert fired(event) == 1
    ringer.irq_action(INTX, UNMASK, on=False)
    assert fired(event) == 0


def test_a_line_that_is_up_already_fires_when_intx_is_enabled(ringer: Bench[Ringer]) -> None:
    ringer.device.raise_irq()
    (event,) = ringer.listen(INTX)
    assert fired(event) == 1


def test_intx_without_a_listener_is_enabled_all_the_same(
    ringer: Bench[Ringer], refused: Refused
) -> None:
    ringer.attach(INTX, [-1])
    with refused(errno.EINVAL):
        ringer.listen(MSI)
    ringer.irqs_off(INTX)
    ringer.listen(MSI)


def test_a_new_eventfd_replaces_the_old(ringer: Bench[Ringer]) -> None:
    (old,) = ringer.listen(INTX)
    (new,) = ringer.listen(INTX)
    ringer.irq_action(INTX, TRIGGER)
    assert (fired(old), fired(new)) == (0, 1)


def test_loopback_does_not_mask(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    ringer.irq_action(INTX, TRIGGER)
    ringer.irq_action(INTX, TRIGGER, on=True)
    ringer.irq_action(INTX, TRIGGER, on=False)
    assert fired(event) == 2


def test_the_resample_eventfd_unmasks(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    resample = ringer.eventfd()
    ringer.set_irqs(INTX, EVENTFD | UNMASK, struct.pack("=i", resample), count=1)
    ringer.device.raise_irq()
    assert fired(event) == 1
    os.eventfd_write(resample, 1)
    assert wait(event) == 1


def test_a_second_resample_eventfd_is_refused(ringer: Bench[Ringer], refused: Refused) -> None:
    ringer.listen(INTX)
    for_resample = struct.pack("=i", ringer.eventfd())
    ringer.set_irqs(INTX, EVENTFD | UNMASK, for_resample, count=1)
    with refused(errno.EBUSY):
        ringer.set_irqs(INTX, EVENTFD | UNMASK, for_resample, count=1)
    ringer.set_irqs(INTX, EVENTFD | UNMASK, struct.pack("=i", -1), count=1)
    ringer.set_irqs(INTX, EVENTFD | UNMASK, for_resample, count=1)


def test_a_resample_eventfd_that_is_signalled_already_unmasks_at_once(
    ringer: Bench[Ringer],
) -> None:
    (event,) = ringer.listen(INTX)
    ringer.device.raise_irq()
    fired(event)
    signalled = ringer.eventfd(initial=1)
    ringer.set_irqs(INTX, EVENTFD | UNMASK, struct.pack("=i", signalled), count=1)
    assert fired(event) == 1


def test_masking_by_eventfd_does_not_exist(ringer: Bench[Ringer], refused: Refused) -> None:
    ringer.listen(INTX)
    with refused(errno.ENOTTY):
        ringer.set_irqs(INTX, EVENTFD | MASK, struct.pack("=i", ringer.eventfd()), count=1)


def test_disintx_masks_the_line_until_it_is_cleared(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    config = VFIO_PCI_CONFIG_REGION_INDEX
    ringer.write(config, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2)
    ringer.device.raise_irq()
    assert fired(event) == 0
    ringer.write(config, PCI_COMMAND, 0, 2)
    assert fired(event) == 1


def test_unmasking_does_not_lift_disintx(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    config = VFIO_PCI_CONFIG_REGION_INDEX
    ringer.write(config, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2)
    ringer.device.raise_irq()
    ringer.irq_action(INTX, UNMASK)
    assert fired(event) == 0


@pytest.mark.parametrize("action", [MASK, UNMASK, TRIGGER])
def test_intx_that_is_off_takes_no_action(
    ringer: Bench[Ringer], refused: Refused, action: int
) -> None:
    with refused(errno.EINVAL):
        ringer.irq_action(INTX, action)


# -- one at a time ----------------------------------------------------------------------------
@pytest.mark.parametrize(("first", "second"), [(INTX, MSI), (MSI, MSIX), (MSIX, INTX)])
def test_another_index_must_be_off_first(
    ringer: Bench[Ringer], refused: Refused, first: int, second: int
) -> None:
    ringer.listen(first)
    with refused(errno.EINVAL):
        ringer.listen(second)
    ringer.irqs_off(first)
    ringer.listen(second)


@pytest.mark.parametrize("index", [INTX, MSI, MSIX])
def test_disabling_an_index_that_is_off_is_refused(
    ringer: Bench[Ringer], refused: Refused, index: int
) -> None:
    with refused(errno.EINVAL):
        ringer.irqs_off(index)


@pytest.mark.parametrize("flags", [NONE, NONE | MASK | TRIGGER, NONE | UNMASK | TRIGGER])
def test_not_exactly_one_action_is_not_a_typewriter(
    ringer: Bench[Ringer], refused: Refused, flags: int
) -> None:
    with refused(errno.ENOTTY):
        ringer.set_irqs(INTX, flags, count=1)


# -- MSI and MSI-X ----------------------------------------------------------------------------
@pytest.mark.parametrize("index", [MSI, MSIX])
def test_a_message_signals_its_own_vector(ringer: Bench[Ringer], index: int) -> None:
    events = ringer.listen(index, 3)
    ringer.device.raise_irq(1)
    assert [fired(event) for event in events] == [0, 1, 0]


@pytest.mark.parametrize("index", [MSI, MSIX])
def test_fewer_vectors_than_asked_for_are_a_positive_answer(
    bench_of: BenchMaker, index: int
) -> None:
    ringer = bench_of(available_vectors=2)
    events = [ringer.eventfd() for _ in range(4)]
    assert ringer.attach(index, events) == 2
    assert ringer.attach(index, events[:2]) == 0


def test_a_refused_count_leaves_the_index_off(bench_of: BenchMaker) -> None:
    ringer = bench_of(available_vectors=2)
    ringer.attach(MSI, [ringer.eventfd() for _ in range(4)])
    ringer.listen(MSIX)


def test_no_vector_at_all_is_no_space(bench_of: BenchMaker, refused: Refused) -> None:
    with refused(errno.ENOSPC):
        bench_of(available_vectors=0).listen(MSI)


def test_enabling_no_vector_is_out_of_range(ringer: Bench[Ringer], refused: Refused) -> None:
    with refused(errno.ERANGE):
        ringer.attach(MSI, [])


def test_msi_cannot_grow(ringer: Bench[Ringer], refused: Refused) -> None:
    ringer.listen(MSI, 2)
    with refused(errno.EINVAL):
        ringer.listen(MSI, 1, start=2)


def test_dynamic_msix_grows(ringer: Bench[Ringer]) -> None:
    ringer.listen(MSIX, 2)
    (late,) = ringer.listen(MSIX, 1, start=5)
    ringer.device.raise_irq(5)
    assert fired(late) == 1


def test_dynamic_msix_grows_only_as_far_as_the_host_has_vectors(
    bench_of: BenchMaker, refused: Refused
) -> None:
    ringer = bench_of(available_vectors=4)
    ringer.listen(MSIX, 2)
    with refused(errno.ENOSPC):
        ringer.listen(MSIX, 1, start=5)


def test_msix_that_is_not_dynamic_cannot_grow(bench_of: BenchMaker, refused: Refused) -> None:
    ringer = bench_of(dynamic_msix=False)
    ringer.listen(MSIX, 2)
    with refused(errno.EINVAL):
        ringer.listen(MSIX, 1, start=2)


def test_minus_one_takes_an_eventfd_away(ringer: Bench[Ringer]) -> None:
    events = ringer.listen(MSI, 2)
    ringer.attach(MSI, [-1], start=0)
    ringer.device.raise_irq(0)
    ringer.device.raise_irq(1)
    assert [fired(event) for event in events] == [0, 1]


def test_msix_keeps_a_message_until_there_is_a_listener(ringer: Bench[Ringer]) -> None:
    ringer.listen(MSIX, 2)
    ringer.attach(MSIX, [-1], start=1)
    ringer.device.raise_irq(1)
    (late,) = ringer.listen(MSIX, 1, start=1)
    assert fired(late) == 1


def test_a_bad_eventfd_at_first_disables_everything(
    ringer: Bench[Ringer], refused: Refused
) -> None:
    with refused(errno.EBADF):
        ringer.attach(MSI, [ringer.eventfd(), 9999])
    ringer.listen(MSIX)


def test_a_bad_eventfd_later_clears_the_entries_that_were_touched(
    ringer: Bench[Ringer], refused: Refused
) -> None:
    kept, first, second = ringer.listen(MSI, 3)
    fresh = ringer.eventfd()
    with open(os.devnull) as no_eventfd, refused(errno.EINVAL):
        ringer.attach(MSI, [fresh, no_eventfd.fileno()], start=1)
    for vector in range(3):
        ringer.device.raise_irq(vector)
    assert [fired(event) for event in (kept, first, second, fresh)] == [1, 0, 0, 0]


def test_loopback_signals_the_chosen_vectors(ringer: Bench[Ringer]) -> None:
    events = ringer.listen(MSIX, 3)
    ringer.set_irqs(MSIX, NONE | TRIGGER, start=1, count=2)
    assert [fired(event) for event in events] == [0, 1, 1]
    ringer.set_irqs(MSIX, BOOL | TRIGGER, b"\1\0\1", count=3)
    assert [fired(event) for event in events] == [1, 0, 1]


def test_loopback_passes_over_vectors_without_an_eventfd(ringer: Bench[Ringer]) -> None:
    first, second = ringer.listen(MSIX, 2)
    ringer.attach(MSIX, [-1])
    ringer.set_irqs(MSIX, NONE | TRIGGER, count=2)
    assert (fired(first), fired(second)) == (0, 1)


def test_vectors_past_the_last_are_refused(ringer: Bench[Ringer], refused: Refused) -> None:
    ringer.listen(MSI, 4)
    with refused(errno.EINVAL):
        ringer.set_irqs(MSI, NONE | TRIGGER, start=3, count=2)


@pytest.mark.parametrize("action", [MASK, UNMASK])
@pytest.mark.parametrize("index", [MSI, MSIX, ERR, REQ])
def test_messages_have_no_mask(
    ringer: Bench[Ringer], refused: Refused, index: int, action: int
) -> None:
    with refused(errno.ENOTTY):
        ringer.irq_action(index, action)


def test_without_bus_mastering_no_message_leaves_the_device(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(MSI)
    ringer.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, 0, 2)
    ringer.device.raise_irq()
    assert fired(event) == 0


def test_wiring_survives_a_reset(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(MSI)
    ringer.reset()
    ringer.device.raise_irq()
    assert fired(event) == 1


def test_a_reset_takes_the_line_down(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(INTX)
    ringer.device.raise_irq()
    fired(event)
    ringer.reset()
    ringer.irq_action(INTX, UNMASK)
    assert fired(event) == 0


def test_the_kernel_keeps_an_eventfd_that_the_user_closed(ringer: Bench[Ringer]) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    watched = os.dup(event)
    ringer.attach(MSI, [event])
    os.close(event)
    ringer.device.raise_irq()
    assert fired(watched) == 1
    os.close(watched)


# -- ERR and REQ ------------------------------------------------------------------------------
def test_an_error_is_reported(ringer: Bench[Ringer]) -> None:
    (event,) = ringer.listen(ERR)
    ringer.device.report_error()
    assert fired(event) == 1


def test_a_request_is_reported_beside_active_interrupts(ringer: Bench[Ringer]) -> None:
    ringer.listen(MSI)
    (event,) = ringer.listen(REQ)
    ringer.device.request(1)
    assert fired(event) == 1


@pytest.mark.parametrize("index", [ERR, REQ])
def test_single_irqs_without_a_listener(
    ringer: Bench[Ringer], refused: Refused, index: int
) -> None:
    with refused(errno.EINVAL):
        ringer.set_irqs(index, NONE | TRIGGER, count=1)
    with refused(errno.EINVAL):
        ringer.irqs_off(index)
    ringer.irq_action(index, TRIGGER, on=True)


@pytest.mark.parametrize("index", [ERR, REQ])
def test_single_irqs_with_a_listener(ringer: Bench[Ringer], refused: Refused, index: int) -> None:
    (event,) = ringer.listen(index)
    ringer.set_irqs(index, NONE | TRIGGER, count=1)
    ringer.irq_action(index, TRIGGER, on=True)
    assert fired(event) == 2
    with refused(errno.EINVAL):
        ringer.attach(index, [-2])
    with refused(errno.EINVAL):
        ringer.set_irqs(index, BOOL | TRIGGER)
    ringer.irqs_off(index)
    with refused(errno.EINVAL):
        ringer.irqs_off(index)


def test_closing_the_device_releases_every_eventfd(bench_of: BenchMaker) -> None:
    gc.collect()  # devices of other tests
    before = len(os.listdir("/proc/self/fd"))
    with Bench(Ringer()) as bench:
        bench.listen(MSIX, 8)
        bench.listen(ERR)
        bench.listen(REQ)
    assert len(os.listdir("/proc/self/fd")) == before
