"""RAM in blocks that come and go, as devices of both backends reach it."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from vfiocore.errors import BusyError, DmaError, DmaLimitError, DmaMemlockError
from vfiocore.log import VfioWarning
from vfiocore.memory import Access, Alias, DiscardableRam, Io, Ram, Region
from vfiocore.session import Session
from vfiocore_sim.host import SimHost

from .following import FAULTS, Fault, TwoContainers
from .machine import AP, CCW, EDU, OTHER_EDU, Way
from .reach import BOTH, Reached, container_of, numbered, on, opened, reached

PAGE = SimHost().page_size
BLOCK = 2 * PAGE
PAGES = 16
BASE = 1 << 20
LEGACY = f"-device vfio-pci,id=edu,host={EDU.name}"


@pytest.fixture
def both(host: SimHost) -> Iterator[Session]:
    with opened(host) as session:
        yield session


def plugged(session: Session, host: SimHost, at: int = BASE) -> DiscardableRam:
    ram = DiscardableRam("dimm", PAGES * PAGE, numbered(host, PAGES), BLOCK)
    session.memory.root.add(ram, at)
    return ram


def pages(*numbers: int, at: int = BASE) -> Reached:
    """What a device reaches that sees just these pages of the RAM."""
    return {at + number * PAGE: (number + 1, Access.READ_WRITE) for number in numbers}


# -- blocks ----------------------------------------------------------------------------------------
def test_a_device_reaches_the_blocks_that_are_populated(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session:
        ram = plugged(session, host)
        assert reached(host, EDU) == {}
        ram.populate(2 * BLOCK, 3 * BLOCK)
        assert reached(host, EDU) == pages(4, 5, 6, 7, 8, 9)
        ram.discard(3 * BLOCK, BLOCK)
        assert reached(host, EDU) == pages(4, 5, 8, 9)


def test_each_block_is_a_mapping(both: Session, host: SimHost) -> None:
    plugged(both, host).populate(0, 4 * BLOCK)
    assert [mapping.size for mapping in both.space.mappings] == [BLOCK] * 4


def test_ram_that_comes_is_shown_as_far_as_it_is_populated(both: Session, host: SimHost) -> None:
    ram = DiscardableRam("dimm", PAGES * PAGE, numbered(host, PAGES), BLOCK)
    ram.populate(BLOCK, BLOCK)
    both.memory.root.add(ram, BASE)
    assert reached(host, EDU) == reached(host, OTHER_EDU) == pages(2, 3)


def test_ram_that_went_is_followed_no_more(both: Session, host: SimHost) -> None:
    ram = plugged(both, host)
    ram.populate(0, BLOCK)
    both.memory.root.remove(ram)
    ram.populate(2 * BLOCK, BLOCK)
    assert reached(host, EDU) == reached(host, OTHER_EDU) == {}
    both.memory.root.add(ram, 2 * BASE)
    assert reached(host, EDU) == pages(0, 1, 4, 5, at=2 * BASE)


def test_a_container_that_comes_late_shows_what_is_populated(both: Session, host: SimHost) -> None:
    late = container_of(both, OTHER_EDU)
    both.space.remove(late)
    plugged(both, host).populate(0, BLOCK)
    assert reached(host, OTHER_EDU) == {}
    both.space.add(late)
    assert reached(host, OTHER_EDU) == pages(0, 1)


def test_blocks_are_shown_wherever_the_ram_is(both: Session, host: SimHost) -> None:
    ram = plugged(both, host)
    both.memory.root.add(Alias("again", 3 * PAGE, ram, PAGE), 4 * BASE)
    ram.populate(0, 2 * BLOCK)
    # The alias begins and ends within a block, and shows pages 1 to 3.
    again = {4 * BASE + (page - 1) * PAGE: (page + 1, Access.READ_WRITE) for page in (1, 2, 3)}
    assert reached(host, EDU) == pages(0, 1, 2, 3) | again
    ram.discard(BLOCK, BLOCK)
    assert reached(host, EDU) == pages(0, 1) | {4 * BASE: (2, Access.READ_WRITE)}


def test_readonly_blocks_are_only_read(both: Session, host: SimHost) -> None:
    ram = plugged(both, host)
    ram.set_readonly(True)
    ram.populate(0, BLOCK)
    assert {access for _number, access in reached(host, EDU).values()} == {Access.READ}


@pytest.mark.parametrize("kind", ["legacy", "iommufd"])
def test_a_block_that_stays_is_not_unmapped_for_an_instant(kind: str, host: SimHost) -> None:
    with Way(kind, host).open(EDU) as session:
        ram = plugged(session, host)
        ram.populate(0, PAGES * PAGE)
        host.forget_calls()
        session.memory.root.add(Io("registers", PAGE), BASE + 4 * PAGE, priority=1)
        unmap = "VFIO_IOMMU_UNMAP_DMA" if kind == "legacy" else "IOMMU_IOAS_UNMAP"
        remap = "VFIO_IOMMU_MAP_DMA" if kind == "legacy" else "IOMMU_IOAS_MAP"
        # Only the block that the registers hide a part of.
        assert host.call_names() == [f"ioctl {unmap}", f"ioctl {remap}"]
        assert reached(host, EDU) == pages(*(set(range(16)) - {4}))


# -- all or nothing --------------------------------------------------------------------------------
@pytest.mark.parametrize("operation", ["VFIO_IOMMU_MAP_DMA", "IOMMU_IOAS_MAP"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_populate_that_one_container_refuses_is_undone_in_all(
    both: Session, host: SimHost, operation: str, after: int
) -> None:
    ram = plugged(both, host)
    ram.populate(0, BLOCK)
    host.fail(operation, errno.ENOMEM, after=after)
    with pytest.raises(DmaMemlockError):
        ram.populate(0, 4 * BLOCK)
    assert ram.populated == ((0, BLOCK),)
    assert reached(host, EDU) == reached(host, OTHER_EDU) == pages(0, 1)


@pytest.mark.parametrize("operation", ["VFIO_IOMMU_UNMAP_DMA", "IOMMU_IOAS_UNMAP"])
def test_a_discard_that_one_container_refuses_is_undone_in_all(
    both: Session, host: SimHost, operation: str
) -> None:
    ram = plugged(both, host)
    ram.populate(0, BLOCK)
    ram.populate(2 * BLOCK, BLOCK)
    host.fail(operation, errno.EINVAL)
    with pytest.raises(DmaError):
        ram.discard(0, 3 * BLOCK)
    assert ram.populated == ((0, BLOCK), (2 * BLOCK, BLOCK))
    assert reached(host, EDU) == reached(host, OTHER_EDU) == pages(0, 1, 4, 5)


# -- limits ----------------------------------------------------------------------------------------
def test_more_blocks_than_a_container_has_entries_are_told_when_the_ram_comes() -> None:
    host = SimHost(dma_entry_limit=6)
    with opened(host, LEGACY) as session:
        with pytest.warns(VfioWarning, match="8 mappings may be wanted .* 6 are allowed"):
            plugged(session, host)
        assert session.space.most_mappings == 8


def test_a_container_with_too_few_entries_is_told_of_when_it_comes() -> None:
    host = SimHost(dma_entry_limit=6)
    with opened(host, BOTH) as session:
        short = container_of(session, EDU)
        session.space.remove(short)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plugged(session, host)  # iommufd has no limit
        with pytest.warns(VfioWarning, match="may be wanted"):
            session.space.add(short)


def test_where_a_warning_is_an_error_nothing_was_done() -> None:
    host = SimHost(dma_entry_limit=6)
    with opened(host, LEGACY) as session, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(VfioWarning):
            plugged(session, host).populate(0, BLOCK)
        assert session.memory.root.children == []
        assert session.space.most_mappings == 0


@pytest.mark.filterwarnings("ignore::vfiocore.log.VfioWarning")
def test_a_populate_past_the_limit_changes_nothing() -> None:
    host = SimHost(dma_entry_limit=6)
    with opened(host) as session:
        ram = plugged(session, host)
        ram.populate(0, 5 * BLOCK)
        host.forget_calls()
        with pytest.raises(DmaLimitError):
            ram.populate(5 * BLOCK, 2 * BLOCK)
        assert host.call_names() == []
        assert ram.populated == ((0, 5 * BLOCK),)


# -- pages -----------------------------------------------------------------------------------------
def test_blocks_that_are_finer_than_pages_are_skipped_with_the_reason() -> None:
    host = SimHost(page_size=8 * PAGE)
    with opened(host, LEGACY) as session:
        ram = DiscardableRam("dimm", 2 * host.page_size, numbered(host, 2), BLOCK)
        session.memory.root.add(ram, 0)
        ram.populate(0, ram.size)
        assert reached(host, EDU) == {}
        reason = f"blocks of {BLOCK:#x} do not lie on whole pages of {host.page_size:#x}"
        assert session.space.skipped == {(0, ram.size): reason}
        session.memory.root.remove(ram)
        assert session.space.skipped == {}


def test_only_whole_pages_of_a_block_are_shown(both: Session, host: SimHost) -> None:
    ram = plugged(both, host)
    both.memory.root.add(Io("registers", PAGE), BASE + BLOCK + PAGE // 2, priority=1)
    ram.populate(0, 3 * BLOCK)
    # The registers hide half of page 2 and half of page 3.
    assert reached(host, EDU) == pages(0, 1, 4, 5)
    assert sorted(both.space.skipped) == [
        (BASE + 2 * PAGE, PAGE // 2),
        (BASE + 3 * PAGE + PAGE // 2, PAGE // 2),
    ]


def test_less_than_a_page_between_registers_is_skipped(both: Session, host: SimHost) -> None:
    ram = plugged(both, host)
    both.memory.root.add(Alias("window", 8, ram, 16), 4 * BASE + 16)
    ram.populate(0, BLOCK)
    assert reached(host, EDU) == pages(0, 1)
    assert both.space.skipped == {(4 * BASE + 16, 8): f"no whole page of {PAGE:#x}"}


# -- memory that is taken without telling ----------------------------------------------------------
def test_a_device_that_pins_memory_forbids_a_balloon(way: Way) -> None:
    with way.open(EDU) as session:
        name = session["edu"].name
        assert not session.ram_discard.uncoordinated_allowed
        with pytest.raises(BusyError, match=f"pinned for {name}"):
            session.ram_discard.begin_uncoordinated()
        session.close_device("edu")
        assert session.ram_discard.uncoordinated_allowed


def test_devices_that_pin_what_they_use_do_not_forbid_a_balloon(way: Way) -> None:
    with way.open(AP, CCW) as session, session.ram_discard.begin_uncoordinated():
        pass


def test_a_device_that_pins_memory_is_not_opened_beside_a_balloon(host: SimHost) -> None:
    framework = on(host)
    with framework.ram_discard.begin_uncoordinated("balloon0"):
        host.forget_calls()
        with pytest.raises(BusyError, match="discarded without telling by balloon0"):
            framework.open(LEGACY)
        assert host.call_names() == []
    framework.open(LEGACY).close()


def test_a_device_that_pins_memory_is_not_plugged_beside_a_balloon(way: Way) -> None:
    with way.open(AP) as session:
        with session.ram_discard.begin_uncoordinated(), pytest.raises(BusyError):
            session.plug(f"-device vfio-pci,host={OTHER_EDU.name}")
        assert len(session) == 1
        session.plug(f"-device vfio-pci,host={OTHER_EDU.name}")
        assert session.ram_discard.forbidden_by == (OTHER_EDU.name,)


def test_a_device_that_did_not_open_forbids_nothing(host: SimHost) -> None:
    framework = on(host)
    host.fail("VFIO_GROUP_GET_DEVICE_FD", errno.EIO)
    with pytest.raises(OSError, match="EIO"):
        framework.open(LEGACY)
    assert framework.ram_discard.uncoordinated_allowed


def test_sessions_of_one_framework_are_of_one_guest(host: SimHost) -> None:
    framework = on(host)
    with framework.open(LEGACY) as one, framework.open("") as other:
        assert one.ram_discard is other.ram_discard is framework.ram_discard
        assert not other.ram_discard.uncoordinated_allowed
    assert on(host).ram_discard is not framework.ram_discard


# -- any order of things ---------------------------------------------------------------------------
class Blocks(TwoContainers):
    """Blocks, trees, containers and faults in any order; devices reach what is populated and shown."""

    def __init__(self) -> None:
        super().__init__()
        self.populated: set[int] = set()
        self.ram = DiscardableRam("dimm", PAGES * PAGE, numbered(self.host, PAGES), BLOCK)
        self.plain = Ram("plain", 2 * PAGE, numbered(self.host, 2, first=100))
        self.hole = Io("hole", 3 * PAGE, enabled=False)
        self.window = Alias("window", 5 * PAGE, self.ram, 3 * PAGE)
        # The plain RAM follows the blocks where its hole ends.
        bank = Region("bank", 32 * PAGE)
        bank.add(self.ram, PAGE)
        bank.add(self.plain, (PAGES + 1) * PAGE)
        bank.add(self.hole, 5 * PAGE, priority=1)
        bank.add(self.window, 24 * PAGE)
        self.session.memory.root.add(bank, BASE)

    @rule(first=st.integers(0, 7), count=st.integers(0, 8), fault=FAULTS)
    def populate(self, first: int, count: int, fault: Fault) -> None:
        blocks = range(first, min(first + count, 8))
        if self.try_with(fault, self.ram.populate, first * BLOCK, len(blocks) * BLOCK):
            self.populated |= set(blocks)

    @rule(first=st.integers(0, 7), count=st.integers(0, 8), fault=FAULTS)
    def discard(self, first: int, count: int, fault: Fault) -> None:
        blocks = range(first, min(first + count, 8))
        if self.try_with(fault, self.ram.discard, first * BLOCK, len(blocks) * BLOCK):
            self.populated -= set(blocks)

    @rule(which=st.sampled_from(["ram", "hole", "window", "plain"]), fault=FAULTS)
    def show_or_hide(self, which: str, fault: Fault) -> None:
        region = getattr(self, which)
        self.try_with(fault, region.set_enabled, not region.enabled)

    @rule(which=st.sampled_from(["ram", "hole", "window"]), at=st.integers(0, 30), fault=FAULTS)
    def move(self, which: str, at: int, fault: Fault) -> None:
        self.try_with(fault, getattr(self, which).move, at * PAGE)

    @rule(which=st.sampled_from(["ram", "window"]), fault=FAULTS)
    def protect(self, which: str, fault: Fault) -> None:
        region = getattr(self, which)
        self.try_with(fault, region.set_readonly, not region.readonly)

    @rule(blocks=st.integers(1, 8), fault=FAULTS)
    def resize(self, blocks: int, fault: Fault) -> None:
        # What is beyond the end keeps its state, so nothing may be asked of it: it is given back.
        if all(block < blocks for block in self.populated):
            self.try_with(fault, self.ram.resize, blocks * BLOCK)
            self.try_with(None, self.ram.resize, 8 * BLOCK)

    def seen(self) -> Reached:
        """Page after page: what the tree shows there."""
        pages = {page: self.uppermost(page) for page in range(32)}
        return {BASE + page * PAGE: entry for page, entry in pages.items() if entry}

    def uppermost(self, page: int) -> tuple[int, Access] | None:
        (bank,) = self.session.memory.root.children
        assert isinstance(bank, Region)
        for region in bank.children:
            inside = page - region.offset // PAGE
            if region.enabled and 0 <= inside < region.size // PAGE:
                if region is self.window:
                    if not self.ram.enabled or inside + 3 >= self.ram.size // PAGE:
                        continue  # nothing is there, so what is below is seen
                    return self.block_at(inside + 3, readonly=region.readonly)
                if region is self.ram:
                    return self.block_at(inside, readonly=False)
                return (100 + inside, Access.READ_WRITE) if region is self.plain else None
        return None

    def block_at(self, page: int, *, readonly: bool) -> tuple[int, Access] | None:
        if page // 2 not in self.populated:
            return None
        readonly = readonly or self.ram.readonly
        return page + 1, Access.READ if readonly else Access.READ_WRITE


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
