from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.access import DeviceAccess, RegionInfo
from vfiocore.capabilities import Capability
from vfiocore.errors import ClosedError, DeviceAccessError, UnsupportedError
from vfiocore.region import Area, ByteOrder, Region, mappable_areas, region_type
from vfiocore.uapi import vfio

from .scripted import MAPPABLE, PAGE, READ_WRITE, ScriptedHost, device_file, region_of


def sparse(*areas: tuple[int, int]) -> Capability:
    head = vfio.vfio_region_info_cap_sparse_mmap(nr_areas=len(areas))
    body = b"".join(struct.pack("=QQ", *area) for area in areas)
    return Capability(vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, bytes(head) + body)


@pytest.fixture(params=["through the file", "through a mapping"])
def region(request: pytest.FixtureRequest, access: DeviceAccess) -> Region:
    made = region_of(access)
    if request.param == "through a mapping":
        made.map()
    return made


# -- registers -------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_register_has_the_regions_byte_order_either_way(
    access: DeviceAccess, width: int, byteorder: Any, mapped: bool
) -> None:
    region = region_of(access, byteorder=byteorder)
    if mapped:
        region.map()
    value = int.from_bytes(bytes(range(1, 1 + width // 8)), byteorder)
    getattr(region, f"write{width}")(16, value)
    assert getattr(region, f"read{width}")(16) == value
    assert region.read(16, width // 8) == bytes(range(1, 1 + width // 8))


def test_a_region_begins_at_its_offset_in_the_file(region: Region, access: DeviceAccess) -> None:
    region.write32(8, 0x01020304)
    assert access.pread(4, region.info.offset + 8) == b"\x04\x03\x02\x01"


def test_bytes_are_read_and_written_anywhere(region: Region) -> None:
    region.write(3, memoryview(b"hello"))
    assert region.read(3, 5) == b"hello"


def test_a_view_of_larger_items_is_written_as_its_bytes(region: Region) -> None:
    region.write(0, memoryview(bytearray(b"abcdefgh")).cast("I"))
    assert region.read(0, 9) == b"abcdefgh\0"


@pytest.mark.parametrize(("width", "offset"), [(16, 1), (32, 2), (32, 5), (64, 4)])
def test_a_misaligned_register_is_refused(region: Region, width: int, offset: int) -> None:
    with pytest.raises(ValueError, match="is not a multiple of"):
        getattr(region, f"read{width}")(offset)
    with pytest.raises(ValueError, match="is not a multiple of"):
        getattr(region, f"write{width}")(offset, 0)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("offset", [-8, 2 * PAGE, 1 << 40])
def test_a_register_outside_is_refused(region: Region, width: int, offset: int) -> None:
    with pytest.raises(DeviceAccessError, match="is outside its") as caught:
        getattr(region, f"read{width}")(offset)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(DeviceAccessError):
        getattr(region, f"write{width}")(offset, 0)


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (2 * PAGE, 1), (2 * PAGE - 1, 2), (0, -1)])
def test_bytes_outside_are_refused(region: Region, offset: int, size: int) -> None:
    with pytest.raises(DeviceAccessError):
        region.read(offset, size)
    if size > 0:
        with pytest.raises(DeviceAccessError):
            region.write(offset, bytes(size))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("too", ["large", "small"])
def test_a_value_that_does_not_fit_is_refused_and_not_cut(
    region: Region, width: int, too: str
) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=f"does not fit {width} bits"):
            getattr(region, f"write{width}")(0, 1 << width if too == "large" else -1)
        assert getattr(region, f"read{width}")(0) == 0


@given(
    width=st.sampled_from([8, 16, 32, 64]),
    byteorder=st.sampled_from(["little", "big"]),
    accesses=st.lists(
        st.tuples(st.integers(-8, 80) | st.just(16), st.integers(-1, 2**64)), min_size=1, max_size=6
    ),
)
def test_a_mapped_register_is_the_same_as_one_in_the_file(
    width: int, byteorder: ByteOrder, accesses: list[tuple[int, int]]
) -> None:
    host = ScriptedHost()
    access = device_file(host, 2 * PAGE)
    plain, mapped = (region_of(access, size=64, offset=0, byteorder=byteorder) for _ in range(2))
    mapped.map()
    try:
        for offset, value in accesses:
            outcomes = [outcome(region, width, offset, value) for region in (plain, mapped)]
            assert outcomes[0] == outcomes[1]
    finally:
        mapped.unmap()
        access.close()


def outcome(region: Region, width: int, offset: int, value: int) -> object:
    try:
        getattr(region, f"write{width}")(offset, value)
        return getattr(region, f"read{width}")(offset)
    except (ValueError, DeviceAccessError) as error:
        return str(error)


def test_more_registers_than_are_kept_at_hand_work_as_well(access: DeviceAccess) -> None:
    region = region_of(access)
    region.map()
    for offset in range(region.size):
        region.write8(offset, offset & 0xFF)
    assert all(region.read8(offset) == offset & 0xFF for offset in range(region.size))


def test_an_access_that_was_kept_works_whatever_is_mapped(access: DeviceAccess) -> None:
    region = region_of(access)
    read32, write32 = region.read32, region.write32
    for _ in range(2):
        region.map()
        write32(8, read32(8) + 1)
        region.unmap()
        write32(8, read32(8) + 1)
    assert read32(8) == 4


# -- mapping ---------------------------------------------------------------------------------------
def test_a_mapped_region_is_the_devices_memory(access: DeviceAccess) -> None:
    region = region_of(access)
    region.map()
    assert region.is_mapped
    region.view()[5] = 0x55
    assert access.pread(1, region.info.offset + 5) == b"\x55"


def test_mapping_again_is_fine(access: DeviceAccess) -> None:
    region = region_of(access)
    region.map()
    view = region.view()
    region.map()
    region.write8(0, 7)
    assert view[0] == 7


def test_only_sparse_areas_are_mapped_and_the_rest_goes_through_the_file(
    access: DeviceAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = region_of(
        access, size=4 * PAGE, offset=0, capabilities=(sparse((0, PAGE), (2 * PAGE, PAGE)),)
    )
    region.map()
    assert region.areas == (Area(0, PAGE), Area(2 * PAGE, PAGE))
    through_file: list[int] = []

    def pread(_self: object, _fd: int, size: int, offset: int) -> bytes:
        through_file.append(offset)
        return bytes(size)

    monkeypatch.setattr(ScriptedHost, "pread", pread)
    for offset in (0, PAGE, 2 * PAGE, 3 * PAGE):
        region.read32(offset)
    assert through_file == [PAGE, 3 * PAGE]


def test_an_access_across_the_end_of_an_area_goes_through_the_file(access: DeviceAccess) -> None:
    region = region_of(access, size=2 * PAGE, offset=0, capabilities=(sparse((0, PAGE)),))
    region.map()
    access.pwrite(b"0123", PAGE - 2)
    assert region.read(PAGE - 2, 4) == b"0123"


def test_a_view_of_what_is_not_mapped_is_unsupported(access: DeviceAccess) -> None:
    region = region_of(access, offset=0, capabilities=(sparse((0, PAGE)),))
    region.map()
    assert len(region.view(16, 32)) == 32
    for offset, size in ((0, None), (PAGE, 4), (PAGE - 2, 4)):
        with pytest.raises(UnsupportedError, match="is not mapped"):
            region.view(offset, size)


@pytest.mark.parametrize(("offset", "size"), [(-1, 4), (100, -50), (3 * PAGE, None), (0, 3 * PAGE)])
def test_a_view_outside_of_the_region_is_refused(
    access: DeviceAccess, offset: int, size: int | None
) -> None:
    region = region_of(access)
    region.map()
    with pytest.raises(DeviceAccessError):
        region.view(offset, size)


def test_a_region_that_cannot_be_mapped_says_so(access: DeviceAccess) -> None:
    region = region_of(access, flags=READ_WRITE)
    with pytest.raises(UnsupportedError, match="no part of this region can be mapped"):
        region.map()
    assert not region.is_mapped


def test_a_mapping_that_fails_half_way_leaves_nothing_mapped(
    access: DeviceAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = region_of(access, offset=0, capabilities=(sparse((0, PAGE), (PAGE, PAGE)),))
    made: list[Any] = []
    real = ScriptedHost.mmap

    def mmap(self: ScriptedHost, *args: Any, **kwargs: Any) -> Any:
        if made:
            raise OSError(errno.ENOMEM, "")
        made.append(real(self, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(ScriptedHost, "mmap", mmap)
    with pytest.raises(OSError, match="ENOMEM"):
        region.map()
    assert not region.is_mapped
    assert made[0].closed


def test_a_read_only_region_is_mapped_for_reading(access: DeviceAccess) -> None:
    flags = MAPPABLE & ~vfio.VFIO_REGION_INFO_FLAG_WRITE
    region = region_of(access, flags=flags)
    region.map()
    assert region.view().readonly
    assert region.read32(0) == 0


def test_a_write_to_a_read_only_mapping_is_for_the_kernel_to_refuse(
    access: DeviceAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(ScriptedHost, "pwrite", refuse)
    region = region_of(access, flags=MAPPABLE & ~vfio.VFIO_REGION_INFO_FLAG_WRITE)
    region.map()
    with pytest.raises(DeviceAccessError):
        region.write32(0, 1)
    with pytest.raises(DeviceAccessError):
        region.write(0, b"abc")


def test_after_unmapping_registers_go_through_the_file_again(access: DeviceAccess) -> None:
    region = region_of(access)
    region.map()
    region.write32(0, 5)
    region.unmap()
    region.unmap()
    assert not region.is_mapped
    assert region.read32(0) == 5
    with pytest.raises(UnsupportedError):
        region.view()


def test_unmapping_leaves_a_view_that_is_alive_its_pages(access: DeviceAccess) -> None:
    region = region_of(access)
    region.map()
    view = region.view()
    region.write32(0, 7)
    region.unmap()
    assert not region.is_mapped
    assert view[0] == 7


def test_unmapping_really_unmaps_after_registers_were_used(access: DeviceAccess) -> None:
    region = region_of(access)
    region.map()
    region.write32(0, 1)
    memory = region._mappings[0].memory
    region.unmap()
    assert memory.closed


def test_who_shows_the_mapping_to_others_is_told_before_it_goes(access: DeviceAccess) -> None:
    region = region_of(access)
    region.map()
    told: list[object] = []
    for name in ("first", "second"):
        Viewer(region, lambda word, name=name: told.append((name, word, region.is_mapped)))
    region.unmap()
    region.map()
    region.unmap()
    assert told == [("second", "close", True), ("first", "close", True)]


def test_who_shows_the_mapping_follows_what_becomes_of_it(access: DeviceAccess) -> None:
    region = region_of(access)
    told: list[str] = []
    Viewer(region, told.append)
    region.suspend()
    region.resume()
    assert told == ["suspend", "resume"]


class Viewer:
    """Who shows a region to others, and tells what it was told."""

    def __init__(self, region: Region, tell: Callable[[str], object]) -> None:
        self.region = region
        self.tell = tell
        region.users.append(self)

    def suspend(self) -> None:
        self.tell("suspend")

    def resume(self) -> None:
        self.tell("resume")

    def close(self) -> None:
        self.region.users.remove(self)
        self.tell("close")


def test_it_is_unmapped_even_if_who_was_told_fails(access: DeviceAccess) -> None:
    region = region_of(access)
    region.map()

    def fail(_word: str) -> None:
        raise OSError(errno.EIO, "stuck")

    Viewer(region, fail)
    with pytest.raises(OSError, match="stuck"):
        region.unmap()
    assert not region.is_mapped


def test_nothing_works_after_the_device_is_closed(access: DeviceAccess) -> None:
    region = region_of(access)
    access.close()
    for use in (
        lambda: region.read32(0),
        lambda: region.write32(0, 1),
        lambda: region.read(0, 1),
        lambda: region.write(0, b"a"),
        region.view,
        region.map,
    ):
        with pytest.raises(ClosedError):
            use()


# -- what the kernel says --------------------------------------------------------------------------
def test_a_region_that_may_be_mapped_may_be_mapped_as_a_whole() -> None:
    assert mappable_areas(RegionInfo(0, MAPPABLE, PAGE, 0)) == (Area(0, PAGE),)


def test_a_region_without_bytes_has_no_area() -> None:
    assert mappable_areas(RegionInfo(0, MAPPABLE, 0, 0)) == ()


def test_empty_sparse_areas_do_not_count() -> None:
    info = RegionInfo(0, MAPPABLE, PAGE, 0, (sparse((0, 0), (64, 64)),))
    assert mappable_areas(info) == (Area(64, 64),)


def test_a_region_whose_driver_lists_no_area_cannot_be_mapped() -> None:
    assert mappable_areas(RegionInfo(0, MAPPABLE, PAGE, 0, (sparse(),))) == ()


def test_sparse_areas_count_only_where_mapping_is_allowed() -> None:
    assert mappable_areas(RegionInfo(0, READ_WRITE, PAGE, 0, (sparse((0, PAGE)),))) == ()


def test_a_device_specific_region_has_a_type() -> None:
    kind = bytes(vfio.vfio_region_info_cap_type(type=2, subtype=3))
    capability = Capability(vfio.VFIO_REGION_INFO_CAP_TYPE, 1, kind)
    assert region_type(RegionInfo(9, READ_WRITE, 16, 0, (capability,))) == (2, 3)
    assert region_type(RegionInfo(9, READ_WRITE, 16, 0)) is None


def test_what_may_be_done_with_a_region_is_a_fact(access: DeviceAccess) -> None:
    region = region_of(access, flags=vfio.VFIO_REGION_INFO_FLAG_READ)
    assert (region.readable, region.writable, region.size, region.index) == (
        True,
        False,
        2 * PAGE,
        0,
    )
