"""What vfiocore costs on top of what it does: ratios, each within one run.

usage: python bench/overhead.py

The host here issues FIONREAD on a pipe where an ioctl is asked for: a system call with a buffer
that the kernel answers at once. A map on a real machine also pins memory and fills page tables, so
its ratio is lower. Standing in for the ioctl takes one Python function, which `LinuxHost` does not
have; it counts as overhead here. A row and its baseline are timed in turns; the best round of
each counts.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import frozen

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
from vfiocore import hookimpl
from vfiocore.access import DeviceAccess, RegionInfo
from vfiocore.address_space import VfioAddressSpace
from vfiocore.container import Container
from vfiocore.host import LinuxHost
from vfiocore.memory import DmaMapping
from vfiocore.plugins import PluginSet
from vfiocore.region import Region, mappable_areas
from vfiocore.uapi import vfio
from vfiocore_iommufd.container import IommufdContainer
from vfiocore_iommufd.iommufd import Iommufd
from vfiocore_legacy.container import LegacyContainer

ROUNDS = 9
CALLS = 2000
BATCH = 1000
PROCESSES = 7
PAGE = mmap.PAGESIZE
REGION_SIZE = 4096
REPEAT = range(100)
"""Inner loops of what takes no longer than a call."""
MAPPING = DmaMapping(0, PAGE, PAGE)
ANCHOR = DmaMapping(1 << 40, PAGE, PAGE)
"""Stays mapped, so that a batch is not everything there is and goes range by range."""
RANGES = [DmaMapping(number * PAGE, PAGE, (number + 1) * PAGE) for number in range(BATCH)]

Work = Callable[[], object]


@frozen
class Row:
    """A measurement: one call of `work` and one of `base` do `items` things each."""

    title: str
    work: Work
    baseline: str
    base: Work
    items: int = 1
    calls: int = CALLS


# -- timing ----------------------------------------------------------------------------------------
def measure(row: Row) -> tuple[float, float]:
    """The best times of work and baseline, in seconds an item."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS if row.calls > 1 else PROCESSES):
        for work, found in zip((row.work, row.base), times, strict=True):
            start = time.perf_counter()
            for _ in range(row.calls):
                work()
            found.append((time.perf_counter() - start) / (row.calls * row.items))
    return min(times[0]), min(times[1])


def report(rows: Sequence[Row]) -> None:
    """Measure and print."""
    width = max(len(row.title) for row in rows)
    for row in rows:
        mine, base = measure(row)
        print(
            f"{row.title:<{width}}  {_time(mine)}  {mine / base:6.2f} x  {row.baseline} {_time(base)}"
        )


def _time(seconds: float) -> str:
    for unit, scale in (("ns", 1e9), ("µs", 1e6)):
        if seconds * scale < 1000:
            return f"{seconds * scale:6.0f} {unit}"
    return f"{seconds * 1e3:6.1f} ms"


# -- mapping ---------------------------------------------------------------------------------------
class NullHost(LinuxHost):
    """This machine, with one pipe for every device file, and FIONREAD for every ioctl."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        """The pipe, whatever the path."""
        return self.pipe

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        """One system call with the caller's buffer, whose first 4 bytes it overwrites."""
        result: int = fcntl.ioctl(fd, termios.FIONREAD, arg)
        return result


class Wrapper:
    """A plugin that wraps both hooks and does nothing."""

    @hookimpl(wrapper=True)
    def vfio_dma_map(self, container: object, batch: object) -> Iterator[None]:
        """Around a map."""
        return (yield)

    @hookimpl(wrapper=True)
    def vfio_dma_unmap(self, container: object, batch: object) -> Iterator[None]:
        """Around an unmap."""
        return (yield)


def _space(host: NullHost, backend: str, *wrappers: object) -> VfioAddressSpace:
    """An address space with one container of a backend, connected as a session does it."""
    plugins = PluginSet(
        [vfiocore_legacy.plugin, vfiocore_iommufd.plugin, *wrappers], autoload=False
    )
    container: Any
    if backend == "legacy":
        container = LegacyContainer(
            host=host,
            backend=backend,
            label="container",
            page_sizes=PAGE,
            fd=host.pipe,
            iommu=vfio.VFIO_TYPE1v2_IOMMU,
        )
    else:
        iommufd = Iommufd(id="iommufd0", host=host)
        iommufd.acquire()
        container = IommufdContainer(
            host=host,
            backend=backend,
            label="IOAS",
            page_sizes=PAGE,
            iommufd=iommufd,
            ioas_id=1,
        )
    hooks = plugins.hooks(backend)
    space = VfioAddressSpace(PAGE)
    container.connect(hooks.dma_map, hooks.dma_unmap, container.lock)
    space.add(container)
    space.map([ANCHOR])
    return space


def _map_and_unmap(space: VfioAddressSpace, batch: Sequence[DmaMapping]) -> Work:
    def work() -> None:
        space.map(batch)
        space.unmap(batch)

    return work


def _in_container(container: Container) -> Work:
    ranges = [(MAPPING.iova, MAPPING.size)]

    def work() -> None:
        container.dma_map([MAPPING])
        container.dma_unmap(ranges)

    return work


def mapping_rows(host: NullHost) -> Iterator[Row]:
    """One range and a batch on each backend, and what a wrapper adds."""
    argument = vfio.vfio_iommu_type1_dma_map()
    pipe, ioctl = host.pipe, fcntl.ioctl

    def bare() -> None:
        ioctl(pipe, termios.FIONREAD, argument)
        ioctl(pipe, termios.FIONREAD, argument)

    def bare_batch() -> None:
        for _ in range(2 * BATCH):
            ioctl(pipe, termios.FIONREAD, argument)

    for backend in ("legacy", "iommufd"):
        one = _map_and_unmap(_space(host, backend), [MAPPING])
        many = _map_and_unmap(_space(host, backend), RANGES)
        yield Row(f"{backend}: map and unmap one range", one, "two bare ioctls", bare)
        yield Row(
            f"{backend}: batch of {BATCH}, a range",
            many,
            "two bare ioctls",
            bare_batch,
            items=BATCH,
            calls=3,
        )
    (container,) = _space(host, "legacy").containers
    yield Row(
        "legacy: one range, container alone", _in_container(container), "two bare ioctls", bare
    )
    wrapped = _map_and_unmap(_space(host, "legacy", Wrapper()), [MAPPING])
    plain = _map_and_unmap(_space(host, "legacy"), [MAPPING])
    yield Row("legacy: one range, with one wrapper plugin", wrapped, "without", plain)


# -- registers -------------------------------------------------------------------------------------
def register_rows(fd: int) -> Iterator[Row]:
    """A mapped region against a memoryview, and the device file against `os.pread`."""
    flags = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
    info = RegionInfo(0, flags | vfio.VFIO_REGION_INFO_FLAG_MMAP, REGION_SIZE, 0)
    access = DeviceAccess(host=LinuxHost(), fd=fd, name="memory", owned=False)
    mapped = Region(access, info, "mapped", sys.byteorder, mappable_areas(info))
    through_file = Region(access, info, "file", sys.byteorder, ())
    mapped.map()
    words = memoryview(mmap.mmap(fd, REGION_SIZE)).cast("I")
    read, write, slow, pread = mapped.read32, mapped.write32, through_file.read32, os.pread
    item, offset, index = "a memoryview item", 0x40, 0x40 >> 2

    def load_each() -> None:
        for _ in REPEAT:
            read(offset)

    def load_words() -> None:
        for _ in REPEAT:
            words[index]

    def store_each() -> None:
        for _ in REPEAT:
            write(offset, 1)

    def store_words() -> None:
        for _ in REPEAT:
            words[index] = 1

    def pread_word() -> int:
        return int.from_bytes(pread(fd, 4, offset), sys.byteorder)

    items = len(REPEAT)
    yield Row("read32, region mapped", load_each, item, load_words, items)
    yield Row("write32, region mapped", store_each, item, store_words, items)
    yield Row("read32 through the file", lambda: slow(offset), "os.pread", pread_word)


# -- processes -------------------------------------------------------------------------------------
def process_rows() -> Iterator[Row]:
    """What a program that imports vfiocore, and the command, take to start."""
    bare = _python("pass")
    command = (
        "import sys; sys.argv = ['vfiocore', 'plugins']; from vfiocore.cli import main; main()"
    )
    yield Row(
        "python -c 'import vfiocore'", _python("import vfiocore"), "bare python", bare, calls=1
    )
    yield Row("vfiocore plugins", _python(command), "bare python", bare, calls=1)


def _python(source: str) -> Work:
    command = [sys.executable, "-c", source]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - ours


# --------------------------------------------------------------------------------------------------
@contextmanager
def _files() -> Iterator[tuple[int, int]]:
    """The end of a pipe, and a memory file."""
    reader, writer = os.pipe()
    memory = LinuxHost().memfd("registers", REGION_SIZE)
    try:
        yield reader, memory
    finally:
        for fd in (reader, writer, memory):
            os.close(fd)


def main() -> None:
    """Print the table."""
    with _files() as (pipe, memory):
        report([*mapping_rows(NullHost(pipe)), *register_rows(memory), *process_rows()])


if __name__ == "__main__":
    main()
