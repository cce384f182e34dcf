"""A virtual IOMMU in front of guest memory, as devices of both backends see it."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from vfiocore.errors import (
    BusyError,
    DmaAddressError,
    DmaAlignmentError,
    DmaError,
    DmaLimitError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
)
from vfiocore.memory import (
    Access,
    AddressSpace,
    DiscardableRam,
    Io,
    IommuRegion,
    Ram,
    Translation,
)
from vfiocore.session import Session
from vfiocore_sim.host import SimHost

from .following import FAULTS, Fault, TwoContainers
from .machine import EDU, OTHER_EDU, Way
from .reach import Reached, container_of, numbered, opened, reached

PAGE = SimHost().page_size
PAGES = 8
BASE = 1 << 30
LEGACY = f"-device vfio-pci,id=edu,host={EDU.name}"
RW = Access.READ_WRITE


@pytest.fixture
def both(host: SimHost) -> Iterator[Session]:
    with opened(host) as session:
        yield session


def guest(host: SimHost) -> AddressSpace:
    """Eight numbered pages at 0."""
    memory = AddressSpace("guest memory")
    memory.root.add(Ram("ram", PAGES * host.page_size, numbered(host, PAGES)), 0)
    return memory


def in_front(session: Session, host: SimHost, at: int = BASE) -> IommuRegion:
    """A virtual IOMMU between the devices and the guest's memory."""
    region = IommuRegion("viommu", 1 << 32, guest(host))
    session.memory.root.add(region, at)
    return region


def page(iova: int, number: int, count: int = 1, access: Access = RW) -> Translation:
    """A translation from pages of the region to pages of the guest's memory."""
    return Translation(iova * PAGE, count * PAGE, number * PAGE, access)


# -- what devices reach ----------------------------------------------------------------------------
def test_a_device_reaches_what_is_translated_and_nothing_else(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session:
        region = in_front(session, host)
        assert reached(host, EDU) == {}
        region.map([page(3, 5, count=2), page(9, 0)])
        assert reached(host, EDU) == {
            BASE + 3 * PAGE: (6, RW),
            BASE + 4 * PAGE: (7, RW),
            BASE + 9 * PAGE: (1, RW),
        }
        region.unmap(3 * PAGE, 2 * PAGE)
        assert reached(host, EDU) == {BASE + 9 * PAGE: (1, RW)}
        region.unmap_all()
        assert reached(host, EDU) == {}


def test_one_page_may_be_translated_to_many_times(both: Session, host: SimHost) -> None:
    in_front(both, host).map([page(1, 5), page(2, 5), page(3, 5, access=Access.READ)])
    assert reached(host, EDU) == {
        BASE + PAGE: (6, RW),
        BASE + 2 * PAGE: (6, RW),
        BASE + 3 * PAGE: (6, Access.READ),
    }


def test_a_container_that_comes_late_shows_what_is_translated(both: Session, host: SimHost) -> None:
    late = container_of(both, OTHER_EDU)
    both.space.remove(late)
    in_front(both, host).map([page(1, 5)])
    both.space.add(late)
    assert reached(host, OTHER_EDU) == {BASE + PAGE: (6, RW)}


def test_a_region_that_comes_or_goes_brings_and_takes_its_translations(
    both: Session, host: SimHost
) -> None:
    region = in_front(both, host)
    region.map([page(1, 5)])
    both.memory.root.remove(region)
    assert reached(host, EDU) == {}
    region.map([page(2, 6)])
    assert reached(host, EDU) == {}
    both.memory.root.add(region, 2 * BASE)
    assert reached(host, EDU) == {2 * BASE + PAGE: (6, RW), 2 * BASE + 2 * PAGE: (7, RW)}


def test_what_something_else_hides_of_a_translation_is_not_shown(
    both: Session, host: SimHost
) -> None:
    region = in_front(both, host)
    both.memory.root.add(Io("doorbell", PAGE), BASE + 2 * PAGE, priority=1)
    region.map([page(1, 0, count=3), page(8, 5)])
    shown = {BASE + PAGE: (1, RW), BASE + 3 * PAGE: (3, RW), BASE + 8 * PAGE: (6, RW)}
    assert reached(host, EDU) == shown
    region.unmap(PAGE, 3 * PAGE)
    assert reached(host, EDU) == {BASE + 8 * PAGE: (6, RW)}


def test_a_region_may_be_readonly(both: Session, host: SimHost) -> None:
    region = in_front(both, host)
    region.set_readonly(True)
    region.map([page(1, 0)])
    assert reached(host, EDU) == {BASE + PAGE: (1, Access.READ)}
    with pytest.raises(DmaAddressError, match="written only, and the range is read-only") as caught:
        region.map([page(2, 0), page(3, 0, access=Access.WRITE)])
    assert caught.value.index == 1
    assert reached(host, EDU) == {BASE + PAGE: (1, Access.READ)}


# -- refusals --------------------------------------------------------------------------------------
@pytest.mark.parametrize("operation", ["VFIO_IOMMU_MAP_DMA", "IOMMU_IOAS_MAP"])
def test_a_map_that_one_container_refuses_is_undone_in_all(
    both: Session, host: SimHost, operation: str
) -> None:
    region = in_front(both, host)
    host.fail(operation, errno.ENOMEM, after=1)
    with pytest.raises(DmaError) as caught:
        region.map([page(1, 0), page(4, 0), page(6, 0)])
    assert caught.value.index == 1
    assert reached(host, EDU) == reached(host, OTHER_EDU) == {}
    assert region.translations == ()


def test_more_translations_than_entries_are_refused() -> None:
    host = SimHost(dma_entry_limit=2)
    with opened(host, LEGACY) as session:
        region = in_front(session, host)
        region.map([page(1, 0), page(3, 0)])
        with pytest.raises(DmaLimitError):
            region.map([page(5, 0)])
        region.unmap(PAGE, PAGE)
        region.map([page(5, 0)])
        assert sorted(reached(host, EDU)) == [BASE + 3 * PAGE, BASE + 5 * PAGE]


def test_pages_finer_than_the_hosts_are_refused() -> None:
    host = SimHost(page_size=4 * PAGE)
    with opened(host, LEGACY) as session:
        region = in_front(session, host)
        with pytest.raises(DmaAlignmentError, match="not in whole pages of the host") as caught:
            region.map([page(0, 0, count=4), page(4, 4)])
        assert caught.value.index == 1
        assert reached(host, EDU) == {}


def test_a_translation_that_the_hosts_iommu_cannot_do_is_named(
    both: Session, host: SimHost
) -> None:
    region = in_front(both, host, at=0)
    (hole,) = [r.last + 1 for r in both.space.usable_ranges() if r.start == 0]
    # What the registers hide has no part in the host's IOMMU, the next one does.
    both.memory.root.add(Io("doorbell", PAGE), 0, priority=1)
    with pytest.raises(DmaRangeError) as caught:
        region.map([page(0, 0), page(1, 0), Translation(hole, PAGE, 0)])
    assert caught.value.index == 2
    assert region.translations == ()


# -- any order of things ---------------------------------------------------------------------------
BLOCK = 2 * PAGE
ACCESS = st.sampled_from([Access.READ, RW])


class Translations(TwoContainers):
    """Translations, blocks, trees, containers and faults in any order.

    The target has RAM (pages 0 to 7, numbers from 1), then RAM in blocks (8 to 15, from 9), then
    nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        target = guest(self.host)
        blocks = numbered(self.host, PAGES, first=PAGES + 1)
        self.dimm = DiscardableRam("dimm", PAGES * PAGE, blocks, BLOCK)
        target.root.add(self.dimm, PAGES * PAGE)
        self.region = IommuRegion("viommu", 16 * PAGE, target)
        self.hole = Io("doorbell", 2 * PAGE, enabled=False)
        self.session.memory.root.add(self.region, BASE)
        self.session.memory.root.add(self.hole, BASE + 5 * PAGE, priority=1)
        self.entries: dict[int, Translation] = {}
        self.populated: set[int] = set()

    @rule(
        batch=st.lists(
            st.builds(page, st.integers(0, 15), st.integers(0, 17), st.integers(1, 3), ACCESS),
            max_size=4,
        ),
        fault=FAULTS,
    )
    def map(self, batch: list[Translation], fault: Fault) -> None:
        if self.try_with(fault, self.region.map, batch, wrong=self.what_is_wrong(batch)):
            self.entries |= {item.iova: item for item in batch}

    def what_is_wrong(self, batch: list[Translation]) -> type[Exception] | None:
        for item in batch:
            target = set(range(item.address // PAGE, (item.address + item.size) // PAGE))
            if item.iova + item.size > 16 * PAGE:
                return DmaRangeError
            if not target <= set(range(8)) and not target <= set(range(8, 16)):
                return DmaAddressError
            if any(number >= 8 and (number - 8) // 2 not in self.populated for number in target):
                return DmaAddressError
        taken = [number for item in (*self.entries.values(), *batch) for number in self.of(item)]
        return DmaOverlapError if len(taken) > len(set(taken)) else None

    @rule(first=st.integers(0, 15), count=st.integers(1, 6), fault=FAULTS)
    def unmap(self, first: int, count: int, fault: Fault) -> None:
        range_ = set(range(first, first + count))
        touched = [item for item in self.entries.values() if range_ & self.of(item)]
        wrong = DmaSplitError if any(not self.of(item) <= range_ for item in touched) else None
        if self.try_with(fault, self.region.unmap, first * PAGE, count * PAGE, wrong=wrong):
            for item in touched:
                del self.entries[item.iova]

    @rule(fault=FAULTS)
    def unmap_all(self, fault: Fault) -> None:
        if self.try_with(fault, self.region.unmap_all):
            self.entries.clear()

    @rule(first=st.integers(0, 3), count=st.integers(1, 4))
    def populate(self, first: int, count: int) -> None:
        blocks = range(first, min(first + count, 4))
        self.dimm.populate(first * BLOCK, len(blocks) * BLOCK)
        self.populated |= set(blocks)

    @rule(first=st.integers(0, 3), count=st.integers(1, 4))
    def discard(self, first: int, count: int) -> None:
        blocks = set(range(first, min(first + count, 4)))
        targets = [
            page(0, item.address // PAGE, item.size // PAGE) for item in self.entries.values()
        ]
        used = {
            (number - 8) // 2
            for item in targets
            for number in range(item.address // PAGE, (item.address + item.size) // PAGE)
        }
        wrong = BusyError if blocks & used else None
        if self.try_with(None, self.dimm.discard, first * BLOCK, len(blocks) * BLOCK, wrong=wrong):
            self.populated -= blocks

    @rule(which=st.sampled_from(["region", "hole"]), fault=FAULTS)
    def show_or_hide(self, which: str, fault: Fault) -> None:
        region = getattr(self, which)
        self.try_with(fault, region.set_enabled, not region.enabled)

    @rule(at=st.integers(0, 15), fault=FAULTS)
    def move_the_hole(self, at: int, fault: Fault) -> None:
        self.try_with(fault, self.hole.move, BASE + at * PAGE)

    @rule(fault=FAULTS)
    def protect(self, fault: Fault) -> None:
        self.try_with(fault, self.region.set_readonly, not self.region.readonly)

    @staticmethod
    def of(item: Translation) -> set[int]:
        """The pages of the region that an entry translates."""
        return set(range(item.iova // PAGE, (item.iova + item.size) // PAGE))

    def seen(self) -> Reached:
        hidden: set[int] = set()
        if self.hole.enabled:
            first = (self.hole.offset - BASE) // PAGE
            hidden = {first, first + 1}
        found: Reached = {}
        for item in self.entries.values() if self.region.enabled else ():
            for number in self.of(item) - hidden:
                leads_to = (item.address - item.iova) // PAGE + number
                access = Access.READ if self.region.readonly else item.access
                found[BASE + number * PAGE] = (leads_to + 1, access)
        return found


TestTranslations = Translations.TestCase
TestTranslations.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
