"""What mapping through vfiocore costs beside the same ioctls in C, on a real kernel.

usage: python -m bench.floor PROGRAM    (in a guest, as `make bench-vm` does)

PROGRAM is ``floor.c``, compiled. It and vfiocore take turns with the same card, in a process each, on
memory of the same kind at the same IOVAs; the best round of each counts. The column *bare* is what
Python can do at best: `fcntl.ioctl` with a struct that is packed each time, and nothing else.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.vm.guest.binding import given_to
from tests.vm.guest.devices import Device, pci_functions
from tests.vm.guest.way import Way
from vfiocore import Framework
from vfiocore.memory import DmaBatch, DmaMapping, merged
from vfiocore.memory.buffer import address_of
from vfiocore.session import Session
from vfiocore.uapi import iommufd, vfio

WAYS = ("type1v2", "iommufd")
ROUNDS = 2
FIRST_IOVA = 1 << 32
PAGE = mmap.PAGESIZE
KIB, MIB = 1 << 10, 1 << 20
HUGE_PAGE = 2 * MIB
ARENA = 40 * MIB
FAR = DmaMapping(FIRST_IOVA // 2, PAGE, 0)
"""Stays mapped, so that a batch is not everything there is."""

Seconds = dict[str, float]


@frozen
class Case:
    """`count` ranges of `size` bytes, `step` apart; mapped and unmapped until there are `pairs`."""

    size: int
    pairs: int
    count: int = 1
    step: int = 0

    def __str__(self) -> str:
        return f"{self.size}:{self.count}:{self.step}:{self.pairs}"

    def mappings(self, vaddr: int) -> list[DmaMapping]:
        """The ranges."""
        return [
            DmaMapping(FIRST_IOVA + number * self.step, self.size, vaddr + number * self.size)
            for number in range(self.count)
        ]


@frozen
class Row:
    """What is printed: `work`, which does a case once, compared with the same by C."""

    title: str
    case: Case
    work: Callable[[Session, Case, int], object]
    target: str = ""


def main() -> None:
    """Measure on every way, and print."""
    program = sys.argv[1]
    with given_to("vfio-pci", pci_functions("1234:11e8")[0]) as (card,):
        for name in WAYS:
            report(name, best_of(program, name, card))


def report(name: str, best: Mapping[str, Seconds]) -> None:
    """Print the table of a way."""
    print(f"\n{name:<34} a pair        C  ratio  target   bare")
    for row in ROWS:
        floor, mine = best["floor"][str(row.case)], best["vfiocore"][row.title]
        bare = best["bare"].get(str(row.case))
        least = "" if bare is None else f"{bare / floor:7.2f}"
        print(
            f"{row.title:<34}{_time(mine)}{_time(floor)}{mine / floor:7.2f}  {row.target:<6}{least}",
            flush=True,
        )


def best_of(program: str, name: str, card: Device) -> dict[str, Seconds]:
    """The best round of each contestant."""
    framework = Framework(host="linux")
    best: dict[str, Seconds] = {}
    for _ in range(ROUNDS):
        for contestant, found in (
            ("floor", floor(program, name, card)),
            ("vfiocore", vfiocore(Way.called(name, framework), card)),
            ("bare", bare(Way.called(name, framework), card)),
        ):
            before = best.setdefault(contestant, found)
            best[contestant] = {key: min(found[key], before[key]) for key in found}
    return best


# -- the contestants -------------------------------------------------------------------------------
def floor(program: str, name: str, card: Device) -> Seconds:
    """C and nothing else."""
    cases = list(dict.fromkeys(str(row.case) for row in ROWS))
    command = [program, name, *_nodes(name, card), *cases]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ours
    found = map(json.loads, done.stdout.splitlines())
    return {item["case"]: item["ns"] / 1e9 for item in found}


def _nodes(name: str, card: Device) -> list[str]:
    if name == "iommufd":
        (node,) = (card.path / "vfio-dev").iterdir()
        return [f"/dev/vfio/devices/{node.name}"]
    return [f"/dev/vfio/{(card.path / 'iommu_group').resolve().name}", card.name]


def vfiocore(way: Way, card: Device) -> Seconds:
    """The library, with a session as any."""
    found: Seconds = {}
    with _huge_pages() as vaddr, way.open(card) as session:
        session.space.map([DmaMapping(FAR.iova, FAR.size, vaddr)])
        for row in ROWS:
            row.work(session, row.case, vaddr)
            start = time.perf_counter()
            for _ in range(row.case.pairs // row.case.count):
                row.work(session, row.case, vaddr)
            found[row.title] = (time.perf_counter() - start) / row.case.pairs
    return found


def bare(way: Way, card: Device) -> Seconds:
    """The same ioctls from Python, without the library."""
    found: Seconds = {}
    with _huge_pages() as vaddr, way.open(card) as session:
        pair = _bare_pair(way, session)
        for case in {row.case: None for row in ROWS if row.case.count == 1}:
            start = time.perf_counter()
            for _ in range(case.pairs):
                pair(vaddr, case.size)
            found[str(case)] = (time.perf_counter() - start) / case.pairs
    return found


def _bare_pair(way: Way, session: Session) -> Callable[[int, int], None]:
    container = session["dev0"].container
    ioctl, iova = fcntl.ioctl, FIRST_IOVA
    if way.name == "type1v2":
        pack, argument, fd = struct.Struct("=2I3Q").pack_into, bytearray(32), container.fd
        pack_unmap, unmap_argument = struct.Struct("=2I2Q").pack_into, bytearray(24)

        def type1_pair(vaddr: int, size: int) -> None:
            pack(argument, 0, 32, 3, vaddr, iova, size)
            ioctl(fd, vfio.VFIO_IOMMU_MAP_DMA, argument)
            pack_unmap(unmap_argument, 0, 24, 0, iova, size)
            ioctl(fd, vfio.VFIO_IOMMU_UNMAP_DMA, unmap_argument)

        return type1_pair

    pack, argument, fd = struct.Struct("=4I3Q").pack_into, bytearray(40), container.iommufd.fd
    pack_unmap, unmap_argument = struct.Struct("=2I2Q").pack_into, bytearray(24)
    ioas = container.ioas_id

    def ioas_pair(vaddr: int, size: int) -> None:
        pack(argument, 0, 40, 7, ioas, 0, vaddr, size, iova)
        ioctl(fd, iommufd.IOMMU_IOAS_MAP, argument)
        pack_unmap(unmap_argument, 0, 24, ioas, iova, size)
        ioctl(fd, iommufd.IOMMU_IOAS_UNMAP, unmap_argument)

    return ioas_pair


@contextmanager
def _huge_pages() -> Iterator[int]:
    """Memory as the program has it, and where it begins."""
    memory = mmap.mmap(-1, ARENA + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with memory:
        start = -address_of(memory) % HUGE_PAGE
        memory.madvise(mmap.MADV_HUGEPAGE, start, ARENA)
        for offset in range(start, start + ARENA, PAGE):
            memory[offset] = 1
        vaddr = address_of(memory) + start
        _check_huge(vaddr)
        yield vaddr


def _check_huge(vaddr: int) -> None:
    """What is measured depends on it."""
    smaps = Path("/proc/self/smaps").read_text("ascii")
    sizes = re.findall(r"^AnonHugePages: +(\d+) kB$", smaps, re.MULTILINE)
    if sum(map(int, sizes)) * KIB < ARENA:
        raise SystemExit(f"the memory at {vaddr:#x} is not of huge pages")


# -- what is measured ------------------------------------------------------------------------------
def container_pair(session: Session, case: Case, vaddr: int) -> None:
    """One range by the container."""
    container = session["dev0"].container
    batch = [DmaMapping(FIRST_IOVA, case.size, vaddr)]
    container.dma_map(batch)
    container.dma_remove(batch)


def space_pair(session: Session, case: Case, vaddr: int) -> None:
    """One range in every container of the session."""
    batch = [DmaMapping(FIRST_IOVA, case.size, vaddr)]
    session.space.map(batch)
    session.space.unmap(batch)


def whole_batch(session: Session, case: Case, vaddr: int) -> None:
    """Many ranges at once."""
    container = session["dev0"].container
    batch = DmaBatch(case.mappings(vaddr))
    container.dma_map(batch)
    container.dma_remove(batch)


def neighbours(session: Session, case: Case, vaddr: int) -> None:
    """Pages that come one by one, and are next to each other."""
    batch = merged(case.mappings(vaddr))
    session.space.map(batch)
    session.space.unmap(batch)


PAGES = 10_000
SMALL = Case(PAGE, pairs=500)
ROWS: Sequence[Row] = (
    Row("4 KiB", SMALL, container_pair, "≤ 1.3"),
    Row("4 KiB, through the session", SMALL, space_pair),
    Row("64 KiB", Case(64 * KIB, pairs=300), container_pair, "≤ 1.05"),
    Row("2 MiB", Case(2 * MIB, pairs=40), container_pair, "≤ 1.05"),
    Row("32 MiB", Case(32 * MIB, pairs=4), container_pair, "≤ 1.05"),
    Row(
        "10,000 of 4 KiB apart, one batch", Case(PAGE, PAGES, PAGES, 2 * PAGE), whole_batch, "≤ 1.3"
    ),
    Row("10,000 of 4 KiB adjacent, merged", Case(PAGE, PAGES, PAGES, PAGE), neighbours, "< 1"),
)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:7.1f} µs"


if __name__ == "__main__":
    main()
