from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import threading
import time
from collections.abc import Iterator

import pytest
from attrs import define, field

from vfiocore.access import DeviceAccess
from vfiocore.errors import ClosedError, DeviceAccessError, InterruptTimeout, KernelError
from vfiocore.host import EVENTFD_ONE
from vfiocore.irq import Irq, SignalIrq, Vector
from vfiocore.uapi import vfio

from .scripted import ScriptedHost, irq_info

HEADER = ctypes.sizeof(vfio.vfio_irq_set)


@define(eq=False)
class Interrupts:
    """The kernel's side of SET_IRQS: which eventfds are attached."""

    host: ScriptedHost
    available: int = 1000
    calls: list[tuple[int, int, int]] = field(factory=list)
    attached: list[int] = field(factory=list)

    def __call__(self, arg: bytearray) -> int:
        head = vfio.vfio_irq_set.from_buffer_copy(arg)
        self.calls.append((head.flags, head.start, head.count))
        if head.flags & vfio.VFIO_IRQ_SET_DATA_EVENTFD:
            if head.count > self.available:
                return self.available
            self.attached = memoryview(arg)[HEADER:].cast("i").tolist()
        elif not head.count:
            self.attached = []
        return 0

    def signal(self, vector: int, times: int = 1) -> None:
        for _ in range(times):
            os.write(self.attached[vector], EVENTFD_ONE)


@pytest.fixture
def kernel(host: ScriptedHost) -> Interrupts:
    kernel = Interrupts(host)
    host.answers[vfio.VFIO_DEVICE_SET_IRQS] = kernel
    return kernel


@pytest.fixture
def irq(access: DeviceAccess) -> Irq:
    return Irq(access, irq_info(), "dev MSI-X")


@pytest.fixture
def vector(kernel: Interrupts, irq: Irq) -> Iterator[Vector]:
    (vector,) = irq.enable()
    yield vector
    irq.disable()


# -- enabling --------------------------------------------------------------------------------------
def test_each_vector_gets_an_eventfd_of_its_own(kernel: Interrupts, irq: Irq) -> None:
    vectors = irq.enable(3)
    assert kernel.attached == [vector.fileno() for vector in vectors]
    assert [vector.number for vector in vectors] == [0, 1, 2]
    assert irq.vectors == vectors


def test_eventfds_are_close_on_exec(vector: Vector) -> None:
    assert not os.get_inheritable(vector.fileno())


def test_enabling_twice_is_refused(kernel: Interrupts, irq: Irq) -> None:
    irq.enable()
    with pytest.raises(DeviceAccessError, match="already enabled"):
        irq.enable()


@pytest.mark.parametrize("vectors", [0, -1, 5])
def test_more_vectors_than_the_device_has_are_refused_before_anything_is_made(
    host: ScriptedHost, access: DeviceAccess, kernel: Interrupts, irq: Irq, vectors: int
) -> None:
    with pytest.raises(DeviceAccessError, match="the device has 4"):
        irq.enable(vectors)
    assert host.files == {access.fd}
    assert kernel.calls == []


def test_all_wanted_vectors_or_none(
    host: ScriptedHost, access: DeviceAccess, kernel: Interrupts, irq: Irq
) -> None:
    kernel.available = 2
    with pytest.raises(DeviceAccessError, match="the host has 2 vectors, at least 4") as caught:
        irq.enable(4)
    assert caught.value.errno == errno.ENOSPC
    assert host.files == {access.fd}
    assert irq.vectors == ()


def test_fewer_vectors_will_do_if_the_caller_says_so(
    host: ScriptedHost, access: DeviceAccess, kernel: Interrupts, irq: Irq
) -> None:
    kernel.available = 2
    vectors = irq.enable(4, minimum=1)
    assert len(vectors) == 2
    assert host.files == {access.fd, *(vector.fd for vector in vectors)}
    assert kernel.attached == [vector.fd for vector in vectors]


def test_a_kernel_that_refuses_leaves_no_eventfd(
    host: ScriptedHost, access: DeviceAccess, irq: Irq
) -> None:
    def refuse(_arg: object) -> int:
        raise OSError(errno.EINVAL, "")

    host.answers[vfio.VFIO_DEVICE_SET_IRQS] = refuse
    with pytest.raises(DeviceAccessError) as caught:
        irq.enable(3)
    assert caught.value.operation == "VFIO_DEVICE_SET_IRQS"
    assert host.files == {access.fd}
    assert irq.vectors == ()


def test_running_out_of_fds_leaves_no_eventfd(
    host: ScriptedHost, access: DeviceAccess, irq: Irq, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = host.eventfd

    def eventfd(*_: object) -> int:
        if len(made) == 2:
            raise OSError(errno.EMFILE, "")
        made.append(real())
        return made[-1]

    monkeypatch.setattr(host, "eventfd", eventfd)
    with pytest.raises(KernelError, match="eventfd failed") as caught:
        irq.enable(3)
    assert caught.value.errno == errno.EMFILE
    assert host.files == {access.fd}


def test_facts_of_an_index_come_from_its_flags(access: DeviceAccess) -> None:
    flags = vfio.VFIO_IRQ_INFO_MASKABLE | vfio.VFIO_IRQ_INFO_AUTOMASKED
    level = Irq(access, irq_info(1, flags), "dev INTx")
    fixed = Irq(access, irq_info(4, vfio.VFIO_IRQ_INFO_NORESIZE), "dev MSI")
    assert (level.maskable, level.automasked, level.resizable) == (True, True, True)
    assert (fixed.maskable, fixed.automasked, fixed.resizable) == (False, False, False)
    assert (fixed.index, fixed.count) == (0, 4)


# -- disabling -------------------------------------------------------------------------------------
def test_disabling_detaches_and_closes_the_eventfds(
    host: ScriptedHost, access: DeviceAccess, kernel: Interrupts, irq: Irq
) -> None:
    irq.enable(2)
    irq.disable()
    off = vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
    assert kernel.calls[-1] == (off, 0, 0)
    assert host.files == {access.fd}
    irq.disable()
    assert len(kernel.calls) == 2


def test_eventfds_are_closed_even_if_the_kernel_refuses_to_disable(
    host: ScriptedHost, access: DeviceAccess, kernel: Interrupts, irq: Irq
) -> None:
    irq.enable(2)

    def refuse(_arg: object) -> int:
        raise OSError(errno.EIO, "")

    host.answers[vfio.VFIO_DEVICE_SET_IRQS] = refuse
    with pytest.raises(DeviceAccessError):
        irq.disable()
    assert host.files == {access.fd}


def test_a_vector_of_a_disabled_interrupt_is_closed(kernel: Interrupts, irq: Irq) -> None:
    (vector,) = irq.enable()
    irq.disable()
    for use in (vector.fileno, vector.take, vector.wait):
        with pytest.raises(ClosedError, match="vector 0 is disabled"):
            use()


def test_interrupts_can_be_enabled_again(kernel: Interrupts, irq: Irq) -> None:
    irq.enable()
    irq.disable()
    (vector,) = irq.enable()
    kernel.signal(0)
    assert vector.take() == 1
    irq.disable()


def test_an_index_that_only_takes_eventfds_away_is_told_so(
    kernel: Interrupts, access: DeviceAccess
) -> None:
    irq = SignalIrq(access, irq_info(1), "ap req")
    irq.enable()
    irq.disable()
    assert kernel.attached == [-1]


# -- waiting ---------------------------------------------------------------------------------------
def test_interrupts_are_counted_until_somebody_looks(kernel: Interrupts, vector: Vector) -> None:
    assert vector.take() == 0
    kernel.signal(0, times=3)
    assert vector.wait(1) == 3
    assert vector.take() == 0


def test_waiting_ends_when_an_interrupt_comes(kernel: Interrupts, vector: Vector) -> None:
    timer = threading.Timer(0.02, kernel.signal, (0,))
    timer.start()
    assert vector.wait(10) == 1
    timer.join()


def test_waiting_ends_when_the_time_is_up(vector: Vector) -> None:
    start = time.monotonic()
    with pytest.raises(InterruptTimeout, match=r"dev MSI-X vector 0: no interrupt within 0\.02 s"):
        vector.wait(0.02)
    assert time.monotonic() - start >= 0.02


def test_a_timeout_is_a_timeout_error(vector: Vector) -> None:
    with pytest.raises(TimeoutError):
        vector.wait(0)


def test_an_interrupt_that_came_before_is_found_without_waiting(
    kernel: Interrupts, vector: Vector
) -> None:
    kernel.signal(0)
    assert vector.wait(0) == 1


def test_disabling_wakes_who_waits_in_another_thread(kernel: Interrupts, irq: Irq) -> None:
    (vector,) = irq.enable()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            vector.wait(10)
        except ClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    irq.disable()
    thread.join(5)
    assert not thread.is_alive()
    assert len(caught) == 1


def test_a_vector_can_be_awaited(kernel: Interrupts, vector: Vector) -> None:
    async def main() -> int:
        asyncio.get_running_loop().call_later(0.01, kernel.signal, 0, 2)
        return await vector

    assert asyncio.run(main()) == 2


def test_awaiting_an_interrupt_that_came_before_does_not_wait(
    kernel: Interrupts, vector: Vector
) -> None:
    async def main() -> int:
        return await asyncio.wait_for(_count(vector), 5)

    kernel.signal(0)
    assert asyncio.run(main()) == 1


async def _count(vector: Vector) -> int:
    return await vector


def test_an_await_that_is_cancelled_leaves_nothing_behind(
    host: ScriptedHost, access: DeviceAccess, vector: Vector
) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_count(vector), 0.01)

    asyncio.run(main())
    assert host.files == {access.fd, vector.fd}


def test_two_can_await_one_vector_and_no_interrupt_is_lost(
    kernel: Interrupts, vector: Vector
) -> None:
    async def main() -> int:
        tasks = [asyncio.create_task(_count(vector)) for _ in range(2)]
        total = 0
        await asyncio.sleep(0.01)
        while tasks:
            kernel.signal(0)
            done, rest = await asyncio.wait(tasks, return_when="FIRST_COMPLETED", timeout=5)
            assert done, "one that waits is never woken"
            total += sum(task.result() for task in done)
            tasks = list(rest)
        return total

    assert asyncio.run(main()) == 2


def test_disabling_wakes_who_awaits_in_the_same_thread(kernel: Interrupts, irq: Irq) -> None:
    (vector,) = irq.enable()

    async def main() -> None:
        task = asyncio.create_task(_count(vector))
        await asyncio.sleep(0.01)
        irq.disable()
        with pytest.raises(ClosedError):
            await asyncio.wait_for(task, 5)

    asyncio.run(main())


def test_enabling_again_while_somebody_awaits_the_old_vector_works(
    kernel: Interrupts, irq: Irq
) -> None:
    (old,) = irq.enable()

    async def main() -> int:
        task = asyncio.create_task(_count(old))
        await asyncio.sleep(0.01)
        irq.disable()
        (new,) = irq.enable()
        asyncio.get_running_loop().call_later(0.05, kernel.signal, 0)
        count = await asyncio.wait_for(_count(new), 5)
        with pytest.raises(ClosedError):
            await task
        return count

    assert asyncio.run(main()) == 1
    irq.disable()


# -- masking ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("mask", vfio.VFIO_IRQ_SET_ACTION_MASK),
        ("unmask", vfio.VFIO_IRQ_SET_ACTION_UNMASK),
        ("trigger", vfio.VFIO_IRQ_SET_ACTION_TRIGGER),
    ],
)
def test_one_vector_is_masked_unmasked_or_triggered(
    kernel: Interrupts, irq: Irq, name: str, action: int
) -> None:
    getattr(irq, name)(2)
    assert kernel.calls == [(vfio.VFIO_IRQ_SET_DATA_NONE | action, 2, 1)]
