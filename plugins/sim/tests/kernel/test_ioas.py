"""The objects of an iommufd, and the IOAS ioctls."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from vfiocore.uapi import iommufd

PAGE = mmap.PAGESIZE
TOP = (1 << 64) - 1
READ, WRITE = iommufd.IOMMU_IOAS_MAP_READABLE, iommufd.IOMMU_IOAS_MAP_WRITEABLE
FIXED = iommufd.IOMMU_IOAS_MAP_FIXED_IOVA
A, B = "0000:01:00.0", "0000:02:00.0"


@pytest.fixture
def context(kernel: Any) -> int:
    return int(kernel.open("/dev/iommu"))


@pytest.fixture
def ioas(kernel: Any, context: int) -> int:
    return int(kernel.ioas(context))


@pytest.fixture
def attached(kernel: Any, context: int, ioas: int) -> int:
    device = kernel.cdev(A)
    kernel.bind(device, context)
    kernel.attach(device, ioas)
    return int(device)


@pytest.fixture
def memory_file() -> Iterator[int]:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


# -- objects -----------------------------------------------------------------------------------
def test_ids_are_the_lowest_free_ones_from_1(kernel: Any, context: int) -> None:
    assert [kernel.ioas(context) for _ in range(3)] == [1, 2, 3]
    kernel.destroy(context, 2)
    assert [kernel.ioas(context) for _ in range(2)] == [2, 4]


def test_two_iommufds_do_not_know_each_others_ids(kernel: Any, ioas: int, refused: Any) -> None:
    with refused(errno.ENOENT):
        kernel.destroy(kernel.open("/dev/iommu"), ioas)


def test_what_is_in_use_is_not_destroyed(
    kernel: Any, context: int, ioas: int, attached: int, refused: Any
) -> None:
    hwpt = kernel.attach(attached, ioas)
    device = 2
    for ident in (ioas, hwpt, device):
        with refused(errno.EBUSY):
            kernel.destroy(context, ident)
    kernel.detach(attached)
    kernel.destroy(context, ioas)


def test_an_id_of_another_type_does_not_exist(
    kernel: Any, context: int, attached: int, buffer: Any, refused: Any
) -> None:
    with refused(errno.ENOENT):
        kernel.ioas_map(context, 2, buffer(1).address, PAGE, 0)


# -- sizes of structs --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arg", "code"),
    [
        (struct.pack("=III", 8, 0, 0), errno.EINVAL),
        (struct.pack("=IIII", 16, 0, 0, 1), errno.E2BIG),
        (struct.pack("=II", 12, 0), errno.EFAULT),
        (struct.pack("=III", 12, 1, 0), errno.EOPNOTSUPP),
    ],
)
def test_a_struct_of_the_wrong_size_is_refused(
    kernel: Any, context: int, refused: Any, arg: bytes, code: int
) -> None:
    with refused(code):
        kernel.ioctl(context, iommufd.IOMMU_IOAS_ALLOC, bytearray(arg))


def test_a_longer_struct_of_zeros_is_accepted(kernel: Any, context: int) -> None:
    arg = bytearray(struct.pack("=IIII", 16, 0, 0, 0))
    kernel.ioctl(context, iommufd.IOMMU_IOAS_ALLOC, arg)
    assert struct.unpack("=IIII", arg) == (16, 0, 1, 0)


def test_an_older_kernel_does_not_know_a_request(machine: Any, refused: Any) -> None:
    kernel = machine(without={"IOMMU_HWPT_ALLOC"})
    context = kernel.open("/dev/iommu")
    with refused(errno.ENOTTY):
        kernel.hwpt(context, 1, 1)
    with refused(errno.ENOTTY):
        kernel.ioctl(context, iommufd.IOMMU_DESTROY + 0xD, bytearray(32))


# -- IOVA ranges -------------------------------------------------------------------------------
def test_a_fresh_ioas_has_every_address(kernel: Any, context: int, ioas: int) -> None:
    assert kernel.ranges(context, ioas) == ([(0, TOP)], 1, 1)


def test_an_attached_device_takes_its_reserved_regions_and_aperture(
    kernel: Any, context: int, ioas: int, attached: int
) -> None:
    wide = [(0, 0xFEDFFFFF), (0xFEF00000, (1 << 48) - 1)]
    assert kernel.ranges(context, ioas) == (wide, 2, PAGE)
    kernel.detach(attached)
    assert kernel.ranges(context, ioas) == ([(0, TOP)], 1, 1)


def test_too_little_room_gets_as_many_as_fit_and_the_true_number(
    kernel: Any, context: int, ioas: int, attached: int
) -> None:
    assert kernel.ranges(context, ioas, room=1) == ([(0, 0xFEDFFFFF)], 2, PAGE)


@pytest.mark.parametrize(
    ("request_number", "fields"),
    [
        (iommufd.IOMMU_IOAS_IOVA_RANGES, struct.pack("=IIIQQ", 1, 0, 1, 0, 0)),
        (iommufd.IOMMU_IOAS_ALLOW_IOVAS, struct.pack("=IIIQ", 1, 0, 1, 0)),
        (iommufd.IOMMU_IOAS_MAP, struct.pack("=IIIQQQ", FIXED | READ, 1, 1, 0, PAGE, 0)),
        (iommufd.IOMMU_IOAS_CHANGE_PROCESS, struct.pack("=I", 1)),
    ],
    ids=["ranges", "allow", "map", "change process"],
)
def test_reserved_fields_must_be_zero(
    kernel: Any, context: int, ioas: int, refused: Any, request_number: int, fields: bytes
) -> None:
    assert ioas == 1
    arg = bytearray(struct.pack("=I", 4 + len(fields)) + fields)
    with refused(errno.EOPNOTSUPP):
        kernel.ioctl(context, request_number, arg)


# -- allow-list --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ranges", "code"),
    [
        (((5, 5),), errno.EINVAL),
        (((0, 100), (100, 200)), errno.EINVAL),
        (((0xFEE00000, 0xFEE00FFF),), errno.EADDRINUSE),
    ],
)
def test_an_allow_list_that_cannot_be_is_refused(
    kernel: Any,
    context: int,
    ioas: int,
    attached: int,
    refused: Any,
    ranges: tuple[tuple[int, int], ...],
    code: int,
) -> None:
    with refused(code):
        kernel.allow(context, ioas, *ranges)


def test_the_allow_list_binds_automatic_placement_only(
    kernel: Any, context: int, ioas: int, buffer: Any
) -> None:
    kernel.allow(context, ioas, (1 << 20, (2 << 20) - 1))
    memory = buffer(1)
    assert kernel.ioas_map(context, ioas, memory.address, PAGE) == 1 << 20
    assert kernel.ioas_map(context, ioas, memory.address, PAGE, 0) == 0
    kernel.allow(context, ioas)
    assert kernel.ioas_map(context, ioas, memory.address, PAGE) == PAGE


def test_a_device_must_respect_the_allow_list(
    kernel: Any, context: int, ioas: int, refused: Any
) -> None:
    kernel.allow(context, ioas, (0, 0xFFFFFFFF))
    device = kernel.cdev(A)
    kernel.bind(device, context)
    with refused(errno.EADDRINUSE):
        kernel.attach(device, ioas)


# -- map ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": FIXED | READ | 8}, errno.EOPNOTSUPP),
        ({"length": TOP}, errno.EOVERFLOW),
        ({"iova": TOP}, errno.EOVERFLOW),
        ({"flags": FIXED}, errno.EINVAL),
        ({"ioas_id": 99}, errno.ENOENT),
        ({"user_va": TOP - PAGE + 2}, errno.EOVERFLOW),
        ({"length": 0}, errno.EINVAL),
        ({"length": 1}, errno.EINVAL),
        ({"iova": 1}, errno.EINVAL),
        ({"iova": TOP - PAGE + 1, "length": 2 * PAGE}, errno.EOVERFLOW),
        ({"iova": 0xFEE00000}, errno.EINVAL),
        ({"iova": 1 << 50}, errno.EINVAL),
        ({"user_va": PAGE}, errno.EFAULT),
        ({"user_va": PAGE + 1}, errno.EINVAL),
        ({"user_va": PAGE + 1, "flags": READ}, errno.EINVAL),
    ],
)
def test_a_map_that_cannot_be_is_refused_and_leaves_nothing(
    kernel: Any,
    context: int,
    ioas: int,
    attached: int,
    buffer: Any,
    refused: Any,
    fields: dict[str, int],
    code: int,
) -> None:
    wanted = {
        "flags": FIXED | READ | WRITE,
        "ioas_id": ioas,
        "user_va": buffer(1).address,
        "length": PAGE,
        "iova": 0,
    } | fields
    with refused(code):
        kernel.command(context, iommufd.IOMMU_IOAS_MAP, iommufd.iommu_ioas_map, **wanted)
    assert kernel.host.pinned_bytes == 0
    with refused(errno.ENOENT):
        kernel.ioas_unmap(context, ioas, 0, 1 << 60)


def test_an_overlap_is_refused(
    kernel: Any, context: int, ioas: int, buffer: Any, refused: Any
) -> None:
    memory = buffer(2)
    kernel.ioas_map(context, ioas, memory.address, 2 * PAGE, 0)
    with refused(errno.EEXIST):
        kernel.ioas_map(context, ioas, memory.address, PAGE, PAGE)


def test_nothing_is_aligned_before_a_device_is_there(
    kernel: Any, context: int, ioas: int, buffer: Any, refused: Any
) -> None:
    kernel.ioas_map(context, ioas, buffer(1).address + 1, 10, 3)
    device = kernel.cdev(A)
    kernel.bind(device, context)
    with refused(errno.EADDRINUSE):
        kernel.attach(device, ioas)


def test_automatic_placement_takes_the_lowest_hole_that_is_aligned_well(
    kernel: Any, context: int, ioas: int, buffer: Any
) -> None:
    memory = buffer(16)
    aligned = -(-memory.address // (4 * PAGE)) * (4 * PAGE)
    assert kernel.ioas_map(context, ioas, aligned, 3 * PAGE) == 4 * PAGE
    assert kernel.ioas_map(context, ioas, aligned, PAGE) == PAGE
    # No better aligned than its address: right behind the first two.
    assert kernel.ioas_map(context, ioas, aligned + PAGE, 4 * PAGE) == 7 * PAGE


def test_the_start_of_a_file_is_aligned_as_well_as_its_length_wants(
    kernel: Any, context: int, ioas: int, memory_file: int
) -> None:
    arg = kernel.command(
        context,
        iommufd.IOMMU_IOAS_MAP_FILE,
        iommufd.iommu_ioas_map_file,
        flags=READ | WRITE,
        ioas_id=ioas,
        fd=memory_file,
        length=4 * PAGE,
    )
    assert arg.iova == 4 * PAGE


def test_automatic_placement_finds_no_room(
    kernel: Any, context: int, ioas: int, buffer: Any, refused: Any
) -> None:
    kernel.allow(context, ioas, (0, PAGE - 1))
    memory = buffer(2)
    with refused(errno.ENOSPC):
        kernel.ioas_map(context, ioas, memory.address, 2 * PAGE)
    with refused(errno.EOVERFLOW):
        kernel.ioas_map(context, ioas, 0, 1 << 63)


def test_device_registers_cannot_be_mapped_here(
    kernel: Any, context: int, ioas: int, attached: int, refused: Any
) -> None:
    from vfiocore_sim.kernel.memory import addresses

    protection = mmap.PROT_READ | mmap.PROT_WRITE
    with (
        kernel.host.mmap(attached, PAGE, prot=protection, flags=mmap.MAP_SHARED) as registers,
        refused(errno.EFAULT),
    ):
        kernel.ioas_map(context, ioas, addresses(registers).first, PAGE, 0)


# -- files -------------------------------------------------------------------------------------
def test_a_file_is_mapped_at_an_offset_and_outlives_its_fd(
    kernel: Any, context: int, ioas: int, attached: int
) -> None:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, 4 * PAGE)
    kernel.map_file(context, ioas, fd, 2 * PAGE, iova=0, start=PAGE)
    port = kernel.device(A).dma
    port.write(10, b"in the file")
    assert os.pread(fd, 11, PAGE + 10) == b"in the file"
    os.close(fd)
    assert port.read(10, 11) == b"in the file"
    assert kernel.host.pinned_bytes == 2 * PAGE


def test_a_file_that_is_no_memory_is_refused_when_it_is_pinned(
    kernel: Any, context: int, ioas: int, tmp_path: Any, refused: Any
) -> None:
    path = tmp_path / "plain"
    path.write_bytes(bytes(PAGE))
    with open("/dev/null", "rb") as file:
        kernel.map_file(context, ioas, file.fileno(), PAGE, iova=0)
        device = kernel.cdev(A)
        kernel.bind(device, context)
        with refused(errno.EINVAL):
            kernel.attach(device, ioas)


def test_a_file_must_be_long_enough(
    kernel: Any, context: int, ioas: int, attached: int, memory_file: int, refused: Any
) -> None:
    with refused(errno.EINVAL):
        kernel.map_file(context, ioas, memory_file, 5 * PAGE, iova=0)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"length": 0}, errno.EINVAL),
        ({"start": TOP, "length": PAGE}, errno.EOVERFLOW),
        ({"fd": 9999}, errno.EBADF),
        ({"fd": -1}, errno.EBADF),
    ],
)
def test_a_file_map_that_cannot_be_is_refused(
    kernel: Any,
    context: int,
    ioas: int,
    memory_file: int,
    refused: Any,
    fields: dict[str, int],
    code: int,
) -> None:
    wanted = {"flags": FIXED | READ, "ioas_id": ioas, "fd": memory_file, "length": PAGE} | fields
    with refused(code):
        kernel.command(context, iommufd.IOMMU_IOAS_MAP_FILE, iommufd.iommu_ioas_map_file, **wanted)


def test_only_files_survive_a_change_of_process(
    kernel: Any, context: int, ioas: int, memory_file: int, buffer: Any, refused: Any
) -> None:
    change = (iommufd.IOMMU_IOAS_CHANGE_PROCESS, iommufd.iommu_ioas_change_process)
    kernel.map_file(context, ioas, memory_file, PAGE, iova=0)
    kernel.command(context, *change)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, PAGE)
    with refused(errno.EINVAL):
        kernel.command(context, *change)


# -- copy --------------------------------------------------------------------------------------
def test_a_copy_shows_the_same_pages_and_pins_them_once(
    kernel: Any, context: int, ioas: int, attached: int, buffer: Any
) -> None:
    other = kernel.ioas(context)
    second = kernel.cdev(B)
    kernel.bind(second, context)
    kernel.attach(second, other)
    memory = buffer(4)
    kernel.ioas_map(context, ioas, memory.address, 4 * PAGE, 0)
    kernel.ioas_copy(context, other, ioas, 2 * PAGE, to=1 << 30, at=PAGE)
    assert kernel.host.pinned_bytes == 4 * PAGE
    kernel.device(B).dma.write((1 << 30) + PAGE, b"shared")
    assert memory.map[2 * PAGE : 2 * PAGE + 6] == b"shared"
    kernel.ioas_unmap(context, ioas, 0, 4 * PAGE)
    assert kernel.host.pinned_bytes == 2 * PAGE
    assert kernel.device(B).dma.read((1 << 30) + PAGE, 6) == b"shared"


def test_a_copy_may_span_maps_that_lie_back_to_back(
    kernel: Any, context: int, ioas: int, buffer: Any, refused: Any
) -> None:
    memory = buffer(2)
    kernel.ioas_map(context, ioas, memory.address, PAGE, 0)
    kernel.ioas_map(context, ioas, memory.address, PAGE, 2 * PAGE)
    with refused(errno.ENOENT):
        kernel.ioas_copy(context, ioas, ioas, 3 * PAGE, to=1 << 30, at=0)
    kernel.ioas_map(context, ioas, memory.address, PAGE, PAGE)
    kernel.ioas_copy(context, ioas, ioas, 3 * PAGE, to=1 << 30, at=0)
    assert kernel.ioas_unmap(context, ioas, 1 << 30, 3 * PAGE) == 3 * PAGE


def test_a_copy_grants_no_more_than_the_pages_have(
    kernel: Any, context: int, ioas: int, buffer: Any, refused: Any
) -> None:
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0, READ)
    with refused(errno.EPERM):
        kernel.ioas_copy(context, ioas, ioas, PAGE, to=1 << 30, at=0)
    kernel.ioas_copy(context, ioas, ioas, PAGE, to=1 << 30, at=0, flags=READ | FIXED)


def test_a_copy_looks_for_its_source_before_its_target(
    kernel: Any, context: int, ioas: int, buffer: Any, refused: Any
) -> None:
    with refused(errno.EINVAL):
        kernel.ioas_copy(context, 99, ioas, 0, to=0, at=0)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    with refused(errno.ENOENT):
        kernel.ioas_copy(context, 99, ioas, PAGE, to=0, at=0)


def test_a_copy_of_a_range_that_wraps_is_refused(
    kernel: Any, context: int, ioas: int, refused: Any
) -> None:
    with refused(errno.EOVERFLOW):
        kernel.ioas_copy(context, ioas, ioas, 2 * PAGE, to=0, at=TOP - PAGE + 1)


def test_a_copy_that_fails_on_the_way_leaves_nothing(
    kernel: Any, context: int, ioas: int, buffer: Any, refused: Any
) -> None:
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, PAGE, READ)
    with refused(errno.EPERM):
        kernel.ioas_copy(context, ioas, ioas, 2 * PAGE, to=1 << 30, at=0)
    assert kernel.ioas_unmap(context, ioas, 0, TOP) == 2 * PAGE


# -- unmap -------------------------------------------------------------------------------------
def test_unmap_takes_maps_and_gaps_and_says_how_much(
    kernel: Any, context: int, ioas: int, buffer: Any
) -> None:
    memory = buffer(1)
    for iova in (0, 4 * PAGE):
        kernel.ioas_map(context, ioas, memory.address, PAGE, iova)
    assert kernel.ioas_unmap(context, ioas, 0, 100 * PAGE) == 2 * PAGE


def test_unmapping_nothing_is_an_error_unless_everything_is_meant(
    kernel: Any, context: int, ioas: int, refused: Any
) -> None:
    with refused(errno.ENOENT):
        kernel.ioas_unmap(context, ioas, 0, PAGE)
    assert kernel.ioas_unmap(context, ioas, 0, TOP) == 0


def test_a_cut_is_refused_after_what_lies_before_it_went(
    kernel: Any, context: int, ioas: int, buffer: Any, refused: Any
) -> None:
    memory = buffer(2)
    kernel.ioas_map(context, ioas, memory.address, PAGE, 0)
    kernel.ioas_map(context, ioas, memory.address, 2 * PAGE, PAGE)
    with refused(errno.ENOENT):
        kernel.ioas_unmap(context, ioas, 0, 2 * PAGE)
    assert kernel.ioas_unmap(context, ioas, 0, TOP) == 2 * PAGE


@pytest.mark.parametrize(
    ("iova", "length", "code"),
    [
        (0, 0, errno.EINVAL),
        (TOP, PAGE, errno.EOVERFLOW),
        (PAGE, TOP, errno.EOVERFLOW),
        (TOP - 1, 3, errno.EOVERFLOW),
    ],
)
def test_an_unmap_that_cannot_be_is_refused(
    kernel: Any, context: int, ioas: int, refused: Any, iova: int, length: int, code: int
) -> None:
    with refused(code):
        kernel.ioas_unmap(context, ioas, iova, length)


# -- memory lock -------------------------------------------------------------------------------
def test_the_limit_is_the_users_and_shared_by_all_iommufds(
    machine: Any, buffer: Any, refused: Any
) -> None:
    kernel = machine(memlock_limit=3 * PAGE)
    memory = buffer(2)
    first, one, _device = kernel.attached(A)
    second, other, _device = kernel.attached(B)
    kernel.ioas_map(first, one, memory.address, 2 * PAGE, 0)
    with refused(errno.ENOMEM):
        kernel.ioas_map(second, other, memory.address, 2 * PAGE, 0)
    with refused(errno.ENOENT):
        kernel.ioas_unmap(second, other, 0, PAGE)


def test_who_may_lock_memory_is_not_counted(machine: Any, buffer: Any) -> None:
    kernel = machine(memlock_limit=0, cap_ipc_lock=True)
    context, ioas, _device = kernel.attached(A)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)


def test_the_limit_shows_when_a_device_attaches(machine: Any, buffer: Any, refused: Any) -> None:
    kernel = machine(memlock_limit=PAGE)
    context = kernel.open("/dev/iommu")
    device = kernel.cdev(A)
    kernel.bind(device, context)
    ioas = kernel.ioas(context)
    kernel.ioas_map(context, ioas, buffer(2).address, 2 * PAGE, 0)
    with refused(errno.ENOMEM):
        kernel.attach(device, ioas)
    assert kernel.host.pinned_bytes == 0


# -- options -----------------------------------------------------------------------------------
def option(kernel: Any, context: int, **fields: int) -> int:
    return int(kernel.command(context, iommufd.IOMMU_OPTION, iommufd.iommu_option, **fields).val64)


GET, SET = iommufd.IOMMU_OPTION_OP_GET, iommufd.IOMMU_OPTION_OP_SET
RLIMIT, HUGE = iommufd.IOMMU_OPTION_RLIMIT_MODE, iommufd.IOMMU_OPTION_HUGE_PAGES


def test_the_account_is_chosen_before_anything_exists(
    kernel: Any, context: int, refused: Any
) -> None:
    option(kernel, context, option_id=RLIMIT, op=SET, val64=1)
    assert option(kernel, context, option_id=RLIMIT, op=GET) == 1
    with refused(errno.EINVAL):
        option(kernel, context, option_id=RLIMIT, op=SET, val64=2)
    kernel.ioas(context)
    with refused(errno.EBUSY):
        option(kernel, context, option_id=RLIMIT, op=SET, val64=0)


def test_the_account_is_for_the_privileged(machine: Any, refused: Any) -> None:
    kernel = machine(cap_sys_resource=False)
    with refused(errno.EPERM):
        option(kernel, kernel.open("/dev/iommu"), option_id=RLIMIT, op=SET, val64=1)


def test_large_pages_are_given_up_for_finer_unmaps(
    kernel: Any, context: int, ioas: int, refused: Any
) -> None:
    option(kernel, context, option_id=HUGE, op=SET, object_id=ioas, val64=0)
    assert option(kernel, context, option_id=HUGE, op=GET, object_id=ioas) == 0
    assert kernel.ranges(context, ioas)[2] == PAGE
    with refused(errno.EINVAL):
        option(kernel, context, option_id=HUGE, op=SET, object_id=ioas, val64=2)


def test_large_pages_stay_while_a_page_table_shows_a_mapping(
    kernel: Any, context: int, ioas: int, attached: int, buffer: Any, refused: Any
) -> None:
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    option(kernel, context, option_id=HUGE, op=SET, object_id=ioas, val64=1)  # as it is
    with refused(errno.EINVAL):
        option(kernel, context, option_id=HUGE, op=SET, object_id=ioas, val64=0)


def test_large_pages_can_come_back(kernel: Any, context: int, ioas: int) -> None:
    for wanted, alignment in ((0, PAGE), (1, 1)):
        option(kernel, context, option_id=HUGE, op=SET, object_id=ioas, val64=wanted)
        assert kernel.ranges(context, ioas)[2] == alignment


@pytest.mark.parametrize("fields", [{"option_id": 7}, {"op": 2}, {"object_id": 1}])
def test_an_option_that_does_not_exist_is_not_supported(
    kernel: Any, context: int, refused: Any, fields: dict[str, int]
) -> None:
    with refused(errno.EOPNOTSUPP):
        option(kernel, context, **({"option_id": RLIMIT, "op": GET} | fields))


# -- page tables -------------------------------------------------------------------------------
def test_a_page_table_can_be_made_by_hand(
    kernel: Any, context: int, ioas: int, attached: int, buffer: Any
) -> None:
    kernel.detach(attached)
    memory = buffer(1)
    kernel.ioas_map(context, ioas, memory.address, PAGE, 0)
    hwpt = kernel.hwpt(context, 2, ioas)
    assert kernel.host.pinned_bytes == PAGE  # it is filled at once
    assert kernel.attach(attached, hwpt) == hwpt
    kernel.device(A).dma.write(0, b"by hand")
    assert memory.map[:7] == b"by hand"
    kernel.detach(attached)
    kernel.destroy(context, hwpt)
    assert kernel.host.pinned_bytes == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 1 << 8}, errno.EOPNOTSUPP),
        ({"data_len": 8}, errno.EINVAL),
        ({"data_type": 1}, errno.EINVAL),
        ({"device": 99}, errno.ENOENT),
        ({"parent": 99}, errno.EINVAL),
        ({"flags": iommufd.IOMMU_HWPT_ALLOC_NEST_PARENT}, errno.EOPNOTSUPP),
    ],
)
def test_a_page_table_that_cannot_be_made_is_refused(
    kernel: Any, context: int, ioas: int, attached: int, refused: Any, fields: Any, code: int
) -> None:
    wanted = {"device": 2, "parent": ioas} | fields
    with refused(code):
        kernel.hwpt(context, **wanted)


def dirty_pages(kernel: Any, context: int, hwpt: int, pages: int, flags: int = 0) -> set[int]:
    bitmap = (ctypes.c_uint8 * 8)()
    kernel.command(
        context,
        iommufd.IOMMU_HWPT_GET_DIRTY_BITMAP,
        iommufd.iommu_hwpt_get_dirty_bitmap,
        hwpt_id=hwpt,
        flags=flags,
        length=pages * PAGE,
        page_size=PAGE,
        data=ctypes.addressof(bitmap),
    )
    bits = int.from_bytes(bytes(bitmap), "little")
    return {number for number in range(64) if bits >> number & 1}


def track(kernel: Any, context: int, hwpt: int, flags: int) -> None:
    kernel.command(
        context,
        iommufd.IOMMU_HWPT_SET_DIRTY_TRACKING,
        iommufd.iommu_hwpt_set_dirty_tracking,
        hwpt_id=hwpt,
        flags=flags,
    )


def test_a_tracking_page_table_tells_which_pages_were_written(
    kernel: Any, context: int, ioas: int, attached: int, buffer: Any
) -> None:
    kernel.detach(attached)
    hwpt = kernel.hwpt(context, 2, ioas, iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    kernel.attach(attached, hwpt)
    kernel.ioas_map(context, ioas, buffer(8).address, 8 * PAGE, 0)
    port = kernel.device(A).dma
    port.write(0, b"before")
    track(kernel, context, hwpt, iommufd.IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
    port.write(3 * PAGE - 1, b"two")
    port.read(6 * PAGE, 8)
    peek = iommufd.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
    assert dirty_pages(kernel, context, hwpt, 8, peek) == {2, 3}
    assert dirty_pages(kernel, context, hwpt, 8) == {2, 3}
    assert dirty_pages(kernel, context, hwpt, 8) == set()
    port.write(0, b"again")
    track(kernel, context, hwpt, 0)
    assert dirty_pages(kernel, context, hwpt, 8) == set()


def test_a_report_has_only_the_pages_of_its_range(
    kernel: Any, context: int, ioas: int, attached: int, buffer: Any
) -> None:
    kernel.detach(attached)
    hwpt = kernel.hwpt(context, 2, ioas, iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    kernel.attach(attached, hwpt)
    kernel.ioas_map(context, ioas, buffer(8).address, 8 * PAGE, 0)
    track(kernel, context, hwpt, iommufd.IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
    for page in (1, 6):
        kernel.device(A).dma.write(page * PAGE, b"x")
    assert dirty_pages(kernel, context, hwpt, 4) == {1}
    assert dirty_pages(kernel, context, hwpt, 8) == {6}


def test_an_iommu_without_dirty_bits_makes_no_tracking_page_table(
    machine: Any, refused: Any
) -> None:
    from vfiocore_sim.topology import IommuModel, Topology

    program = machine().device(A).__class__
    topology = Topology().pci(A, program, group=1)
    kernel = machine(topology.iommu(1, IommuModel(dirty_tracking=False)))
    context = kernel.open("/dev/iommu")
    device = kernel.bind(kernel.cdev(A), context)
    with refused(errno.EOPNOTSUPP):
        kernel.hwpt(context, device, kernel.ioas(context), iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)


def test_a_page_table_without_tracking_says_so(
    kernel: Any, context: int, ioas: int, attached: int, refused: Any
) -> None:
    hwpt = kernel.hwpt(context, 2, ioas)
    with refused(errno.EOPNOTSUPP):
        track(kernel, context, hwpt, 1)
    with refused(errno.EOPNOTSUPP):
        dirty_pages(kernel, context, hwpt, 1)


def test_hardware_info_is_cut_to_the_room_and_tells_its_length(machine: Any) -> None:
    from vfiocore_sim.topology import IommuModel, Topology

    program = machine().device(A).__class__
    model = IommuModel(hw_info_type=iommufd.IOMMU_HW_INFO_TYPE_INTEL_VTD, hw_info_data=b"12345678")
    kernel = machine(Topology().pci(A, program, group=1).iommu(1, model))
    context = kernel.open("/dev/iommu")
    device = kernel.bind(kernel.cdev(A), context)
    room = (ctypes.c_char * 4)()
    info = kernel.command(
        context,
        iommufd.IOMMU_GET_HW_INFO,
        iommufd.iommu_hw_info,
        dev_id=device,
        data_len=4,
        data_uptr=ctypes.addressof(room),
    )
    assert (room.raw, info.data_len) == (b"1234", 8)
    assert info.out_data_type == iommufd.IOMMU_HW_INFO_TYPE_INTEL_VTD
    abilities = iommufd.IOMMU_HW_CAP_DIRTY_TRACKING | iommufd.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
    assert info.out_capabilities == abilities
