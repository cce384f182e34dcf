"""MAP_DMA and UNMAP_DMA of a container."""

from __future__ import annotations

import errno
import functools
import mmap
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfiocore.uapi import vfio
from vfiocore_sim.device import DmaFault
from vfiocore_sim.topology import IommuModel, Topology

PAGE = mmap.PAGESIZE
READ, WRITE = vfio.VFIO_DMA_MAP_FLAG_READ, vfio.VFIO_DMA_MAP_FLAG_WRITE
VADDR = vfio.VFIO_DMA_MAP_FLAG_VADDR
ALL, UNMAP_VADDR = vfio.VFIO_DMA_UNMAP_FLAG_ALL, vfio.VFIO_DMA_UNMAP_FLAG_VADDR
TOP = 1 << 64


@pytest.fixture
def container(kernel: Any) -> int:
    return int(kernel.container_with(1)[0])


# -- GET_INFO ----------------------------------------------------------------------------------
def test_info_has_its_capabilities_in_the_kernels_order(kernel: Any, container: int) -> None:
    info = kernel.info(container)
    assert info.order == [
        vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
        vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
        vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    ]
    assert info.cap_offset == 24
    assert info.page_sizes & -info.page_sizes == PAGE


def test_x86_has_a_hole_for_interrupts(kernel: Any, container: int) -> None:
    low, high = (0, 0xFEDFFFFF), (0xFEF00000, (1 << 48) - 1)
    assert kernel.info(container).ranges == [low, high]


def test_a_short_buffer_learns_how_much_room_it_needs(kernel: Any, container: int) -> None:
    short = kernel.info(container, 24)
    assert short.cap_offset == 0
    assert short.flags & vfio.VFIO_IOMMU_INFO_CAPS
    full = kernel.info(container, short.argsz)
    assert full.cap_offset == 24
    assert full.argsz == short.argsz


def test_a_caller_of_the_first_version_is_not_overrun(kernel: Any, container: int) -> None:
    data = bytearray(struct.pack("=IIQ", 16, 0, 0) + b"\xaa" * 8)
    kernel.ioctl(container, vfio.VFIO_IOMMU_GET_INFO, data)
    assert data[16:] == b"\xaa" * 8


def test_info_refuses_less_than_its_first_version(
    kernel: Any, container: int, refused: Any
) -> None:
    with refused(errno.EINVAL):
        kernel.ioctl(container, vfio.VFIO_IOMMU_GET_INFO, bytearray(struct.pack("=IIQ", 15, 0, 0)))


def test_an_emulated_container_has_no_ranges_and_all_page_sizes(with_mdev: Any) -> None:
    info = with_mdev.info(with_mdev.container_with(2)[0])
    assert vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE not in info.capabilities
    assert info.page_sizes == TOP - PAGE


# -- MAP ---------------------------------------------------------------------------------------
def test_a_mapping_lets_the_device_read_and_write(kernel: Any, container: int, buffer: Any) -> None:
    group = kernel.open("/dev/vfio/2")
    kernel.set_container(group, container)
    kernel.device_fd(group, "0000:02:00.0")
    memory = buffer(2)
    kernel.map(container, 0x10000, memory.address, memory.size)
    port = kernel.device("0000:02:00.0").dma
    port.write(0x10000 + PAGE - 2, b"over the edge")
    assert memory.map[PAGE - 2 : PAGE + 11] == b"over the edge"
    assert port.read(0x10000 + PAGE - 2, 13) == b"over the edge"


def test_an_access_runs_through_neighbouring_mappings(kernel: Any, buffer: Any) -> None:
    container, (group,) = kernel.container_with(1)
    kernel.device_fd(group, "0000:01:00.0")
    first, second = buffer(1), buffer(1)
    kernel.map(container, 0, first.address, PAGE)
    kernel.map(container, PAGE, second.address, PAGE)
    kernel.device("0000:01:00.0").dma.write(PAGE - 1, b"ab")
    assert (first.map[PAGE - 1], second.map[0]) == (ord("a"), ord("b"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 8 | READ}, errno.EINVAL),
        ({"size": 0}, errno.EINVAL),
        ({"iova": TOP - PAGE, "size": 2 * PAGE}, errno.EOVERFLOW),
        ({"vaddr": TOP - PAGE, "size": 2 * PAGE}, errno.EOVERFLOW),
        ({"flags": 0}, errno.EINVAL),
        ({"flags": READ | VADDR}, errno.EINVAL),
        ({"iova": 1}, errno.EINVAL),
        ({"size": PAGE + 1}, errno.EINVAL),
        ({"flags": VADDR}, errno.ENOENT),
        ({"iova": 0xFEE00000}, errno.EINVAL),
        ({"iova": 1 << 48}, errno.EINVAL),
        ({"iova": TOP - PAGE}, errno.EINVAL),
        ({"vaddr": PAGE}, errno.EFAULT),
    ],
)
def test_a_map_that_cannot_be_is_refused_and_leaves_nothing(
    kernel: Any, container: int, buffer: Any, refused: Any, fields: dict[str, int], code: int
) -> None:
    wanted = {"iova": 0, "vaddr": buffer(1).address, "size": PAGE, "flags": READ | WRITE} | fields
    with refused(code):
        kernel.map(container, **wanted)
    assert kernel.host.pinned_bytes == 0
    assert kernel.info(container).available == 65535


def test_the_end_of_the_address_space_is_no_wrap(with_mdev: Any, buffer: Any) -> None:
    container, _groups = with_mdev.container_with(2)
    with_mdev.map(container, TOP - PAGE, buffer(1).address, PAGE)


@pytest.mark.parametrize("iova", [0, PAGE, 2 * PAGE])
def test_an_overlap_is_refused(
    kernel: Any, container: int, buffer: Any, refused: Any, iova: int
) -> None:
    memory = buffer(3)
    kernel.map(container, 0, memory.address, memory.size)
    with refused(errno.EEXIST):
        kernel.map(container, iova, memory.address, PAGE)


def test_each_map_takes_an_entry_and_each_unmap_gives_it_back(
    machine: Any, buffer: Any, refused: Any
) -> None:
    kernel = machine(dma_entry_limit=2)
    container, _groups = kernel.container_with(1)
    memory = buffer(1)
    for number in range(2):
        kernel.map(container, number * PAGE, memory.address, PAGE)
    assert kernel.info(container).available == 0
    with refused(errno.ENOSPC):
        kernel.map(container, 2 * PAGE, memory.address, PAGE)
    kernel.unmap(container, 0, PAGE)
    kernel.map(container, 2 * PAGE, memory.address, PAGE)


def test_read_only_memory_backs_read_only_maps(
    kernel: Any, container: int, buffer: Any, refused: Any
) -> None:
    memory = buffer(40, prot=mmap.PROT_READ)
    for size in (PAGE, memory.size):
        with refused(errno.EFAULT):
            kernel.map(container, 0, memory.address, size)
        kernel.map(container, 0, memory.address, size, READ)
        kernel.unmap(container, 0, size)


def test_memory_that_is_gone_cannot_be_mapped(
    kernel: Any, container: int, buffer: Any, refused: Any
) -> None:
    memory = buffer(64)
    memory.map.close()
    for size in (PAGE, memory.size):
        with refused(errno.EFAULT):
            kernel.map(container, 0, memory.address, size)


def test_the_permissions_of_a_mapping_bind_the_device(kernel: Any, buffer: Any) -> None:
    container, (group,) = kernel.container_with(1)
    kernel.device_fd(group, "0000:01:00.0")
    port = kernel.device("0000:01:00.0").dma
    kernel.map(container, 0, buffer(1).address, PAGE, READ)
    port.read(0, 4)
    with pytest.raises(DmaFault):
        port.write(0, b"no")


# -- faults ------------------------------------------------------------------------------------
def test_an_unmapped_access_is_a_recorded_fault_and_moves_nothing(kernel: Any, buffer: Any) -> None:
    container, (group,) = kernel.container_with(1)
    kernel.device_fd(group, "0000:01:00.0")
    memory = buffer(1)
    kernel.map(container, 0, memory.address, PAGE)
    with pytest.raises(DmaFault, match="0x1000 is not mapped"):
        kernel.device("0000:01:00.0").dma.write(0xFFE, b"crossing")
    (fault,) = kernel.host.faults
    assert (fault.device, fault.iova, fault.size, fault.write) == ("0000:01:00.0", 0xFFE, 8, True)
    assert memory.map[0xFFE:] == b"\0\0"


def test_memory_that_vanished_under_a_mapping_is_a_fault(kernel: Any, buffer: Any) -> None:
    container, (group,) = kernel.container_with(1)
    kernel.device_fd(group, "0000:01:00.0")
    memory = buffer(1)
    kernel.map(container, 0, memory.address, PAGE)
    memory.map.close()
    with pytest.raises(DmaFault, match="gone"):
        kernel.device("0000:01:00.0").dma.read(0, 4)
    with pytest.raises(DmaFault, match="gone"):
        kernel.device("0000:01:00.0").dma.write(0, b"late")
    assert [fault.write for fault in kernel.host.faults] == [False, True]


def test_a_device_that_is_not_open_reaches_nothing(kernel: Any) -> None:
    with pytest.raises(DmaFault, match="no domain"):
        kernel.device("0000:01:00.0").dma.read(0, 4)


def test_a_device_that_was_closed_reaches_nothing_any_more(kernel: Any, buffer: Any) -> None:
    container, (group,) = kernel.container_with(1)
    device = kernel.device_fd(group, "0000:01:00.0")
    kernel.map(container, 0, buffer(1).address, PAGE)
    kernel.device("0000:01:00.0").dma.write(0, b"x")
    kernel.close(device)
    with pytest.raises(DmaFault, match="no domain"):
        kernel.device("0000:01:00.0").dma.write(0, b"x")


def test_an_access_of_no_bytes_reaches_nothing_and_is_no_fault(kernel: Any) -> None:
    _container, (group,) = kernel.container_with(1)
    kernel.device_fd(group, "0000:01:00.0")
    assert kernel.device("0000:01:00.0").dma.read(0, 0) == b""
    kernel.device("0000:01:00.0").dma.write(0, b"")
    assert kernel.host.faults == []


# -- memory lock -------------------------------------------------------------------------------
def test_mapped_memory_counts_against_the_limit(machine: Any, buffer: Any, refused: Any) -> None:
    kernel = machine(memlock_limit=3 * PAGE)
    container, _groups = kernel.container_with(1)
    memory = buffer(2)
    kernel.map(container, 0, memory.address, 2 * PAGE)
    with refused(errno.ENOMEM):
        kernel.map(container, 4 * PAGE, memory.address, 2 * PAGE)  # counted for each mapping
    kernel.unmap(container, 0, 2 * PAGE)
    kernel.map(container, 4 * PAGE, memory.address, 2 * PAGE)


def test_who_may_lock_memory_is_counted_but_not_limited(machine: Any, buffer: Any) -> None:
    kernel = machine(memlock_limit=0, cap_ipc_lock=True)
    container, _groups = kernel.container_with(1)
    kernel.map(container, 0, buffer(1).address, PAGE)
    assert kernel.host.pinned_bytes == PAGE


def test_an_emulated_container_counts_what_the_driver_pins(
    machine: Any, with_mdev: Any, buffer: Any
) -> None:
    kernel = with_mdev
    container, (group,) = kernel.container_with(2)
    kernel.device_fd(group, kernel.mdev)
    kernel.map(container, 0, buffer(4).address, 4 * PAGE)
    assert kernel.host.pinned_bytes == 0
    device = kernel.device(kernel.mdev)
    device.hold(PAGE, PAGE)
    device.hold(PAGE, 2 * PAGE)
    assert kernel.host.pinned_bytes == 2 * PAGE


def test_device_registers_can_be_mapped_and_are_not_counted(kernel: Any) -> None:
    from vfiocore_sim.kernel.memory import addresses

    container, (group,) = kernel.container_with(1)
    device = kernel.device_fd(group, "0000:01:00.0")
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    with kernel.host.mmap(device, PAGE, prot=protection, flags=mmap.MAP_SHARED) as registers:
        kernel.map(container, 0, addresses(registers).first, PAGE)
        assert kernel.host.pinned_bytes == 0


# -- UNMAP -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 8}, errno.EINVAL),
        ({"flags": 1 | ALL}, errno.EINVAL),
        ({"iova": 1}, errno.EINVAL),
        ({"size": 0}, errno.EINVAL),
        ({"size": PAGE - 1}, errno.EINVAL),
        ({"iova": TOP - PAGE, "size": 2 * PAGE}, errno.EOVERFLOW),
        ({"flags": ALL}, errno.EINVAL),
        ({"iova": PAGE, "size": PAGE}, errno.EINVAL),
        ({"iova": 0, "size": PAGE}, errno.EINVAL),
    ],
)
def test_an_unmap_that_cannot_be_is_refused_and_changes_nothing(
    kernel: Any, container: int, buffer: Any, refused: Any, fields: dict[str, int], code: int
) -> None:
    kernel.map(container, 0, buffer(2).address, 2 * PAGE)
    wanted = {"iova": 0, "size": 2 * PAGE, "flags": 0} | fields
    with refused(code):
        kernel.unmap(container, **wanted)
    assert kernel.host.pinned_bytes == 2 * PAGE


def test_unmap_takes_whole_mappings_across_gaps_and_says_how_much(
    kernel: Any, container: int, buffer: Any
) -> None:
    memory = buffer(1)
    kernel.map(container, 0, memory.address, PAGE)
    kernel.map(container, 4 * PAGE, memory.address, PAGE)
    assert kernel.unmap(container, 0, 8 * PAGE) == 2 * PAGE


def test_unmapping_nothing_succeeds_with_size_0(kernel: Any, container: int) -> None:
    assert kernel.unmap(container, 0, PAGE) == 0
    assert kernel.unmap(container, 0, 0, ALL) == 0


def test_everything_can_be_unmapped_at_once(kernel: Any, container: int, buffer: Any) -> None:
    memory = buffer(1)
    for iova in (0, 8 * PAGE, 1 << 40):
        kernel.map(container, iova, memory.address, PAGE)
    assert kernel.unmap(container, 0, 0, ALL) == 3 * PAGE
    assert kernel.host.pinned_bytes == 0


def test_version_1_takes_every_mapping_that_starts_in_the_range(kernel: Any, buffer: Any) -> None:
    container, _groups = kernel.container_with(1, kind=vfio.VFIO_TYPE1_IOMMU)
    memory = buffer(2)
    kernel.map(container, 0, memory.address, 2 * PAGE)
    kernel.map(container, 2 * PAGE, memory.address, 2 * PAGE)
    assert kernel.unmap(container, PAGE, 2 * PAGE) == 0
    assert kernel.unmap(container, 0, 3 * PAGE) == 4 * PAGE


def test_a_driver_lets_go_of_pages_that_are_unmapped(with_mdev: Any, buffer: Any) -> None:
    kernel = with_mdev
    container, (group,) = kernel.container_with(2)
    kernel.device_fd(group, kernel.mdev)
    kernel.map(container, 0, buffer(2).address, 2 * PAGE)
    device = kernel.device(kernel.mdev)
    device.hold(0, PAGE)
    kernel.unmap(container, 0, 2 * PAGE)
    assert device.diary == ["open", f"unmap 0x0 {2 * PAGE:#x}"]
    assert kernel.host.pinned_bytes == 0


@pytest.mark.parametrize(
    ("flags", "iova", "code"), [(READ | WRITE, PAGE, errno.EINVAL), (READ, 0, errno.EPERM)]
)
def test_a_driver_pins_what_is_mapped_for_it(
    with_mdev: Any, buffer: Any, refused: Any, flags: int, iova: int, code: int
) -> None:
    kernel = with_mdev
    container, (group,) = kernel.container_with(2)
    kernel.device_fd(group, kernel.mdev)
    kernel.map(container, 0, buffer(1).address, PAGE, flags)
    with refused(code):
        kernel.device(kernel.mdev).hold(iova, PAGE)


def test_a_page_of_a_container_is_pinned_until_it_was_unpinned_as_often(
    with_mdev: Any, buffer: Any
) -> None:
    kernel = with_mdev
    container, (group,) = kernel.container_with(2)
    kernel.device_fd(group, kernel.mdev)
    kernel.map(container, 0, buffer(2).address, 2 * PAGE)
    port = kernel.device(kernel.mdev).dma
    for _ in range(2):
        port.pin(0, 2 * PAGE, write=True)
    port.unpin(0, 2 * PAGE)
    assert kernel.host.pinned_bytes == 2 * PAGE
    port.unpin(0, 2 * PAGE)
    assert kernel.host.pinned_bytes == 0
    port.unpin(0, 4 * PAGE)  # neither pinned nor all mapped
    assert kernel.host.pinned_bytes == 0


def test_a_pin_in_a_container_that_fails_on_the_way_holds_nothing(
    with_mdev: Any, buffer: Any, refused: Any
) -> None:
    kernel = with_mdev
    container, (group,) = kernel.container_with(2)
    kernel.device_fd(group, kernel.mdev)
    kernel.map(container, 0, buffer(1).address, PAGE)
    with refused(errno.EINVAL):
        kernel.device(kernel.mdev).dma.pin(0, 2 * PAGE, write=True)
    assert kernel.host.pinned_bytes == 0


def test_an_unknown_request_to_a_container_is_no_typewriter(
    kernel: Any, container: int, refused: Any
) -> None:
    with refused(errno.ENOTTY):
        kernel.ioctl(container, 0x3B40)


def test_the_iommus_page_sizes_below_a_page_are_replaced_by_a_page(machine: Any) -> None:
    program = machine().device("0000:01:00.0").__class__
    topology = Topology().pci("0000:01:00.0", program, group=1)
    small = PAGE // 2
    topology.iommu(1, IommuModel(page_sizes=small | PAGE << 9))
    kernel = machine(topology)
    container, _groups = kernel.container_with(1)
    assert kernel.info(container).page_sizes == PAGE | PAGE << 9


def test_the_driver_of_a_device_with_an_iommu_pins_nothing(
    kernel: Any, buffer: Any, refused: Any
) -> None:
    name = "0000:01:00.0"
    container, (group,) = kernel.container_with(1)
    kernel.device_fd(group, name)
    kernel.map(container, 0, buffer(1).address, PAGE)
    with refused(errno.EINVAL):
        kernel.device(name).dma.pin(0, PAGE, write=True)


def test_version_1_has_no_pinning(with_mdev: Any, buffer: Any, refused: Any) -> None:
    kernel = with_mdev
    container, (group,) = kernel.container_with(2, kind=vfio.VFIO_TYPE1_IOMMU)
    kernel.device_fd(group, kernel.mdev)
    kernel.map(container, 0, buffer(1).address, PAGE)
    with refused(errno.EACCES):
        kernel.device(kernel.mdev).hold(0, PAGE)


def test_a_real_group_that_joins_pins_what_the_emulated_one_did_not(
    with_mdev: Any, buffer: Any
) -> None:
    kernel = with_mdev
    container, (group,) = kernel.container_with(2)
    kernel.device_fd(group, kernel.mdev)
    kernel.map(container, 0, buffer(4).address, 4 * PAGE)
    kernel.device(kernel.mdev).hold(0, PAGE)
    real = kernel.open("/dev/vfio/1")
    kernel.set_container(real, container)
    assert kernel.host.pinned_bytes == 4 * PAGE
    kernel.unset_container(real)
    assert kernel.host.pinned_bytes == PAGE


def test_a_group_does_not_join_when_the_mappings_cannot_be_pinned(
    with_mdev: Any, buffer: Any, refused: Any
) -> None:
    kernel = with_mdev
    container, _groups = kernel.container_with(2)
    memory = buffer(1)
    kernel.map(container, 0, memory.address, PAGE)
    kernel.map(container, PAGE, PAGE, PAGE)
    real = kernel.open("/dev/vfio/1")
    with refused(errno.EFAULT):
        kernel.set_container(real, container)
    assert kernel.host.pinned_bytes == 0
    kernel.unmap(container, PAGE, PAGE)
    kernel.set_container(real, container)


# -- vaddr -------------------------------------------------------------------------------------
def test_the_vaddr_of_a_mapping_can_be_replaced(
    kernel: Any, container: int, buffer: Any, refused: Any
) -> None:
    old, new = buffer(2), buffer(2)
    kernel.map(container, 0, old.address, 2 * PAGE)
    with refused(errno.EINVAL):
        kernel.map(container, 0, new.address, 2 * PAGE, VADDR)
    assert kernel.unmap(container, 0, 2 * PAGE, UNMAP_VADDR) == 2 * PAGE
    with refused(errno.EINVAL):
        kernel.unmap(container, 0, 2 * PAGE, UNMAP_VADDR)
    with refused(errno.EBUSY):
        kernel.set_container(kernel.open("/dev/vfio/2"), container)
    with refused(errno.EINVAL):
        kernel.map(container, 0, new.address, PAGE, VADDR)
    kernel.map(container, 0, new.address, 2 * PAGE, VADDR)
    kernel.unmap(container, 0, 0, UNMAP_VADDR | ALL)


def test_invalidating_is_rolled_back_when_one_is_invalid_already(
    kernel: Any, container: int, buffer: Any, refused: Any
) -> None:
    memory = buffer(1)
    kernel.map(container, 0, memory.address, PAGE)
    kernel.map(container, PAGE, memory.address, PAGE)
    kernel.unmap(container, PAGE, PAGE, UNMAP_VADDR)
    with refused(errno.EINVAL):
        kernel.unmap(container, 0, 0, UNMAP_VADDR | ALL)
    with refused(errno.EINVAL):
        kernel.map(container, 0, memory.address, PAGE, VADDR)  # it is valid


def test_emulated_devices_keep_the_vaddr(with_mdev: Any, buffer: Any, refused: Any) -> None:
    kernel = with_mdev
    container, _groups = kernel.container_with(2)
    kernel.map(container, 0, buffer(1).address, PAGE)
    with refused(errno.EBUSY):
        kernel.unmap(container, 0, PAGE, UNMAP_VADDR)


# -- as a model --------------------------------------------------------------------------------
@settings(deadline=None)  # each example makes a machine, and a busy computer takes its time
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 15), st.integers(1, 4)), min_size=1, max_size=30
    )
)
def test_any_sequence_of_maps_and_unmaps_agrees_with_a_page_by_page_model(
    steps: list[tuple[bool, int, int]],
) -> None:
    from vfiocore_sim.host import SimHost
    from vfiocore_sim.topology import Topology

    host = SimHost(Topology().pci("0000:01:00.0", _quiet_device, group=1), record=False)
    container, group = host.open("/dev/vfio/vfio"), host.open("/dev/vfio/1")
    host.ioctl(group, vfio.VFIO_GROUP_SET_CONTAINER, struct.pack("=i", container))
    host.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    owner: dict[int, int] = {}
    for number, (mapping, page, count) in enumerate(steps):
        pages = range(page, page + count)
        met = {owner[at] for at in pages if at in owner}
        size = count * PAGE
        if mapping:
            wanted = vfio.vfio_iommu_type1_dma_map(32, READ, _memory(), page * PAGE, size)
            code = _outcome(host, container, vfio.VFIO_IOMMU_MAP_DMA, wanted)
            assert code == (errno.EEXIST if met else 0)
            if not met:
                owner.update(dict.fromkeys(pages, number))
            continue
        arg = vfio.vfio_iommu_type1_dma_unmap(24, 0, page * PAGE, size)
        code = _outcome(host, container, vfio.VFIO_IOMMU_UNMAP_DMA, arg)
        cut = any(owner.get(at) in met for at in owner if at not in pages)
        assert code == (errno.EINVAL if cut else 0)
        if not cut:
            removed = [at for at in pages if at in owner]
            assert arg.size == len(removed) * PAGE
            for at in removed:
                del owner[at]
    assert host.pinned_bytes == len(owner) * PAGE
    host.close(group)
    host.close(container)
    assert host.pinned_bytes == 0


def _quiet_device() -> Any:
    from vfiocore_sim.device import SimDevice

    return SimDevice()


@functools.cache
def _shared() -> mmap.mmap:
    return mmap.mmap(-1, 16 * PAGE)


def _memory() -> int:
    from vfiocore_sim.kernel.memory import addresses

    return addresses(_shared()).first


def _outcome(host: Any, fd: int, request: int, arg: Any) -> int:
    try:
        host.ioctl(fd, request, arg)
    except OSError as error:
        return error.errno or -1
    return 0
