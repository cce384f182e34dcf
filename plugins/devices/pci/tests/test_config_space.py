from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.errors import DeviceAccessError, MalformedReplyError
from vfiocore.host import LinuxHost
from vfiocore.region import Region
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import vfio
from vfiocore_pci.config_space import ConfigSpace, PciCapability
from vfiocore_pci.device import PciDevice

from .fake import ConfigBytes, FakeFunction

Wrap = Callable[[FakeFunction], PciDevice]


def config_space(content: ConfigBytes) -> ConfigSpace:
    access = FakeFunction(host=LinuxHost(), fd=-1, name="dev", config=content)
    info = access.region_info(vfio.VFIO_PCI_CONFIG_REGION_INDEX)
    return ConfigSpace(Region(access, info, "dev config", "little", ()))


def standard_list(*offsets: int) -> ConfigBytes:
    """A list that visits `offsets` in order; each capability has its offset as its id."""
    content = ConfigBytes(256)
    for offset, following in pairwise((*offsets, 0)):
        content.capability(offset, offset, following)
    return content.put(pci.PCI_CAPABILITY_LIST, offsets[0], 1)


def test_header_fields_are_read_little_endian() -> None:
    content = ConfigBytes(256)
    content[0:4] = bytes.fromhex("3412e811")
    content[8:12] = bytes.fromhex("10010802")
    content[0x2C:0x30] = bytes.fromhex("f41a0011")
    space = config_space(content)
    assert (space.vendor_id, space.device_id) == (0x1234, 0x11E8)
    assert (space.class_code, space.revision) == (0x020801, 0x10)
    assert (space.subsystem_vendor_id, space.subsystem_id) == (0x1AF4, 0x1100)


def test_what_is_written_is_read_back_in_each_width() -> None:
    space = config_space(ConfigBytes(256))
    space.write8(0x80, 0x11)
    space.write16(0x82, 0x2233)
    space.write32(0x84, 0x44556677)
    space.write(0x88, b"abc")
    assert space.read(0x80, 11) == bytes.fromhex("11003322776655446162 63")
    assert (space.read8(0x80), space.read16(0x82), space.read32(0x84)) == (
        0x11,
        0x2233,
        0x44556677,
    )


def test_an_access_past_the_end_is_refused() -> None:
    with pytest.raises(DeviceAccessError, match="outside its 0x100 bytes"):
        config_space(ConfigBytes(256)).read32(0x100)


def test_a_function_without_a_capability_list_has_no_capabilities() -> None:
    content = standard_list(0x40).put(pci.PCI_STATUS, 0, 2)
    assert config_space(content).capabilities() == ()


def test_standard_and_extended_capabilities_are_listed_with_their_offsets() -> None:
    content = ConfigBytes(4096).put(pci.PCI_CAPABILITY_LIST, 0x40, 1)
    content.capability(0x40, pci.PCI_CAP_ID_PM, 0x50).capability(0x50, pci.PCI_CAP_ID_EXP)
    content.extended(0x100, pci.PCI_EXT_CAP_ID_ERR, 0x148, version=2)
    content.extended(0x148, pci.PCI_EXT_CAP_ID_DSN)
    assert config_space(content).capabilities() == (
        PciCapability(pci.PCI_CAP_ID_PM, 0x40),
        PciCapability(pci.PCI_CAP_ID_EXP, 0x50),
        PciCapability(pci.PCI_EXT_CAP_ID_ERR, 0x100, extended=True, version=2),
        PciCapability(pci.PCI_EXT_CAP_ID_DSN, 0x148, extended=True, version=1),
    )


def test_the_two_number_spaces_of_ids_are_searched_apart() -> None:
    content = ConfigBytes(4096).put(pci.PCI_CAPABILITY_LIST, 0x40, 1).capability(0x40, 0x01)
    content.extended(0x100, 0x03)
    space = config_space(content)
    assert space.find_capability(0x01) == PciCapability(0x01, 0x40)
    assert space.find_capability(0x03) is None
    assert space.find_extended_capability(0x01) is None
    found = space.find_extended_capability(0x03)
    assert found is not None
    assert found.offset == 0x100


def test_a_hidden_first_extended_capability_is_stepped_over() -> None:
    content = ConfigBytes(4096).extended(0x100, 0, 0x140).extended(0x140, pci.PCI_EXT_CAP_ID_DSN)
    assert [cap.offset for cap in config_space(content).capabilities()] == [0x140]


@pytest.mark.parametrize("header", [0, 0xFFFF_FFFF])
def test_an_empty_extended_space_has_no_capabilities(header: int) -> None:
    assert config_space(ConfigBytes(4096).put(0x100, header, 4)).capabilities() == ()


def test_conventional_pci_has_no_extended_capabilities() -> None:
    space = config_space(ConfigBytes(256))
    assert space.find_extended_capability(pci.PCI_EXT_CAP_ID_ERR) is None


def test_reserved_bits_of_a_pointer_are_masked() -> None:
    content = ConfigBytes(256).put(pci.PCI_CAPABILITY_LIST, 0x43, 1).capability(0x40, 0x05, 0x01)
    assert config_space(content).capabilities() == (PciCapability(0x05, 0x40),)


def test_a_looping_list_is_an_error() -> None:
    content = standard_list(0x40, 0x50)
    content.capability(0x50, 0x09, 0x40)
    with pytest.raises(MalformedReplyError, match="loops at 0x40"):
        config_space(content).capabilities()


def test_a_looping_extended_list_is_an_error() -> None:
    content = ConfigBytes(4096).extended(0x100, 1, 0x140).extended(0x140, 2, 0x100)
    with pytest.raises(MalformedReplyError, match="loops at 0x100"):
        config_space(content).capabilities()


def test_a_pointer_into_the_header_is_an_error() -> None:
    content = standard_list(0x40)
    content.capability(0x40, 0x09, 0x10)
    with pytest.raises(MalformedReplyError, match="0x10 would be below 0x40"):
        config_space(content).capabilities()


def test_an_extended_pointer_into_the_standard_space_is_an_error() -> None:
    content = ConfigBytes(4096).extended(0x100, 1, 0x80)
    with pytest.raises(MalformedReplyError, match="0x80 would be below 0x100"):
        config_space(content).capabilities()


@given(st.lists(st.integers(0x10, 0x3F).map(lambda n: n * 4), min_size=1, unique=True))
def test_every_list_without_a_loop_is_walked_in_its_order(offsets: list[int]) -> None:
    found = config_space(standard_list(*offsets)).capabilities()
    assert [cap.offset for cap in found] == offsets
    assert [cap.id for cap in found] == offsets


@given(
    fill=st.integers(0, 0xFF),
    dwords=st.dictionaries(st.integers(0, 1023), st.integers(0, 0xFFFF_FFFF)),
)
def test_arbitrary_bytes_end_in_a_list_or_in_an_error(fill: int, dwords: dict[int, int]) -> None:
    content = ConfigBytes([fill] * 4096)
    for number, value in dwords.items():
        content.put(4 * number, value, 4)
    try:
        found = config_space(content).capabilities()
    except MalformedReplyError:
        return
    assert len({(cap.extended, cap.offset) for cap in found}) == len(found)
