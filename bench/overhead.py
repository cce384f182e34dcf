"""What vfiocore costs on top of what it does: ratios, each within one run.

usage: python bench/overhead.py

Mapping is measured on two hosts. On the *null host* every ioctl succeeds at once, in the process:
what is left is the way through the library, compared with one bare `fcntl.ioctl` for each range.
On the *pipe host* each ioctl is a system call with a buffer that the kernel answers at once
(FIONREAD on a pipe), so the ratio has the call itself in it. A map on a real machine also pins memory
and fills page tables: its ratio is lower still.

A row and its baseline are timed in turns, and the best round of each counts.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pipe_requests  # noqa: F401 - before the backends
from attrs import frozen

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
from vfiocore import hookimpl
from vfiocore.access import DeviceAccess, RegionInfo
from vfiocore.container import Container
from vfiocore.host import LinuxHost
from vfiocore.memory import DmaMapping
from vfiocore.plugins import PluginSet
from vfiocore.region import Region, mappable_areas
from vfiocore.uapi import vfio
from vfiocore_iommufd.container import IommufdContainer
from vfiocore_iommufd.iommufd import Iommufd
from vfiocore_legacy.container import LegacyContainer

ROUNDS = 40
PROCESSES = 7
CALLS = 2000
BATCH = 1000
PAGE = mmap.PAGESIZE
REGION_SIZE = 4096
REPEAT = range(100)
"""Inner loops of what takes no longer than a call."""
ANCHOR = DmaMapping(1 << 40, PAGE, PAGE)
"""Stays mapped, so that a batch is not everything there is and goes range by range."""
RANGES = [DmaMapping(2 * number * PAGE, PAGE, (number + 1) * PAGE) for number in range(BATCH)]
"""With gaps, so that nothing could be merged."""
ONE_BY_ONE = [[mapping] for mapping in RANGES]
AT_ONCE = [RANGES]

Work = Callable[[], object]
Batches = Sequence[Sequence[DmaMapping]]


def _nothing() -> None: ...


@frozen
class Row:
    """A measurement: one call of `work` and one of `base` do `items` things each.

    `before` and `after` each round of `work` are not measured; `target` is what was aimed for.
    """

    title: str
    work: Work
    baseline: str
    base: Work
    items: int = 1
    calls: int = 1
    rounds: int = ROUNDS
    before: Work = _nothing
    after: Work = _nothing
    target: float | None = None


# -- timing ----------------------------------------------------------------------------------------
def measure(row: Row) -> tuple[float, float]:
    """The best times of work and baseline, in seconds an item."""
    mine: list[float] = []
    base: list[float] = []
    for _ in range(row.rounds):
        row.before()
        mine.append(_seconds(row.work, row.calls))
        row.after()
        base.append(_seconds(row.base, row.calls))
    things = row.calls * row.items
    return min(mine) / things, min(base) / things


def _seconds(work: Work, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - start


def report(rows: Iterable[Row]) -> None:
    """Measure and print."""
    print(f"{'':<44}      time    ratio  target  compared with")
    for row in rows:
        mine, base = measure(row)
        target = "" if row.target is None else f"≤ {row.target}"
        print(
            f"{row.title:<44} {_time(mine)} {mine / base:8.2f}  {target:<6}"
            f"  {row.baseline}, {_time(base).strip()}",
            flush=True,
        )


def _time(seconds: float) -> str:
    for unit, scale in (("ns", 1e9), ("µs", 1e6)):
        if seconds * scale < 1000:
            return f"{seconds * scale:6.0f} {unit}"
    return f"{seconds * 1e3:6.1f} ms"


# -- mapping ---------------------------------------------------------------------------------------
class NullHost(LinuxHost):
    """This machine, but every ioctl succeeds at once."""

    @staticmethod
    def ioctl(fd: int, request: int, arg: object = 0) -> int:  # noqa: ARG004 - the protocol's
        """The call that is not made."""
        return 0


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


def _container(host: LinuxHost, fd: int, backend: str, *wrappers: object) -> Container:
    """A container of a backend, with its hooks resolved as a session does it."""
    plugins = PluginSet(
        [vfiocore_legacy.plugin, vfiocore_iommufd.plugin, *wrappers], autoload=False
    )
    container = (_legacy if backend == "legacy" else _ioas)(host, fd)
    hooks = plugins.hooks(backend)
    container.connect(hooks.dma_map, hooks.dma_unmap, container.lock)
    container.dma_map([ANCHOR])
    return container


def _legacy(host: LinuxHost, fd: int) -> Container:
    return LegacyContainer(
        host=host,
        backend="legacy",
        label="container",
        page_sizes=PAGE,
        max_mappings=65535,
        fd=fd,
        iommu=vfio.VFIO_TYPE1v2_IOMMU,
    )


def _ioas(host: LinuxHost, fd: int) -> Container:
    iommufd = Iommufd(id="iommufd0", host=host, passed_fd=fd)
    iommufd.acquire()
    ioas = IommufdContainer(
        host=host, backend="iommufd", label="IOAS", page_sizes=PAGE, iommufd=iommufd, ioas_id=1
    )
    iommufd.containers.append(ioas)
    return ioas


def mapping_rows(pipe: int) -> Iterator[Row]:
    """Mapping and unmapping on each backend, and what a wrapper plugin adds."""
    null = NullHost()
    for backend in ("legacy", "iommufd"):
        container = _container(null, pipe, backend)
        title = f"null host, {backend}"
        yield _map_row(f"{title}: map, one range", container, ONE_BY_ONE, pipe, target=3)
        yield _map_row(f"{title}: map, batch of {BATCH}", container, AT_ONCE, pipe, target=1.5)
        yield _unmap_row(f"{title}: unmap, one range", container, ONE_BY_ONE, pipe)
        yield _unmap_row(f"{title}: unmap, batch of {BATCH}", container, AT_ONCE, pipe)
    for backend in ("legacy", "iommufd"):
        container = _container(LinuxHost(), pipe, backend)
        title = f"pipe host, {backend}"
        yield _map_row(f"{title}: map, one range", container, ONE_BY_ONE, pipe)
        yield _map_row(f"{title}: map, batch of {BATCH}", container, AT_ONCE, pipe, target=1.5)
    wrapped, plain = (_container(null, pipe, "legacy", *added) for added in ([Wrapper()], []))

    def unmap_both() -> None:
        _unmap(wrapped, ONE_BY_ONE)
        _unmap(plain, ONE_BY_ONE)

    with_wrapper, without = (partial(_map, each, ONE_BY_ONE) for each in (wrapped, plain))
    title = "null host, legacy: map, with a wrapper"
    without()
    with_wrapper()
    yield Row(title, with_wrapper, "without", without, BATCH, before=unmap_both)


def _map_row(
    title: str, container: Container, batches: Batches, pipe: int, target: float | None = None
) -> Row:
    map_, unmap = partial(_map, container, batches), partial(_unmap, container, batches)
    bare = partial(_bare_ioctls, pipe)
    return Row(title, map_, "fcntl.ioctl", bare, BATCH, after=unmap, target=target)


def _unmap_row(title: str, container: Container, batches: Batches, pipe: int) -> Row:
    map_, unmap = partial(_map, container, batches), partial(_unmap, container, batches)
    bare = partial(_bare_ioctls, pipe)
    return Row(title, unmap, "fcntl.ioctl", bare, BATCH, before=map_)


def _map(container: Container, batches: Batches) -> None:
    for batch in batches:
        container.dma_map(batch)


def _unmap(container: Container, batches: Batches) -> None:
    for batch in batches:
        container.dma_remove(batch)


def _bare_ioctls(pipe: int) -> None:
    ioctl, argument = fcntl.ioctl, bytearray(32)
    for _ in RANGES:
        ioctl(pipe, termios.FIONREAD, argument)


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
    yield Row("read32, region mapped", load_each, item, load_words, items, CALLS, target=2.5)
    yield Row("write32, region mapped", store_each, item, store_words, items, CALLS)
    yield Row("read32 through the file", lambda: slow(offset), "os.pread", pread_word, calls=CALLS)


# -- processes -------------------------------------------------------------------------------------
def process_rows() -> Iterator[Row]:
    """What a program that imports vfiocore, and the command, take to start."""
    bare = _python("pass")
    command = (
        "import sys; sys.argv = ['vfiocore', 'plugins']; from vfiocore.cli import main; main()"
    )
    for title, source in (("import vfiocore", "import vfiocore"), ("vfiocore plugins", command)):
        yield Row(title, _python(source), "bare python", bare, rounds=PROCESSES)


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
        for rows in (mapping_rows(pipe), register_rows(memory), process_rows()):
            report(rows)


if __name__ == "__main__":
    main()
