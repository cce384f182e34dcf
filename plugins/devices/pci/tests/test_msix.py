from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from vfiocore.access import RegionInfo
from vfiocore.capabilities import Capability
from vfiocore.region import Area
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import vfio
from vfiocore_pci.device import PciDevice
from vfiocore_pci.msix import MsixTable, without_table

from .fake import READ_WRITE, ConfigBytes, FakeFunction

Wrap = Callable[[FakeFunction], PciDevice]
MAPPABLE = READ_WRITE | vfio.VFIO_REGION_INFO_FLAG_MMAP


def msix_config(bar: int, offset: int, vectors: int) -> ConfigBytes:
    content = ConfigBytes(256).put(pci.PCI_CAPABILITY_LIST, 0x50, 1)
    content.capability(0x50, pci.PCI_CAP_ID_MSIX)
    content.put(0x50 + pci.PCI_MSIX_FLAGS, pci.PCI_MSIX_FLAGS_ENABLE | vectors - 1, 2)
    return content.put(0x50 + pci.PCI_MSIX_TABLE, offset | bar, 4)


def with_table(function: FakeFunction, *capabilities: Capability) -> FakeFunction:
    """An MSI-X table in the second page of BAR 4; BARs 0 and 4 have four pages each."""
    page = function.host.page_size
    function.config = msix_config(bar=4, offset=page, vectors=17)
    for index in (0, 4):
        function.regions[index] = RegionInfo(
            index, MAPPABLE, 4 * page, index << 40, capabilities if index == 4 else ()
        )
    return function


def test_the_table_is_found_where_the_capability_says(function: FakeFunction, wrap: Wrap) -> None:
    function.config = msix_config(bar=4, offset=0x2000, vectors=17)
    device = wrap(function)
    assert device.msix_table == MsixTable(bar=4, offset=0x2000, vectors=17)
    assert device.msix_table.size == 17 * 16


def test_a_function_without_msix_has_no_table(function: FakeFunction, wrap: Wrap) -> None:
    assert wrap(function).msix_table is None


def test_the_pages_of_the_table_are_cut_out_of_its_bar_only(
    function: FakeFunction, wrap: Wrap
) -> None:
    page = function.host.page_size
    device = wrap(with_table(function))
    assert device.region(4).areas == (Area(0, page), Area(2 * page, 2 * page))
    assert device.region(0).areas == (Area(0, 4 * page),)


def test_nothing_of_a_bar_that_only_instructions_reach_is_mapped(
    function: FakeFunction, wrap: Wrap
) -> None:
    function.capabilities = (Capability(vfio.VFIO_DEVICE_INFO_CAP_ZPCI_BASE, 2, b""),)
    device = wrap(with_table(function))
    assert device.region(4).areas == ()
    assert device.region(0).areas == ()


def test_nothing_is_cut_where_the_kernel_allows_the_table_to_be_mapped(
    function: FakeFunction, wrap: Wrap
) -> None:
    allowed = Capability(vfio.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, b"")
    device = wrap(with_table(function, allowed))
    assert device.region(4).areas == (Area(0, 4 * function.host.page_size),)


def test_a_bar_that_is_all_table_cannot_be_mapped() -> None:
    assert not list(without_table([Area(0, 4096)], MsixTable(0, 0, 8), 4096))


def test_the_whole_page_goes_also_where_pages_are_large() -> None:
    table = MsixTable(bar=0, offset=0x2000, vectors=1)
    assert list(without_table([Area(0, 0x20000)], table, 0x10000)) == [Area(0x10000, 0x10000)]


PAGES = st.integers(0, 15)


@given(
    spans=st.lists(st.tuples(PAGES, st.integers(1, 4)), max_size=4),
    entry=st.integers(0, 511),
    vectors=st.integers(1, 2048),
    shift=st.sampled_from([12, 14, 16]),
)
def test_just_the_pages_of_the_table_go(
    spans: list[tuple[int, int]], entry: int, vectors: int, shift: int
) -> None:
    page = 1 << shift
    table = MsixTable(0, entry * 16, vectors)
    areas = [Area(start * page, count * page) for start, count in spans]
    touched = set(range(table.offset // page, (table.offset + table.size - 1) // page + 1))

    def pages(parts: list[Area]) -> list[int]:
        return [n for a in parts for n in range(a.offset // page, (a.offset + a.size) // page)]

    left = list(without_table(areas, table, page))
    assert all(area.size > 0 and area.offset % page == 0 for area in left)
    assert pages(left) == [number for number in pages(areas) if number not in touched]
