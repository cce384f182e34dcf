from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from attrs import define, field

from vfiocore.errors import (
    BusyError,
    DmaAddressError,
    DmaError,
    DmaOverlapError,
    DmaRangeError,
    DmaSplitError,
)
from vfiocore.memory import (
    Access,
    AddressSpace,
    Alias,
    Backing,
    DiscardableRam,
    DmaMapping,
    FlatRange,
    Io,
    IommuRegion,
    Ram,
    Region,
    Translation,
)

PAGE = 0x1000
MEMORY = Backing(0x7F00_0000_0000, 1 << 40)


class RefusedError(Exception):
    """What a listener of these tests raises."""


@define(eq=False)
class Follower:
    """Has the mappings that it was told; can be made to refuse."""

    has: dict[int, DmaMapping] = field(factory=dict)
    refuse: str = ""

    def map(self, region: IommuRegion, mappings: Sequence[DmaMapping]) -> None:
        if self.refuse == "map":
            raise RefusedError
        for mapping in mappings:
            assert mapping.iova not in self.has
            self.has[mapping.iova] = mapping

    def unmap(self, region: IommuRegion, mappings: Sequence[DmaMapping]) -> None:
        if self.refuse == "unmap":
            raise RefusedError
        for mapping in mappings:
            assert self.has.pop(mapping.iova) == mapping


@pytest.fixture
def target() -> AddressSpace:
    """RAM at 0, read-only memory at 1 MiB, RAM in blocks at 2 MiB, registers in between."""
    space = AddressSpace("guest memory")
    space.root.add(Ram("ram", 0x10000, MEMORY), 0)
    space.root.add(Io("registers", PAGE), 0x8000, priority=1)
    space.root.add(Ram("rom", 0x10000, Backing(0x1000_0000, 0x10000), readonly=True), 0x100000)
    dimm = DiscardableRam("dimm", 0x10000, Backing(0x2000_0000, 0x10000), 2 * PAGE)
    space.root.add(dimm, 0x200000)
    return space


@pytest.fixture
def region(target: AddressSpace) -> IommuRegion:
    return IommuRegion("viommu", 1 << 32, target)


def dimm_of(target: AddressSpace) -> DiscardableRam:
    (dimm,) = [flat.ram for flat in target.view if isinstance(flat.ram, DiscardableRam)]
    return dimm


def followed(region: IommuRegion) -> Follower:
    follower = Follower()
    region.add_listener(follower)
    return follower


def refused(region: IommuRegion, *batch: Translation) -> DmaError:
    before = region.translations
    with pytest.raises(DmaError) as caught:
        region.map(batch)
    assert region.translations == before
    return caught.value


# -- translations are followed to memory -----------------------------------------------------------
def test_a_translation_is_followed_to_the_memory_that_it_leads_to(region: IommuRegion) -> None:
    follower = followed(region)
    region.map([Translation(0x5000, 2 * PAGE, 0x3000)])
    wanted = DmaMapping(0x5000, 2 * PAGE, MEMORY.address + 0x3000)
    assert region.translations == (wanted,)
    assert follower.has == {0x5000: wanted}


def test_it_is_followed_through_aliases_and_to_the_memory_file() -> None:
    backing = Backing(0x3000_0000, 0x10000, fd=7, fd_offset=0x40000)
    ram = Ram("ram", 0x10000, backing)
    space = AddressSpace("guest memory")
    space.root.add(Alias("high", 0x8000, ram, 0x4000), 1 << 32)
    region = IommuRegion("viommu", 1 << 32, space)
    region.map([Translation(0, PAGE, (1 << 32) + PAGE)])
    assert region.translations == (DmaMapping(0, PAGE, 0x3000_5000, Access.READ_WRITE, 7, 0x45000),)


@pytest.mark.parametrize("access", [Access.READ, Access.WRITE, Access.READ_WRITE])
def test_devices_may_do_what_the_translation_says(region: IommuRegion, access: Access) -> None:
    region.map([Translation(0, PAGE, 0, access)])
    assert region.translations[0].access is access


def test_readonly_memory_stays_readonly(region: IommuRegion) -> None:
    region.map([Translation(0, PAGE, 0x100000)])
    assert region.translations[0].access is Access.READ


@pytest.mark.parametrize(
    ("item", "kind", "reason"),
    [
        (Translation(0, PAGE, 0x50000), DmaAddressError, "leads to no RAM in guest memory"),
        (Translation(0, PAGE, 0x8000), DmaAddressError, "leads to no RAM"),
        (Translation(0, 2 * PAGE, 0x7000), DmaAddressError, "past the end of the RAM"),
        (Translation(0, PAGE, 0x200000), DmaAddressError, "discarded memory of dimm"),
        (Translation(0, PAGE, 0x100000, Access.WRITE), DmaAddressError, "rom is read-only"),
        (Translation(0, 0, 0), DmaRangeError, "is not in its"),
        (Translation((1 << 32) - PAGE, 2 * PAGE, 0), DmaRangeError, "is not in its"),
        (Translation(-PAGE, PAGE, 0), DmaRangeError, "is not in its"),
    ],
)
def test_what_leads_nowhere_is_refused_with_the_reason(
    region: IommuRegion, item: Translation, kind: type[DmaError], reason: str
) -> None:
    error = refused(region, Translation(0x10000, PAGE, 0), item)
    assert type(error) is kind
    assert reason in str(error)
    assert error.index == 1
    assert error.errno == (errno.EFAULT if kind is DmaAddressError else errno.EINVAL)


def test_a_translation_to_another_virtual_iommu_is_refused(
    target: AddressSpace, region: IommuRegion
) -> None:
    target.root.add(IommuRegion("inner", PAGE, AddressSpace("other")), 0x300000)
    assert "leads to no RAM" in str(refused(region, Translation(0, PAGE, 0x300000)))


def test_where_something_is_translated_nothing_else_is(region: IommuRegion) -> None:
    region.map([Translation(0x4000, 4 * PAGE, 0)])
    error = refused(region, Translation(0, PAGE, 0), Translation(0x5000, PAGE, 0))
    assert isinstance(error, DmaOverlapError)
    assert (error.errno, error.index) == (errno.EEXIST, 1)


def test_a_translation_stays_where_it_led_until_it_goes(
    target: AddressSpace, region: IommuRegion
) -> None:
    follower = followed(region)
    region.map([Translation(0, PAGE, 0x3000)])
    with target.transaction():
        for child in target.root.children:
            target.root.remove(child)
    assert follower.has == {0: DmaMapping(0, PAGE, MEMORY.address + 0x3000)}
    region.unmap(0, PAGE)
    assert follower.has == {}


# -- taking back -----------------------------------------------------------------------------------
def test_an_unmap_takes_every_translation_inside(region: IommuRegion) -> None:
    follower = followed(region)
    region.map([Translation(index * 2 * PAGE, PAGE, 0) for index in range(4)])
    region.unmap(2 * PAGE, 4 * PAGE)
    assert sorted(follower.has) == [0, 6 * PAGE]
    region.unmap_all()
    assert follower.has == {}
    assert region.translations == ()


def test_an_unmap_of_nothing_is_no_error(region: IommuRegion) -> None:
    region.unmap(0, 1 << 32)
    region.unmap_all()


@pytest.mark.parametrize(("start", "size"), [(0, 5), (5, 1), (7, 4), (4, 3)])
def test_an_unmap_that_cuts_a_translation_takes_nothing(
    region: IommuRegion, start: int, size: int
) -> None:
    follower = followed(region)
    region.map([Translation(0, PAGE, 0), Translation(4 * PAGE, 4 * PAGE, 0)])
    with pytest.raises(DmaSplitError, match="cuts the translation 0x4000-0x7fff") as caught:
        region.unmap(start * PAGE, size * PAGE)
    assert caught.value.errno == errno.EINVAL
    assert sorted(follower.has) == [0, 4 * PAGE]


# -- listeners -------------------------------------------------------------------------------------
def test_a_listener_that_comes_late_is_told_what_is_translated(region: IommuRegion) -> None:
    region.map([Translation(0, PAGE, 0), Translation(PAGE, PAGE, 0)])
    late = followed(region)
    assert sorted(late.has) == [0, PAGE]
    region.remove_listener(late)
    assert late.has == {}
    region.unmap_all()


def test_a_map_that_one_refuses_is_taken_back_in_the_others(region: IommuRegion) -> None:
    first, second = followed(region), followed(region)
    second.refuse = "map"
    with pytest.raises(RefusedError):
        region.map([Translation(0, PAGE, 0), Translation(PAGE, PAGE, 0)])
    assert first.has == second.has == {}
    assert region.translations == ()


def test_an_unmap_that_one_refuses_is_taken_back_in_the_others(region: IommuRegion) -> None:
    first, second = followed(region), followed(region)
    region.map([Translation(0, PAGE, 0), Translation(PAGE, PAGE, 0)])
    first.refuse = "unmap"
    with pytest.raises(RefusedError):
        region.unmap(0, PAGE)
    assert sorted(first.has) == sorted(second.has) == [0, PAGE]
    assert len(region.translations) == 2


# -- memory that is discarded ----------------------------------------------------------------------
def test_blocks_that_a_translation_leads_to_cannot_be_discarded(
    target: AddressSpace, region: IommuRegion
) -> None:
    dimm = dimm_of(target)
    dimm.populate(0, 0x10000)
    region.map([Translation(0, 2 * PAGE, 0x200000 + 3 * PAGE)])
    for block in (1, 2):
        with pytest.raises(BusyError, match="is held"):
            dimm.discard(block * 2 * PAGE, 2 * PAGE)
    dimm.discard(0, 2 * PAGE)
    region.unmap_all()
    dimm.discard(0, 0x10000)
    assert dimm.populated == ()


def test_a_translation_that_was_refused_holds_nothing(
    target: AddressSpace, region: IommuRegion
) -> None:
    dimm = dimm_of(target)
    dimm.populate(0, 0x10000)
    followed(region).refuse = "map"
    with pytest.raises(RefusedError):
        region.map([Translation(0, PAGE, 0x200000)])
    refused(region, Translation(0, PAGE, 0x200000), Translation(0, PAGE, 0x200000))
    dimm.discard(0, 0x10000)


# -- in the tree -----------------------------------------------------------------------------------
def test_an_iommu_region_is_one_range_of_the_flat_view(region: IommuRegion) -> None:
    space = AddressSpace("devices")
    space.root.add(region, 0x1000_0000)
    space.root.add(Io("doorbell", PAGE), 0x2000_0000, priority=1)
    below, above = space.view
    assert below == FlatRange(0x1000_0000, 0x1000_0000, region, 0)
    assert above == FlatRange(0x2000_1000, (1 << 32) - 0x1000_1000, region, 0x1000_1000)


def test_it_hides_the_ram_below_it(region: IommuRegion) -> None:
    root = Region("root", 1 << 64)
    root.add(Ram("ram", PAGE, MEMORY), 0)
    root.add(region, 0, priority=1)
    space = AddressSpace("devices", root)
    assert [flat.ram for flat in space.view] == [region]


def test_it_has_no_memory_of_its_own(region: IommuRegion) -> None:
    flat = FlatRange(0, PAGE, region, 0)
    with pytest.raises(TypeError, match="viommu translates"):
        flat.mapping()
    with pytest.raises(TypeError, match="viommu translates"):
        assert flat.vaddr
