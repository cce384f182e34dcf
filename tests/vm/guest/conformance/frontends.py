"""Devices on real kernels, as the suite of their frontends sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tests.vm.guest.edu as card_of
from tests.vm.guest import virtio
from tests.vm.guest.channel import Channel
from tests.vm.guest.devices import Device
from tests.vm.guest.way import Way
from vfiocore.cli.demo import nvme as controller_of
from vfiocore.session import Session
from vfiocore.testing import DeviceUnderTest, Register
from vfiocore.uapi import vfio
from vfiocore.uapi.s390_cio import CCW_CMD_SENSE_ID
from vfiocore_ccw.channel import ChannelProgram

from .linux import left_behind

INTX, MSI = vfio.VFIO_PCI_INTX_IRQ_INDEX, vfio.VFIO_PCI_MSI_IRQ_INDEX
MSIX, REQUEST = vfio.VFIO_PCI_MSIX_IRQ_INDEX, vfio.VFIO_PCI_REQ_IRQ_INDEX

NAME = "dev0"
KEPT = 0x0102_0304

Step = Callable[[Session], object]


def under_test(
    way: Way, target: Device, *, ready: Step = lambda session: None, **facts: Any
) -> DeviceUnderTest:
    """A device that is opened in a way and made ready for its suite."""

    def opened() -> Session:
        session = way.open(target)
        ready(session)
        return session

    return DeviceUnderTest(open=opened, leftovers=left_behind, id=NAME, **facts)


def by_loopback(*indexes: int) -> dict[int, Step]:
    """Let the kernel signal, as if the device had."""
    return {index: _triggered(index) for index in indexes}


def _triggered(index: int) -> Step:
    def trigger(session: Session) -> None:
        irq = session[NAME].irq(index)
        # A device need not ask whether it is heard; of this the kernel makes an error.
        if irq.vectors:
            irq.trigger()

    return trigger


def awake(session: Session) -> None:
    """A PCI card decodes memory and masters the bus."""
    session[NAME].memory_decode = True
    session[NAME].bus_master = True


# -- PCI cards -------------------------------------------------------------------------------------
def edu(way: Way, target: Device) -> DeviceUnderTest:
    """QEMU's edu card, which keeps its registers when its bus is reset."""

    def ready(session: Session) -> None:
        awake(session)
        acknowledge(session)

    def ring(session: Session) -> None:
        session[NAME].bars[0].write32(card_of.IRQ_RAISE, 1)

    def acknowledge(session: Session) -> None:
        session[NAME].bars[0].write32(card_of.IRQ_ACK, 1)

    return under_test(
        way,
        target,
        ready=ready,
        registers=(
            Register(region=0, offset=card_of.IDENTITY, initial=0x0100_00ED),
            Register(region=0, offset=card_of.DMA_COUNT, width=8, keeps=KEPT),
        ),
        mappable=frozenset({0}),
        interrupts={INTX: ring, MSI: ring},
        acknowledge={INTX: acknowledge, MSI: acknowledge},
    )


INTERRUPT_MASK = 0x00


def ivshmem(way: Way, target: Device) -> DeviceUnderTest:
    """A card with few registers and much memory."""
    return under_test(
        way,
        target,
        ready=awake,
        registers=(
            Register(region=0, offset=INTERRUPT_MASK, initial=0, keeps=1),
            Register(region=2, offset=0x40, width=8, keeps=KEPT),
        ),
        mappable=frozenset({0, 2}),
        memory=frozenset({2}),
        interrupts=by_loopback(REQUEST),
    )


VERSION, VERSION_1_4 = 0x08, 0x0001_0400
ENTRY_SIZES = controller_of.ENABLE & ~1


def nvme(way: Way, target: Device) -> DeviceUnderTest:
    """QEMU's NVMe controller, which is not started."""
    return under_test(
        way,
        target,
        ready=awake,
        registers=(
            Register(region=0, offset=VERSION, initial=VERSION_1_4),
            Register(region=0, offset=controller_of.CC, initial=0, keeps=ENTRY_SIZES),
        ),
        mappable=frozenset({0}),
        interrupts=by_loopback(MSIX, REQUEST),
    )


COMMON_BAR = 4


def zpci(way: Way, target: Device) -> DeviceUnderTest:
    """A virtio network card, whose registers only instructions reach."""

    def ready(session: Session) -> None:
        awake(session)
        virtio.reset(virtio.Registers(session[NAME], virtio.COMMON))

    acknowledged = virtio.ACKNOWLEDGE
    return under_test(
        way,
        target,
        ready=ready,
        registers=(
            Register(region=COMMON_BAR, offset=virtio.FEATURE_SELECT, keeps=1),
            Register(region=COMMON_BAR, offset=virtio.QUEUE_SELECT, width=2, keeps=1),
            Register(
                region=COMMON_BAR, offset=virtio.STATUS, width=1, initial=0, keeps=acknowledged
            ),
        ),
        interrupts=by_loopback(MSIX, REQUEST),
        resettable=False,
    )


# -- mediated devices ------------------------------------------------------------------------------
DATA, INTERRUPTS, FIFO, SCRATCH = 0, 1, 2, 7
WHEN_RECEIVED, FIFO_ON_AND_EMPTY = 0x01, 0x07


def mtty(way: Way, target: Device) -> DeviceUnderTest:
    """The kernel's sample serial card: what it sends it receives."""

    def ready(session: Session) -> None:
        port = session[NAME].bars[0]
        port.write8(FIFO, FIFO_ON_AND_EMPTY)
        port.write8(INTERRUPTS, WHEN_RECEIVED)

    def send(session: Session) -> None:
        session[NAME].bars[0].write8(DATA, ord("x"))

    def receive(session: Session) -> None:
        session[NAME].bars[0].read8(DATA)

    return under_test(
        way,
        target,
        ready=ready,
        registers=[Register(region=port, offset=SCRATCH, width=1, keeps=0x5A) for port in (0, 1)],
        interrupts={INTX: send, MSI: send},
        acknowledge={INTX: receive, MSI: receive},
    )


def mdpy(way: Way, target: Device) -> DeviceUnderTest:
    """The kernel's sample display, whose picture begins with black after a reset."""
    return under_test(
        way,
        target,
        ready=lambda session: session[NAME].reset(),
        registers=[Register(region=0, offset=0, initial=0, keeps=KEPT)],
        mappable=frozenset({0}),
        memory=frozenset({0}),
    )


# -- others ----------------------------------------------------------------------------------------
MAGIC, DEVICE_STATUS = 0x00, 0x70


def platform(way: Way, target: Device) -> DeviceUnderTest:
    """A virtio-mmio device."""

    def ready(session: Session) -> None:
        session[NAME].regions[0].write32(DEVICE_STATUS, 0)

    return under_test(
        way,
        target,
        ready=ready,
        registers=(
            Register(region=0, offset=MAGIC, initial=int.from_bytes(b"virt", "little")),
            Register(region=0, offset=DEVICE_STATUS, initial=0, keeps=virtio.ACKNOWLEDGE),
        ),
        interrupts=by_loopback(0),
        resettable=False,
    )


def ccw(way: Way, target: Device) -> DeviceUnderTest:
    """A disk's subchannel: it interrupts when a program ends; the rest is signalled by the kernel."""

    def ready(session: Session) -> None:
        channel = Channel(session, NAME)
        program = ChannelProgram().command(CCW_CMD_SENSE_ID, channel.at(0), 20, sli=True)
        channel.memory.write(0, program.to_bytes())

    def start(session: Session) -> None:
        disk = session[NAME]
        # To start a program enables the interrupt that ends it.
        if disk.io.vectors:
            (memory,) = disk.container.mappings
            disk.start(memory.iova)

    signalled = by_loopback(vfio.VFIO_CCW_CRW_IRQ_INDEX, vfio.VFIO_CCW_REQ_IRQ_INDEX)
    return under_test(
        way,
        target,
        ready=ready,
        interrupts={vfio.VFIO_CCW_IO_IRQ_INDEX: start, **signalled},
    )
