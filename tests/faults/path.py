"""The whole path of each kind of device: open, use, close one device, close the rest."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from attrs import frozen

from vfiocore.framework import Framework
from vfiocore.log import VfioWarning
from vfiocore.session import Session
from vfiocore_ccw.channel import ChannelProgram
from vfiocore_sim.devices import EduDevice, IvshmemDevice, TimerDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import AP_MATRIX_UUID, CCW_DISK_UUID, Topology

from .faulty import FaultyHost, Step

MEMORY = "-object memory-backend-memfd,id=ram0,size=64K,addr=1M"
MDEVS = "sysfsdev=/sys/bus/mdev/devices"
SENSE_ID = 0xE4


class Absent(Exception):  # noqa: N818 - what is missing is no error
    """The kernel says that a device lacks what its driver needs."""


def given(thing: Any) -> Any:
    if thing is None:
        raise Absent
    return thing


# -- what a driver does ----------------------------------------------------------------------------
def use_card(session: Session, card: Any) -> None:
    with card.enable(), session["other"].enable() as other:
        bar = given(other.bars[2])
        bar.map()
        peer = session.share_region(bar)
        (vector,) = card.interrupts()
        vector.irq.trigger()
        vector.wait(timeout=1)
        vector.irq.disable()
        given(card.intx).enable()
        card.intx.mask()
        card.intx.unmask()
        card.reset()
        peer.close()
        bar.unmap()
        bar.read32(0)
        bar.map()
        session.share_region(bar)
        card.config_space.capabilities()
    session.close_device("other")


def use_timer(_session: Session, timer: Any) -> None:
    (registers,), (line, *_) = timer.regions, timer.irqs
    line.enable()
    line.trigger()
    with line.handling(timeout=1):
        registers.write32(0x18, 1)
    registers.read32(0x14)
    if registers.areas:
        registers.map()
    timer.reset()
    line.disable()


def use_matrix(_session: Session, matrix: Any) -> None:
    given(matrix.matrix)
    given(matrix.guest_matrix)
    matrix.config_changed.enable()
    matrix.request.enable()
    matrix.reset()


def use_disk(session: Session, disk: Any) -> None:
    with session.dma_alloc(8192, below=1 << 31) as memory:
        memory.write(0, ChannelProgram().command(SENSE_ID, memory.iova + 4096, 7).to_bytes())
        assert disk.run(memory.iova, timeout=1).ok
    disk.schib()
    disk.crws()
    disk.clear()
    disk.wait(timeout=1)
    disk.reset()


# -- what it does it with --------------------------------------------------------------------------
@frozen
class Kind:
    """One kind of device: its machine, how it is selected, how it is used."""

    name: str
    machine: Callable[[], Topology]
    devices: tuple[str, ...]
    use: Callable[[Session, Any], None]


def _cards() -> Topology:
    shared_memory = partial(IvshmemDevice, size=mmap.PAGESIZE)
    return (
        Topology()
        .pci("0000:02:00.0", EduDevice, group=1)
        .pci("0000:05:00.0", shared_memory, group=2)
    )


KINDS = (
    Kind(
        "pci",
        _cards,
        ("vfio-pci,id=dev,host=0000:02:00.0", "vfio-pci,id=other,host=0000:05:00.0"),
        use_card,
    ),
    Kind(
        "platform",
        lambda: Topology().platform("10000000.timer", TimerDevice, group=1),
        ("vfio-platform,id=dev,host=10000000.timer",),
        use_timer,
    ),
    Kind(
        "ap",
        lambda: Topology().ap_matrix(AP_MATRIX_UUID),
        (f"vfio-ap,id=dev,{MDEVS}/{AP_MATRIX_UUID}",),
        use_matrix,
    ),
    Kind(
        "ccw",
        lambda: Topology().subchannel("0.0.0001").mdev(CCW_DISK_UUID, parent="0.0.0001"),
        (f"vfio-ccw,id=dev,{MDEVS}/{CCW_DISK_UUID}",),
        use_disk,
    ),
)


@frozen
class Path:
    """A kind of device on a backend: ``legacy``, ``iommufd``, or iommufd with fds ``passed`` in."""

    kind: Kind
    backend: str

    def __str__(self) -> str:
        return f"{self.kind.name}-{self.backend}"

    def host(self) -> SimHost:
        return SimHost(self.kind.machine())

    def walk(self, host: Any) -> list[str]:
        """From end to end, and the warnings on the way; whatever fails, the session closes."""
        if self.backend != "passed":
            return self._walk(host, self._words())
        with passed_fds(host) as (iommufd, *cdevs):
            return self._walk(host, self._words_with(iommufd, cdevs))

    def open_again(self, host: SimHost) -> None:
        """Everything opens once more, by its own nodes, which nobody may be keeping."""
        with self.open(host) as session:
            session.dma_alloc(4096)

    def open(self, host: SimHost) -> Session:
        """Guest memory and the devices."""
        return framework().on(host).open(self._words())

    def _walk(self, host: Any, words: str) -> list[str]:
        with warnings.catch_warnings(record=True) as told:
            # That a BAR cannot be shown to other devices is told, and no fault.
            warnings.simplefilter("always", VfioWarning)
            with framework().on(host).open(words) as session:
                buffer = session.dma_alloc(4096)
                session.dma_alloc(4096, shared=True)
                session.run_in_loop(buffer.close)
                session.loop.run_once(0)
                self.kind.use(session, session["dev"])
        return [str(warning.message) for warning in told]

    def steps(self) -> list[Step]:
        """Every call that the walk makes of its host."""
        host = FaultyHost(self.host())
        self.walk(host)
        return host.steps

    def _words(self) -> str:
        linked = self.backend != "legacy"
        objects = f"{MEMORY} -object iommufd,id=iommufd0" if linked else MEMORY
        link = ",iommufd=iommufd0" if linked else ""
        return objects + "".join(f" -device {device}{link}" for device in self.kind.devices)

    def _words_with(self, iommufd: int, cdevs: Sequence[int]) -> str:
        words = f"{MEMORY} -object iommufd,id=iommufd0,fd={iommufd}"
        for device, fd in zip(self.kind.devices, cdevs, strict=True):
            selected = device.replace("host=", "sysfsdev=/sys/bus/pci/devices/")
            words += f" -device {selected},fd={fd},iommufd=iommufd0"
        return words


NODES = ("/dev/iommu", "/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1")


@contextmanager
def passed_fds(host: Any) -> Iterator[list[int]]:
    """A management layer's fds; when its process is done with them nothing may be pinned."""
    machine: SimHost = getattr(host, "inner", host)
    fds = [machine.open(node) for node in NODES]
    try:
        yield fds
    finally:
        still_pinned = machine.pinned_bytes
        for fd in reversed(fds):
            machine.close(fd)
        assert not still_pinned


PATHS = (
    *(Path(kind, backend) for kind in KINDS for backend in ("legacy", "iommufd")),
    Path(KINDS[0], "passed"),
)


@cache
def framework() -> Framework:
    return Framework()


def steps() -> Iterator[tuple[Path, Step]]:
    """Every call of every path."""
    for path in PATHS:
        for step in path.steps():
            yield path, step


@frozen
class Held:
    """What a process has of the machine, and what it has changed there."""

    files: list[str]
    pinned: int
    mappings: list[str]
    written: list[str]
    fds: list[int]
    memory: int


def held(host: FaultyHost) -> Held:
    machine = host.inner
    return Held(
        machine.open_files(),
        machine.pinned_bytes,
        machine.live_mappings(),
        [call.name for call in machine.calls if call.name.startswith("write ")],
        sorted(host.fds),
        sum(not mapping.closed for mapping in host.mappings),
    )
