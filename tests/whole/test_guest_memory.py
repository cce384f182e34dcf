"""Whatever becomes of the tree of regions, each device reaches just what the flat view shows.

A state machine changes the tree in transactions, brings devices of both backends and takes them
away, and lets calls of the kernel fail. A model asks, page after page, what is seen there; after each
step the page table of every device is compared with it, and what the device reads there.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from attrs import define, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vfiocore.errors import KernelError
from vfiocore.memory import Alias, Backing, DmaBuffer, Io, MemoryRegion, Ram, Region
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost, Translated
from vfiocore_sim.topology import Topology

from .machine import NOTHING, installed, left_behind

PAGE = 4096
HALF = PAGE // 2
"""The unit of offsets and sizes, so that pages come to be covered in part."""

PAGES = 24
"""The part of the address space that is looked at, from 0."""

RAM_PAGES = 6
BUFFERS = 1 << 30
"""Buffers of drivers are below, guest memory stays far from it."""

CARDS: Mapping[str, str] = {
    "first": "vfio-pci,id=first,host=0000:01:00.0",
    "second": "vfio-pci,id=second,host=0000:02:00.0",
    "third": "vfio-pci,id=third,host=0000:03:00.0,iommufd=one",
    "fourth": "vfio-pci,id=fourth,host=0000:04:00.0,iommufd=one",
    "fifth": "vfio-pci,id=fifth,host=0000:05:00.0,iommufd=two",
}

FAILING = (
    "VFIO_IOMMU_MAP_DMA",
    "VFIO_IOMMU_UNMAP_DMA",
    "IOMMU_IOAS_MAP",
    "IOMMU_IOAS_MAP_FILE",
    "IOMMU_IOAS_COPY",
    "IOMMU_IOAS_UNMAP",
    "IOMMU_IOAS_UNMAP",
    "VFIO_GROUP_GET_DEVICE_FD",
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
)
"""Calls that are made to fail, one of them once in a step."""

Fault = tuple[str, int] | None
"""The call, and how many of its kind go well before it fails."""

FAULTS = st.none() | st.tuples(st.sampled_from(FAILING), st.integers(0, 2))

CHANGES = ("enable", "protect", "resize", "move", "move", "remove")


def machine() -> SimHost:
    topology = Topology()
    for number, _ in enumerate(CARDS, 1):
        topology.pci(f"0000:0{number}:00.0", EduDevice, group=number)
    return SimHost(topology)


@define
class Outcome:
    """What came of a step.

    Attributes:
        buffers: How many there were before.
        followed: True if nothing failed.
    """

    buffers: int
    followed: bool = False


@frozen
class Page:
    """What a device finds at a page: how it begins, and whether it may be written."""

    word: bytes
    writable: bool


@frozen
class Seen:
    """What is at half a page: where in which RAM, and whether it may be written."""

    ram: Ram
    offset: int
    writable: bool

    def follows(self, other: Seen) -> bool:
        same = self.ram is other.ram and self.writable == other.writable
        return same and self.offset == other.offset + HALF


def seen_at(region: MemoryRegion, offset: int, *, writable: bool = True) -> Seen | Io | None:
    """What a device finds at an offset of a region: half a page of RAM, registers, or nothing."""
    if not region.enabled or not 0 <= offset < region.size:
        return None
    writable = writable and not region.readonly
    if isinstance(region, Ram):
        return Seen(region, offset, writable)
    if isinstance(region, Io):
        return region
    if isinstance(region, Alias):
        return seen_at(region.target, offset + region.target_offset, writable=writable)
    assert isinstance(region, Region)
    for child in region.children:
        seen = seen_at(child, offset - child.offset, writable=writable)
        if seen is not None:
            return seen
    return None


def whole_page(root: MemoryRegion, iova: int) -> Seen | None:
    """What a device reaches at a page: only memory that has a page of its own for it."""
    head, tail = seen_at(root, iova), seen_at(root, iova + HALF)
    if not isinstance(head, Seen) or not isinstance(tail, Seen) or not tail.follows(head):
        return None
    aligned = (head.ram.backing.address + head.offset) % PAGE == 0
    return head if aligned else None


def halves(most: int) -> st.SearchStrategy[int]:
    """Mostly whole pages."""
    whole = st.integers(1, most // 2).map(lambda pages: pages * PAGE)
    return whole | whole | st.integers(0, most).map(lambda count: count * HALF)


class GuestMemory(RuleBasedStateMachine):
    """The machine; each rule is something that a VMM does, or that happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.host = machine()
        self.framework = installed().on(self.host)
        self.session = self.framework.open(
            "-object iommufd,id=one -object iommufd,id=two",
            *(f"-device {CARDS[name]}" for name in ("first", "third", "fifth")),
        )
        self.root = self.session.memory.root
        self.regions: list[MemoryRegion] = []
        self.backings: list[Backing] = []
        self.buffers: list[DmaBuffer] = []

    # -- the tree ----------------------------------------------------------------------------
    @rule(
        kind=st.sampled_from(["ram", "ram", "ram", "shared", "io", "region", "alias"]),
        size=halves(2 * RAM_PAGES),
        offset=halves(2 * PAGES),
        priority=st.integers(-1, 1),
        flags=st.tuples(st.booleans(), st.booleans()),
        pick=st.integers(0, 100),
        fault=FAULTS,
    )
    def add(
        self,
        kind: str,
        size: int,
        offset: int,
        priority: int,
        flags: tuple[bool, bool],
        pick: int,
        fault: Fault,
    ) -> None:
        region = self.new(kind, size, pick)
        region.set_readonly(flags[0] and flags[1])
        holders = [self.root, *(r for r in self.regions if isinstance(r, Region))]
        holder = holders[pick % len(holders)]
        with self.whole_or_not_at_all(fault) as outcome:
            holder.add(region, offset, priority=priority)
        if outcome.followed:
            self.regions.append(region)

    def new(self, kind: str, size: int, pick: int) -> MemoryRegion:
        name = f"{kind}{len(self.regions)}"
        leaves = [r for r in self.regions if not isinstance(r, Region | Alias)]
        if kind == "io":
            return Io(name, size)
        if kind == "region":
            return Region(name, size + 4 * PAGE)
        if kind == "alias" and leaves:
            return Alias(name, size, leaves[pick % len(leaves)], pick % 5 * HALF)
        backing = Backing.allocate(self.host, RAM_PAGES * PAGE, shared=kind == "shared")
        self.backings.append(backing)
        self.stamp(backing)
        return Ram(name, size, backing)

    def stamp(self, backing: Backing) -> None:
        """Let each half page say of which memory it is, and where in it."""
        for offset in range(0, backing.size, HALF):
            word = self.word(backing, offset)
            ctypes.memmove(backing.address + offset, word, len(word))

    def word(self, backing: Backing, offset: int) -> bytes:
        return struct.pack("<IQ", self.backings.index(backing), offset)

    @precondition(lambda self: self.regions)
    @rule(
        changes=st.lists(
            st.tuples(st.sampled_from(CHANGES), st.integers(0, 100), halves(2 * PAGES)),
            min_size=1,
            max_size=4,
        ),
        fault=FAULTS,
    )
    def change(self, changes: list[tuple[str, int, int]], fault: Fault) -> None:
        regions = list(self.regions)
        with self.whole_or_not_at_all(fault) as outcome, self.session.memory.transaction():
            for kind, pick, value in changes:
                self.change_one(regions[pick % len(regions)], kind, value)
        if outcome.followed:
            self.regions = [region for region in regions if region.container is not None]

    def change_one(self, region: MemoryRegion, kind: str, value: int) -> None:
        if kind == "enable":
            region.set_enabled(not region.enabled)
        elif kind == "protect":
            region.set_readonly(not region.readonly)
        elif kind == "resize":
            region.resize(min(value, RAM_PAGES * PAGE))
        elif region.container is None:
            return  # it was taken out before, in the same transaction
        elif kind == "move":
            region.move(value)
        else:
            region.container.remove(region)

    # -- buffers of drivers ------------------------------------------------------------------
    @rule(pages=st.integers(1, 3), place=st.integers(0, 2 * PAGES), fault=FAULTS)
    def allocate(self, pages: int, place: int, fault: Fault) -> None:
        iova = BUFFERS + place * PAGE
        with self.whole_or_not_at_all(fault) as outcome:
            self.buffers.append(self.session.dma_alloc(pages * PAGE, iova=iova))
        assert outcome.followed or len(self.buffers) == outcome.buffers

    @precondition(lambda self: self.buffers)
    @rule(pick=st.integers(0, 100), fault=FAULTS)
    def free(self, pick: int, fault: Fault) -> None:
        buffer = self.buffers[pick % len(self.buffers)]
        with self.whole_or_not_at_all(fault):
            buffer.close()
        self.buffers = [buffer for buffer in self.buffers if not buffer.closed]

    # -- devices -----------------------------------------------------------------------------
    @rule(name=st.sampled_from(sorted(CARDS)), fault=FAULTS)
    def plug_or_close(self, name: str, fault: Fault) -> None:
        if name in self.session.devices:
            self.session.close_device(name)
            return
        with self.whole_or_not_at_all(fault):
            self.session.plug(f"-device {CARDS[name]}")

    # -- what goes wrong ---------------------------------------------------------------------
    @contextmanager
    def whole_or_not_at_all(self, fault: Fault) -> Iterator[Outcome]:
        """Let the body fail by itself or by one call of the kernel; then all is as it was."""
        before = self.everything()
        outcome = Outcome(buffers=len(self.buffers))
        if fault is not None:
            self.host.fail(fault[0], errno.ENOMEM, after=fault[1])
        try:
            yield outcome
            outcome.followed = True
        except KernelError:
            self.host.clear_failures()
            assert self.everything() == before
        finally:
            self.host.clear_failures()

    def everything(self) -> object:
        """What can be seen of the session's state."""
        return (
            list(self.session.memory.view),
            list(self.session.space.mappings),
            self.session.space.skipped,
            {device.name: self.host.page_table(device.name) for device in self.session},
            self.host.open_files(),
        )

    # -- what must hold ----------------------------------------------------------------------
    @invariant()
    def devices_reach_what_the_tree_shows(self) -> None:
        expected = self.expected()
        for device in self.session:
            program = self.host.device(device.name)
            found = dict(pages_of(self.host.page_table(device.name)))
            assert found == {iova: page.writable for iova, page in expected.items()}
            for iova, page in expected.items():
                assert program.dma.read(iova, len(page.word)) == page.word

    def expected(self) -> dict[int, Page]:
        found = {}
        for iova in range(0, 4 * PAGES * PAGE, PAGE):
            seen = whole_page(self.root, iova)
            if seen is not None:
                found[iova] = Page(self.word(seen.ram.backing, seen.offset), seen.writable)
        for buffer in self.buffers:
            for offset in range(0, buffer.size, PAGE):
                found[buffer.iova + offset] = Page(bytes(12), writable=True)
        return found

    @invariant()
    def every_container_is_in_step(self) -> None:
        space = self.session.space
        for container in space.containers:
            assert list(container.mappings) == list(space.mappings)
        assert len(space.containers) == len({id(device.container) for device in self.session})

    def teardown(self) -> None:
        self.session.close()
        for backing in self.backings:
            backing.close()
        assert left_behind(self.host) == NOTHING


def pages_of(table: Iterable[Translated]) -> Iterator[tuple[int, bool]]:
    """Each page of a page table, and whether it may be written."""
    for entry in table:
        for iova in range(entry.iova, entry.iova + entry.size, PAGE):
            yield iova, entry.writable


TestGuestMemory = GuestMemory.TestCase
TestGuestMemory.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
