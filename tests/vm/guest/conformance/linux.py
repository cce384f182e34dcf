"""Backends on real kernels, as their suite sees them."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

import vfiocore_ccw.plugin
import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
import vfiocore_pci.plugin
import vfiocore_platform.plugin
from tests.vm.guest.channel import READ_CONFIGURATION, SECONDS, WRITE_CONFIGURATION
from tests.vm.guest.devices import Device as Target
from tests.vm.guest.virtio import ROOM, SECTOR, BrokenQueueError, Disk
from tests.vm.guest.way import CAPABILITIES, HOSTS, Way
from vfiocore.container import Container
from vfiocore.device import Device
from vfiocore.errors import DeviceAccessError
from vfiocore.host import LinuxHost
from vfiocore.memory.buffer import DmaBuffer
from vfiocore.memory.mapping import DmaMapping
from vfiocore.sysfs import read_device
from vfiocore.testing import BackendUnderTest, DeviceFault, PassedDevice
from vfiocore_ccw.channel import ChannelProgram

PLUGINS: Sequence[object] = (
    vfiocore_legacy.plugin,
    vfiocore_iommufd.plugin,
    vfiocore_pci.plugin,
    vfiocore_platform.plugin,
    vfiocore_ccw.plugin,
)

FILES = ("/dev/vfio/", "/dev/iommu", "anon_inode:[vfio", "anon_inode:[eventfd]", "/dev/kvm")
"""How the names of files begin that may not stay open."""

ASIDE = 1 << 26
"""How far from the first usable address a device's own memory is: the suite maps before it."""


# -- what is left ----------------------------------------------------------------------------------
def left_behind() -> list[str]:
    """What the kernel still holds for this process, in words."""
    pinned = pinned_bytes()
    return [*_open_files(), *_mapped_regions(), *([f"{pinned} pinned bytes"] if pinned else [])]


def pinned_bytes() -> int:
    """What the kernel has pinned for this process; type1 counts it as locked, iommufd as pinned."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    facts = dict(line.split(":", 1) for line in lines)
    return max(int(facts[name].split()[0]) for name in ("VmLck", "VmPin")) * 1024


def _open_files() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the folder itself, while it was listed
        if name.startswith(FILES):
            yield name


def _mapped_regions() -> Iterator[str]:
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if "vfio" in line and ".so" not in line:
            yield f"a mapping of {line.split(maxsplit=5)[5]}"


# -- backends --------------------------------------------------------------------------------------
@define(eq=False, kw_only=True)
class LinuxBackend(BackendUnderTest):
    """A backend over VFIO, tested on this machine.

    Attributes:
        targets: Its devices.
    """

    targets: Sequence[Target]

    def leftovers(self) -> Sequence[str]:
        """Open files, mapped regions, pinned memory."""
        return left_behind()

    def pinned_bytes(self) -> int | None:
        """What the kernel says of this process."""
        return pinned_bytes()

    def pass_device(self) -> PassedDevice | None:
        """The cdev of the first device, where the backend takes one."""
        if not self.has_objects:
            return None
        target = self.targets[0]
        device = read_device(self.host, str(target.path.resolve()))
        fd = self.host.open(f"/dev/vfio/devices/{device.cdev}")
        beside = f",sysfsdev={target.path}" if target.bus == "mdev" else ""
        return PassedDevice(f"{target.type},fd={fd}{beside}", (fd,))


@define(eq=False, kw_only=True)
class NoIommu(LinuxBackend):
    """A device behind nothing, which cannot be given memory."""

    def device_read(self, device: Device, iova: int, size: int) -> bytes:
        raise AssertionError("nothing can be mapped for a device without an IOMMU")

    def device_write(self, device: Device, iova: int, data: bytes) -> None:
        raise AssertionError("nothing can be mapped for a device without an IOMMU")


@define(eq=False, kw_only=True)
class WithScratch(LinuxBackend):
    """Devices that need memory of their own to look at other memory: it comes and goes with a look."""

    # The suite looks from several threads, and a device does one thing at a time.
    _looking: threading.Lock = field(factory=threading.Lock, init=False)

    @contextmanager
    def scratch(self, container: Container) -> Iterator[DmaBuffer]:
        """Two pages that the container's devices reach."""
        page = max(container.page_size, self.host.page_size)
        with self._looking, DmaBuffer(self.host, 2 * page, align=page) as buffer:
            buffer.iova = _aside(container, buffer.length)
            container.dma_map([DmaMapping(buffer.iova, buffer.length, buffer.vaddr)])
            try:
                yield buffer
            finally:
                container.dma_unmap([(buffer.iova, buffer.length)])

    @abstractmethod
    def device_read(self, device: Device, iova: int, size: int) -> bytes: ...

    @abstractmethod
    def device_write(self, device: Device, iova: int, data: bytes) -> None: ...


def _aside(container: Container, size: int) -> int:
    for usable in container.iova_ranges:
        iova = max(usable.start, 1 << 20) + ASIDE
        if usable.covers(iova, size):
            return iova
    assert not container.iova_ranges, f"{container.label} has no room aside"
    return ASIDE


# -- virtio disks as PCI functions -----------------------------------------------------------------
@define
class Copier:
    """A disk that copies memory by writing a sector and reading it again."""

    disk: Disk
    scratch: DmaBuffer

    def fetch(self, iova: int, size: int) -> bytes:
        """What the disk finds at an address."""
        rest = (self.scratch.iova + ROOM + SECTOR, SECTOR - size)
        sector = (self.scratch.iova + ROOM, SECTOR)
        assert self.disk.write(0, (iova, size), rest) == 0
        assert self.disk.read(0, sector) == 0
        return self.scratch.read(ROOM, size)

    def store(self, iova: int, data: bytes) -> None:
        """Have the disk write somewhere."""
        rest = (self.scratch.iova + ROOM + SECTOR, SECTOR - len(data))
        sector = (self.scratch.iova + ROOM, SECTOR)
        self.scratch.write(ROOM, data)
        assert self.disk.write(0, sector) == 0
        assert self.disk.read(0, (iova, len(data)), rest) == 0


@define(eq=False, kw_only=True)
class Disks(WithScratch):
    """Virtio disks.

    QEMU gives a device zeros where the IOMMU stops a read, and drops a write, in silence: so what
    was written is read again, and zeros are believed if something else can be written there.
    """

    def device_read(self, device: Device, iova: int, size: int) -> bytes:
        """Through the IOMMU of this machine."""
        with self._copier(device, iova) as copier:
            return _fetched(copier, iova, size)

    def device_write(self, device: Device, iova: int, data: bytes) -> None:
        """Through the IOMMU of this machine."""
        with self._copier(device, iova) as copier:
            copier.store(iova, data)
            if _fetched(copier, iova, len(data)) != data:
                raise DeviceFault(f"what was written to {iova:#x} did not arrive")

    @contextmanager
    def _copier(self, device: Any, iova: int) -> Iterator[Copier]:
        with self.scratch(device.container) as scratch, device.enable():
            disk = Disk(device, scratch)
            try:
                yield Copier(disk, scratch)
            except BrokenQueueError:
                raise DeviceFault(f"nothing is at {iova:#x}") from None
            finally:
                disk.stop()


def _fetched(copier: Copier, iova: int, size: int) -> bytes:
    found, mark = copier.fetch(iova, size), b"\xff" * size
    if any(found):
        return found
    copier.store(iova, mark)
    if copier.fetch(iova, size) != mark:
        raise DeviceFault(f"nothing is at {iova:#x}")
    copier.store(iova, found)
    return found


# -- channel-attached network cards ----------------------------------------------------------------
ADDRESS = 6
"""How many bytes a network card keeps of what is written to it: its hardware address."""


@define(eq=False, kw_only=True)
class NetworkCards(WithScratch):
    """Channel-attached virtio network cards, which keep a few bytes of configuration.

    The kernel refuses a program whose data is not mapped, before the device sees it.
    """

    def pinned_bytes(self) -> int | None:
        """Not seen: vfio_ccw pins what a program uses, while it runs."""
        return None

    def device_read(self, device: Device, iova: int, size: int) -> bytes:
        """By a channel program."""
        with self.scratch(device.container) as scratch:
            there = scratch.iova + scratch.length // 2
            self._copy(device, scratch, iova, there, size)
            return scratch.read(scratch.length // 2, size)

    def device_write(self, device: Device, iova: int, data: bytes) -> None:
        """By a channel program."""
        with self.scratch(device.container) as scratch:
            here = scratch.iova + scratch.length // 2
            scratch.write(scratch.length // 2, data)
            self._copy(device, scratch, here, iova, len(data))

    def _copy(self, card: Any, scratch: DmaBuffer, source: int, target: int, size: int) -> None:
        program = ChannelProgram()
        for at in range(0, size, ADDRESS):
            part = min(ADDRESS, size - at)
            program.command(WRITE_CONFIGURATION, source + at, part, sli=True)
            program.command(READ_CONFIGURATION, target + at, part, sli=True)
        scratch.write(0, program.to_bytes())
        try:
            ending = card.run(scratch.iova, timeout=SECONDS)
        except DeviceAccessError as error:
            raise DeviceFault(str(error)) from error
        assert ending.ok, ending.problems


# -- facts of each way -----------------------------------------------------------------------------
def facts(way: Way, targets: Sequence[Target], **more: Any) -> dict[str, Any]:
    """What a backend under test is made from, for a way of opening devices."""
    known: dict[str, Any] = {
        "host": HOSTS.get(way.name, LinuxHost)(),
        "plugins": PLUGINS,
        "name": way.backend,
        "has_objects": way.backend == "iommufd",
        "targets": targets,
        "devices": tuple(f"{each.type},{each.selector}{way.properties}" for each in targets),
        "capabilities": CAPABILITIES[way.name],
    }
    return known | more
