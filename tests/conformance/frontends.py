"""The frontends of this repository, each as its suite sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import vfiocore_ap.plugin
import vfiocore_ccw.plugin
import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
import vfiocore_pci.plugin
import vfiocore_platform.plugin
from vfiocore import Framework, Session
from vfiocore.testing import DeviceUnderTest, Register
from vfiocore.testing.sim import (
    ACKNOWLEDGE,
    CARDS,
    DOORBELL,
    IDENTIFICATION,
    RAM_BAR,
    SCRATCH,
    WIDE_SCRATCH,
    left_behind,
    machine,
)
from vfiocore.uapi import vfio
from vfiocore_sim.devices import TimerDevice, timer
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import AP_MATRIX_UUID, CCW_DISK_UUID, Topology

from .backends import PAGE

PLUGINS: Sequence[object] = (
    vfiocore_legacy.plugin,
    vfiocore_iommufd.plugin,
    vfiocore_pci.plugin,
    vfiocore_platform.plugin,
    vfiocore_ap.plugin,
    vfiocore_ccw.plugin,
)
BACKENDS = {"legacy": ("", ""), "iommufd": ("-object iommufd,id=iommufd0 ", ",iommufd=iommufd0")}
TIMER = "10000000.timer"
MATRIX = f"/sys/bus/mdev/devices/{AP_MATRIX_UUID}"
DISK = f"/sys/bus/mdev/devices/{CCW_DISK_UUID}"


def under_test(
    host: SimHost, backend: str, words: str, plugins: Sequence[object] = PLUGINS, **facts: Any
) -> DeviceUnderTest:
    first, link = BACKENDS[backend]
    framework = Framework(plugins, autoload=False, host=host)
    ready: Callable[[Session], object] = facts.pop("ready", lambda session: None)

    def opened() -> Session:
        session = framework.open(f"{first}-device {words},id=device{link}")
        ready(session)
        return session

    return DeviceUnderTest(open=opened, leftovers=partial(left_behind, host), **facts)


# -- pci -------------------------------------------------------------------------------------------
INTERRUPTS = (vfio.VFIO_PCI_INTX_IRQ_INDEX, vfio.VFIO_PCI_MSI_IRQ_INDEX)


def pci(backend: str, plugins: Sequence[object] = PLUGINS) -> DeviceUnderTest:
    def ready(session: Session) -> None:
        session["device"].memory_decode = True
        session["device"].bus_master = True

    def ring(session: Session) -> None:
        session["device"].bars[0].write32(DOORBELL, 0)

    def acknowledge(session: Session) -> None:
        session["device"].bars[0].write32(ACKNOWLEDGE, 0)

    return under_test(
        SimHost(machine(PAGE)),
        backend,
        f"vfio-pci,host={CARDS[0]}",
        plugins,
        ready=ready,
        registers=(
            Register(region=0, offset=0, initial=IDENTIFICATION),
            Register(region=0, offset=SCRATCH, initial=0, keeps=0x0102_0304),
            Register(region=0, offset=WIDE_SCRATCH, width=8, initial=0, keeps=0x0102_0304_0506),
            Register(region=RAM_BAR, offset=0x20, keeps=0x0102_0304),
        ),
        mappable=frozenset({RAM_BAR}),
        memory=frozenset({RAM_BAR}),
        interrupts=dict.fromkeys(INTERRUPTS, ring),
        acknowledge=dict.fromkeys(INTERRUPTS, acknowledge),
    )


# -- platform --------------------------------------------------------------------------------------
class WithoutReset(TimerDevice):
    """The kernel has no reset function for it."""

    has_reset = False


def platform(backend: str, program: type[TimerDevice] = TimerDevice) -> DeviceUnderTest:
    def expire(session: Session) -> None:
        session["device"].regions[0].write32(timer.REG_CONTROL, timer.CONTROL_START)

    def acknowledge(session: Session) -> None:
        session["device"].regions[0].write32(timer.REG_ACK, timer.STATUS_EXPIRED)

    return under_test(
        SimHost(Topology().platform(TIMER, program, group=1)),
        backend,
        f"vfio-platform,host={TIMER}",
        registers=(
            Register(region=0, offset=timer.REG_ID, initial=timer.IDENTIFICATION),
            Register(region=0, offset=timer.REG_RECORD_LOW, initial=0, keeps=0x0102_0304),
        ),
        interrupts={timer.IRQ_EXPIRED: expire, timer.IRQ_TICK: expire},
        acknowledge={timer.IRQ_EXPIRED: acknowledge, timer.IRQ_TICK: acknowledge},
        resettable=program.has_reset,
    )


# -- ap --------------------------------------------------------------------------------------------
def ap(backend: str) -> DeviceUnderTest:
    host = SimHost(Topology().ap_matrix(AP_MATRIX_UUID))

    def wanted_back(_session: Session) -> None:
        host.device(AP_MATRIX_UUID).request(0)

    def changed(_session: Session) -> None:
        host.write_file(f"{MATRIX}/assign_control_domain", b"0x11\n")
        host.write_file(f"{MATRIX}/unassign_control_domain", b"0x11\n")

    return under_test(
        host,
        backend,
        f"vfio-ap,sysfsdev={MATRIX}",
        interrupts={
            vfio.VFIO_AP_REQ_IRQ_INDEX: wanted_back,
            vfio.VFIO_AP_CFG_CHG_IRQ_INDEX: changed,
        },
    )


# -- ccw -------------------------------------------------------------------------------------------
def ccw(backend: str) -> DeviceUnderTest:
    host = SimHost(Topology().subchannel("0.0.0001").mdev(CCW_DISK_UUID, parent="0.0.0001"))

    def wanted_back(_session: Session) -> None:
        host.device(CCW_DISK_UUID).request(0)

    return under_test(
        host,
        backend,
        f"vfio-ccw,sysfsdev={DISK}",
        interrupts={vfio.VFIO_CCW_REQ_IRQ_INDEX: wanted_back},
    )


FRONTENDS: Mapping[str, Callable[[str], DeviceUnderTest]] = {
    "pci": pci,
    "platform": platform,
    "ap": ap,
    "ccw": ccw,
}
