"""Interrupts of a device."""

from __future__ import annotations

import asyncio
import threading

from vfiocore.device import Device
from vfiocore.errors import ClosedError, DeviceAccessError, InterruptTimeout, KernelError
from vfiocore.host import POLLIN
from vfiocore.session import Session
from vfiocore.testing.checks import needs, refused
from vfiocore.testing.topics.device_base import DeviceTopic, Line

SOON = 5.0
"""Seconds within which an interrupt has to come."""

A_MOMENT = 0.02
"""Seconds in which none must come."""


class Irqs(DeviceTopic):
    """Interrupts come when the device signals, as often as it does, and stop when told to."""

    def test_an_index_gives_the_same_irq_each_time(self, live: Device, lines: list[Line]) -> None:
        """`Device.irq` keeps them: enabled vectors are a state of the index."""
        for line in lines:
            assert live.irq(line.irq.index) is line.irq
            assert line.irq.count >= 1

    def test_there_is_no_index_past_the_last(self, live: Device) -> None:
        """DeviceAccessError."""
        with refused(DeviceAccessError, "asking for an interrupt that the device has not"):
            live.irq(live.info.num_irqs)

    def test_none_comes_before_the_device_signals(self, lines: list[Line]) -> None:
        """`Vector.take` gives 0, `Vector.wait` an InterruptTimeout."""
        for line in lines:
            vector = line.irq.enable()[0]
            assert vector.take() == 0
            with refused(InterruptTimeout, "waiting while nothing happens"):
                vector.wait(timeout=A_MOMENT)
            line.irq.disable()

    def test_an_interrupt_arrives(self, lines: list[Line]) -> None:
        """And is counted once; again when it comes again."""
        for line in lines:
            vector = line.irq.enable()[0]
            for _ in range(2):
                line.fire()
                assert vector.wait(timeout=SOON) >= 1
                assert vector.take() == 0
                line.acknowledge()
                if line.irq.automasked:
                    line.irq.unmask()
                assert vector.take() == 0, (
                    f"{line.irq.name} signals again when it is unmasked; a line that stays asserted"
                    " has to be in DeviceUnderTest.acknowledge"
                )
            line.irq.disable()

    def test_an_interrupt_wakes_an_event_loop(self, session: Session, lines: list[Line]) -> None:
        """The fd polls readable, for anybody's own loop."""
        for line in lines:
            vector = line.irq.enable()[0]
            assert session.host.poll([(vector.fileno(), POLLIN)], 0) == []
            line.fire()
            assert session.host.poll([(vector.fileno(), POLLIN)], SOON)
            assert vector.take() >= 1
            line.end()

    def test_an_interrupt_can_be_awaited(self, lines: list[Line]) -> None:
        """In asyncio."""

        async def awaited(line: Line) -> int:
            vector = line.irq.enable()[0]
            asyncio.get_running_loop().call_soon(line.fire)
            async with asyncio.timeout(SOON):
                return await vector

        for line in lines:
            assert asyncio.run(awaited(line)) >= 1
            line.end()

    def test_a_disabled_interrupt_does_not_come(self, lines: list[Line]) -> None:
        """Its vectors are closed: ClosedError for who still holds one. Twice is fine."""
        for line in lines:
            vector = line.irq.enable()[0]
            line.irq.disable()
            line.irq.disable()
            line.fire()
            with refused(ClosedError, "waiting for a disabled interrupt"):
                vector.wait(timeout=A_MOMENT)
            assert line.irq.vectors == ()
            line.end()

    def test_who_waits_is_woken_when_it_is_disabled(self, lines: list[Line]) -> None:
        """With a ClosedError, on whichever thread."""
        for line in lines:
            vector = line.irq.enable()[0]
            timer = threading.Timer(A_MOMENT, line.irq.disable)
            timer.start()
            with refused(ClosedError, "waiting for an interrupt while it is disabled"):
                vector.wait(timeout=SOON)
            timer.join()

    def test_a_disabled_interrupt_can_be_enabled_again(self, lines: list[Line]) -> None:
        """With new vectors."""
        for line in lines:
            line.irq.enable()
            line.irq.disable()
            vector = line.irq.enable()[0]
            vector.take()
            line.fire()
            assert vector.wait(timeout=SOON) >= 1
            line.end()

    def test_an_enabled_interrupt_is_not_enabled_again(self, lines: list[Line]) -> None:
        """DeviceAccessError, and what is enabled stays so."""
        for line in lines:
            vector = line.irq.enable()[0]
            with refused(DeviceAccessError, "enabling what is enabled"):
                line.irq.enable()
            line.fire()
            assert vector.wait(timeout=SOON) >= 1
            line.end()

    def test_there_are_as_many_vectors_as_the_device_has(self, lines: list[Line]) -> None:
        """All of them can be enabled; one more, or none, is a DeviceAccessError."""
        for line in lines:
            for count in (0, line.irq.count + 1):
                with refused(DeviceAccessError, f"enabling {count} of {line.irq.count} vectors"):
                    line.irq.enable(count)
            vectors = line.irq.enable(line.irq.count)
            assert [vector.number for vector in vectors] == list(range(line.irq.count))
            line.irq.disable()

    def test_a_masked_interrupt_waits_until_it_is_unmasked(self, lines: list[Line]) -> None:
        """Where the index is `maskable`; elsewhere masking is refused."""
        for line in lines:
            vector = line.irq.enable()[0]
            if not line.irq.maskable:
                with refused(KernelError, f"masking {line.irq.name}, which is not maskable"):
                    line.irq.mask()
                line.irq.disable()
                continue
            line.irq.mask()
            line.fire()
            with refused(InterruptTimeout, "waiting for a masked interrupt"):
                vector.wait(timeout=A_MOMENT)
            line.irq.unmask()
            assert vector.wait(timeout=SOON) >= 1
            line.end()

    def test_a_line_signals_until_the_device_is_told(self, lines: list[Line]) -> None:
        """Each time that it is unmasked; then no more."""
        lasting = [line for line in lines if line.lasts]
        needs(lasting, "no level-triggered line is declared in DeviceUnderTest.acknowledge")
        for line in lasting:
            vector = line.irq.enable()[0]
            line.fire()
            assert vector.wait(timeout=SOON) >= 1
            line.irq.unmask()
            assert vector.wait(timeout=SOON) >= 1
            line.acknowledge()
            line.irq.unmask()
            with refused(InterruptTimeout, "waiting after the device was told"):
                vector.wait(timeout=A_MOMENT)
            line.irq.disable()

    def test_release_turns_interrupts_off(self, live: Device, lines: list[Line]) -> None:
        """Before the device is closed."""
        for line in lines:
            vector = line.irq.enable()[0]
            live.release()
            assert vector.closed
            assert line.irq.vectors == ()

    def test_closing_turns_interrupts_off(self, session: Session, lines: list[Line]) -> None:
        """Their eventfds are closed, and who waits is told."""
        vectors = [lines[0].irq.enable()[0]]
        session.close()
        assert all(vector.closed for vector in vectors)
