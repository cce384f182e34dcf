"""The ways of opening devices."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfiocore import Framework
from vfiocore.container import Capability
from vfiocore.host import Host, LinuxHost
from vfiocore.session import Session
from vfiocore.uapi import vfio

from .devices import Device

if TYPE_CHECKING:
    from vfiocore.host.protocol import IoctlArgument

WAYS = ("type1v2", "type1", "compat", "iommufd")
"""Every way to an address space that an IOMMU translates."""


class WithoutVersion2(LinuxHost):
    """This machine, as if its kernel had only version 1 of type1: the library prefers version 2."""

    def ioctl(self, fd: int, request: int, arg: IoctlArgument = 0) -> int:
        if request == vfio.VFIO_CHECK_EXTENSION and arg == vfio.VFIO_TYPE1v2_IOMMU:
            return 0
        return super().ioctl(fd, request, arg)


class OneInterface(LinuxHost):
    """This machine, as if its kernel had no type1: /dev/iommu plays the part of the container."""

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        return super().open("/dev/iommu" if path == "/dev/vfio/vfio" else path, flags)


HOSTS: dict[str, type[LinuxHost]] = {"type1": WithoutVersion2, "compat": OneInterface}
"""Where a way needs another machine than this one."""


KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])
"""Major and minor."""

CAPABILITIES = {
    "type1v2": Capability.BAR_BY_ADDRESS | Capability.DIRTY_TRACKING,
    "type1": Capability.BAR_BY_ADDRESS | Capability.NO_DRIVER_PINS,
    "compat": Capability(0),
    "iommufd": Capability.MAP_FILE if KERNEL >= (6, 13) else Capability(0),
    "noiommu": Capability.NO_IOMMU,
}
"""What containers can do, by the name of the way."""


MAPS_NO_BARS = {"compat"} if KERNEL >= (6, 19) else {"compat", "iommufd"}
"""The ways that show a device no other one's BARs: `/dev/iommu` maps them as files (dma-bufs) only,
which the type1 interface does not know, nor kernels before 6.19."""


@dataclass(frozen=True)
class Way:
    """How devices are opened.

    Attributes:
        name: One of `WAYS`, or ``noiommu``.
        backend: The library's backend: ``legacy`` or ``iommufd``.
        framework: On the host that leads this way.
        properties: What each device needs besides, as ``,noiommu=on``.
    """

    name: str
    backend: str
    framework: Framework
    properties: str = ""

    @classmethod
    def called(cls, name: str, framework: Framework) -> Way:
        """The way of this name, with a framework's plugins."""
        host: Host = HOSTS.get(name, LinuxHost)()
        backend = "iommufd" if name == "iommufd" else "legacy"
        properties = ",noiommu=on" if name == "noiommu" else ""
        return cls(name, backend, framework.on(host), properties)

    def words(self, *devices: Device, more: str = "") -> list[str]:
        """The options that configure these devices, each with the properties `more`."""
        more += self.properties
        if self.backend == "iommufd":
            return ["-object", "iommufd,id=iommufd0", *_words(devices, f"{more},iommufd=iommufd0")]
        return _words(devices, more)

    def open(self, *devices: Device, more: str = "") -> Session:
        """A session with these devices; their ids are ``dev0``, ``dev1``…"""
        return self.framework.open(" ".join(self.words(*devices, more=more)))


def _words(devices: tuple[Device, ...], more: str) -> list[str]:
    found: list[str] = []
    for number, device in enumerate(devices):
        found += ["-device", f"{device.type},id=dev{number},{device.selector}{more}"]
    return found
