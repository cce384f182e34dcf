"""A host whose ioctls are scripted, and devices that are memory files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

from vfiocore.access import DeviceAccess, IrqInfo, RegionInfo
from vfiocore.capabilities import Capability
from vfiocore.host import EVENTFD_DEFAULT, LinuxHost
from vfiocore.region import Region, mappable_areas
from vfiocore.uapi import vfio

PAGE = mmap.PAGESIZE
READ_WRITE = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
MAPPABLE = READ_WRITE | vfio.VFIO_REGION_INFO_FLAG_MMAP

Answer = Callable[[Any], int]


class ScriptedHost(LinuxHost):
    """This machine, but ioctls are answered by a script, and what is open is known."""

    name = "scripted"

    def __init__(self) -> None:
        self.answers: dict[int, Answer] = {}
        self.asked: list[tuple[int, int]] = []
        self.files: set[int] = set()
        self.closing: OSError | None = None

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        self.asked.append((fd, request))
        return self.answers[request](arg)

    def eventfd(self, initial: int = 0, flags: int = EVENTFD_DEFAULT) -> int:
        return self._opened(super().eventfd(initial, flags))

    def memfd(self, name: str, size: int, *, hugetlb: int | None = None) -> int:
        return self._opened(super().memfd(name, size, hugetlb=hugetlb))

    def dup(self, fd: int) -> int:
        return self._opened(os.dup(fd))

    def close(self, fd: int) -> None:
        os.close(fd)
        self.files.discard(fd)
        if self.closing is not None:
            raise self.closing

    def _opened(self, fd: int) -> int:
        self.files.add(fd)
        return fd


def refusing(number: int) -> Answer:
    """An ioctl that fails with an errno."""

    def answer(_arg: Any) -> int:
        raise OSError(number, os.strerror(number))

    return answer


def device_file(host: ScriptedHost, size: int = 8 * PAGE) -> DeviceAccess:
    """A device whose file is memory: reads, writes and mmaps work."""
    return DeviceAccess(host=host, fd=host.memfd("device", size), name="dev")


def region_of(
    access: DeviceAccess,
    *,
    size: int = 2 * PAGE,
    offset: int = PAGE,
    flags: int = MAPPABLE,
    byteorder: Any = "little",
    capabilities: tuple[Capability, ...] = (),
) -> Region:
    info = RegionInfo(0, flags, size, offset, capabilities)
    return Region(access, info, "dev BAR 0", byteorder, mappable_areas(info))


def irq_info(count: int = 4, flags: int = vfio.VFIO_IRQ_INFO_EVENTFD) -> IrqInfo:
    return IrqInfo(0, flags, count)
