"""What vfiocore costs on top of what it does: ratios, each within one run.

usage: python bench/overhead.py

The host here issues FIONREAD on a pipe where an ioctl is asked for: a system call that takes a
buffer and that the kernel answers at once. A map on a real machine also pins memory and fills page
tables, so its ratio is lower. Standing in for the ioctl takes one Python function, which
`LinuxHost` does not have; it counts as overhead here. Rows and their baselines are timed in turns,
and the best of the rounds counts.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
import termios
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
from attrs import frozen
from vfiocore_iommufd.container import IommufdContainer
from vfiocore_iommufd.iommufd import Iommufd
from vfiocore_legacy.container import LegacyContainer

from vfiocore import hookimpl
from vfiocore.access import DeviceAccess, RegionInfo
from vfiocore.address_space import VfioAddressSpace
from vfiocore.container import Container
from vfiocore.host import LinuxHost
from vfiocore.memory import DmaMapping
from vfiocore.plugins import PluginSet
from vfiocore.region import Region, mappable_areas
from vfiocore.uapi import vfio

ROUNDS = 7
CALLS = 2000
BATCH = 1000
PROCESSES = 5
PAGE = mmap.PAGESIZE
REGISTERS = 4096
MAPPING = DmaMapping(0, PAGE, PAGE)
RANGES = [DmaMapping(number * PAGE, PAGE, number * PAGE) for number in range(BATCH)]


# -- a host that does next to nothing --------------------------------------------------------------
class NullHost(LinuxHost):
    """This machine, with one pipe for every device file, and FIONREAD for every ioctl."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        """The pipe, whatever the path."""
        return self.pipe

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        """One system call with the caller's buffer, which it leaves as it is."""
        buffer = memoryview(arg).cast("B")
        first = bytes(buffer[:4])
        fcntl.ioctl(fd, termios.FIONREAD, arg)
        buffer[:4] = first
        return 0


class FastHost(NullHost):
    """The same with as little Python as can be: the first 4 bytes of the buffer are lost."""

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        """One system call."""
        return fcntl.ioctl(fd, termios.FIONREAD, arg)
