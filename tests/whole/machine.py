"""The devices of the simulated machine's default topology, and the three ways of opening them."""

from __future__ import annotations

from functools import cache

from attrs import define, field, frozen

from vfiocore.framework import Framework
from vfiocore.session import Session
from vfiocore.sysfs import read_device
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import AP_MATRIX_UUID, CCW_DISK_UUID


@frozen
class Part:
    """One device of the machine."""

    id: str
    type: str
    bus: str
    name: str

    @property
    def path(self) -> str:
        return f"/sys/bus/{self.bus}/devices/{self.name}"

    @property
    def selector(self) -> str:
        return f"sysfsdev={self.path}" if self.bus == "mdev" else f"host={self.name}"


EDU = Part("edu", "vfio-pci", "pci", "0000:02:00.0")
NVME = Part("nvme", "vfio-pci", "pci", "0000:03:00.0")
UNVIABLE = Part("unviable", "vfio-pci", "pci", "0000:04:00.0")
OTHER_EDU = Part("other", "vfio-pci", "pci", "0000:05:00.0")
TWIN_0 = Part("twin0", "vfio-pci", "pci", "0000:06:00.0")
TWIN_1 = Part("twin1", "vfio-pci", "pci", "0000:06:00.1")
SHARED = Part("shared", "vfio-pci", "pci", "0000:07:00.0")
TIMER = Part("timer", "vfio-platform", "platform", "10000000.timer")
AP = Part("ap", "vfio-ap", "mdev", AP_MATRIX_UUID)
CCW = Part("ccw", "vfio-ccw", "mdev", CCW_DISK_UUID)
EVERY_KIND = (NVME, TIMER, AP, CCW)


@cache
def installed() -> Framework:
    """The framework of whatever is installed; looking for that takes longer than most tests."""
    return Framework()


NEEDS_SYSFSDEV = ("vfio-platform", "vfio-ccw")
"""Types that read something of the device from sysfs, which an fd does not tell."""


@define
class Way:
    """How a configuration reaches its devices: ``legacy``, ``iommufd``, or fds ``passed`` in."""

    name: str
    host: SimHost
    passed: list[int] = field(factory=list)

    @property
    def backend(self) -> str:
        return "legacy" if self.name == "legacy" else "iommufd"

    @property
    def framework(self) -> Framework:
        return installed().on(self.host)

    def words(self, *parts: Part, more: str = "") -> str:
        """The configuration that has these devices, each with the properties `more`."""
        objects = "" if self.name == "legacy" else f"-object {self._iommufd()} "
        return objects + " ".join(f"-device {self._device(part)}{more}" for part in parts)

    def open(self, *parts: Part, first: str = "", more: str = "") -> Session:
        """A session of these devices; `first` are objects."""
        return self.framework.open(f"{first} {self.words(*parts, more=more)}")

    def close_passed(self) -> None:
        """What a management layer does when its process has ended."""
        while self.passed:
            self.host.close(self.passed.pop())

    def _iommufd(self) -> str:
        if self.name != "passed":
            return "iommufd,id=iommufd0"
        return f"iommufd,id=iommufd0,fd={self._opened('/dev/iommu')}"

    def _device(self, part: Part) -> str:
        words = f"{part.type},id={part.id}"
        if self.name == "legacy":
            return f"{words},{part.selector}"
        if self.name == "iommufd":
            return f"{words},{part.selector},iommufd=iommufd0"
        cdev = read_device(self.host, part.path).cdev
        words += f",fd={self._opened(f'/dev/vfio/devices/{cdev}')},iommufd=iommufd0"
        return f"{words},sysfsdev={part.path}" if part.type in NEEDS_SYSFSDEV else words

    def _opened(self, path: str) -> int:
        self.passed.append(self.host.open(path))
        return self.passed[-1]


def left_behind(host: SimHost) -> tuple[list[str], int, list[str]]:
    """What the kernel still holds for this process: files, pinned bytes, mapped regions."""
    return host.open_files(), host.pinned_bytes, host.live_mappings()


NOTHING: tuple[list[str], int, list[str]] = ([], 0, [])
