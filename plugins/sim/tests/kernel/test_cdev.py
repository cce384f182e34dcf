"""The device character device and its ties to an iommufd."""

from __future__ import annotations

import errno
import mmap
import struct
from typing import Any

import pytest

from vfiocore.uapi import iommufd, vfio
from vfiocore_sim.device import DmaFault
from vfiocore_sim.topology import IommuModel, Topology

PAGE = mmap.PAGESIZE
A, B, C = "0000:01:00.0", "0000:03:00.0", "0000:03:00.1"


def test_an_unbound_cdev_answers_bind_only(kernel: Any, refused: Any) -> None:
    device = kernel.cdev(A)
    with refused(errno.EINVAL):
        kernel.ioctl(device, vfio.VFIO_DEVICE_GET_INFO, bytearray(24))
    with refused(errno.EINVAL):
        kernel.attach(device, 1)
    with refused(errno.EINVAL):
        kernel.host.pread(device, 4, 0)
    with refused(errno.EINVAL):
        kernel.host.mmap(device, PAGE, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)


def test_bind_gives_the_devices_id_and_opens_its_driver(kernel: Any) -> None:
    device = kernel.cdev(A)
    assert kernel.bind(device, kernel.open("/dev/iommu")) == 1
    assert kernel.device(A).diary == ["open"]
    assert kernel.host.pread(device, 4, 0) == bytes(4)


def test_bind_of_the_first_version_has_no_token(kernel: Any) -> None:
    arg = bytearray(struct.pack("=IIiI", 16, 0, kernel.open("/dev/iommu"), 0))
    kernel.ioctl(kernel.cdev(A), vfio.VFIO_DEVICE_BIND_IOMMUFD, arg)
    assert struct.unpack("=IIiI", arg)[3] == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"argsz": 15}, errno.EINVAL),
        ({"iommufd": -1}, errno.EINVAL),
        ({"flags": 2}, errno.EINVAL),
        ({"iommufd": 9999}, errno.EBADF),
        ({"flags": 1, "token_uuid_ptr": 0}, errno.EFAULT),
    ],
)
def test_a_bind_that_cannot_be_is_refused(
    kernel: Any, refused: Any, fields: dict[str, int], code: int
) -> None:
    context, device = kernel.open("/dev/iommu"), kernel.cdev(A)
    with refused(code):
        kernel.bind(device, context, **fields)
    kernel.bind(device, context)


def test_bind_knows_no_more_than_its_struct(kernel: Any, refused: Any) -> None:
    arg = bytearray(struct.pack("=IIiIQQ", 32, 0, kernel.open("/dev/iommu"), 0, 0, 1))
    with refused(errno.E2BIG):
        kernel.ioctl(kernel.cdev(A), vfio.VFIO_DEVICE_BIND_IOMMUFD, arg)


def test_bind_takes_an_iommufd_only(kernel: Any, refused: Any) -> None:
    with refused(errno.EBADFD):
        kernel.bind(kernel.cdev(A), kernel.open("/dev/vfio/vfio"))


def test_one_of_several_opens_may_bind_and_once(kernel: Any, refused: Any) -> None:
    context = kernel.open("/dev/iommu")
    first, second = kernel.cdev(A), kernel.cdev(A)
    kernel.bind(first, context)
    for device in (first, second):
        with refused(errno.EINVAL):
            kernel.bind(device, context)


def test_an_open_group_keeps_the_cdev_from_binding(kernel: Any, refused: Any) -> None:
    kernel.open("/dev/vfio/1")
    with refused(errno.EBUSY):
        kernel.bind(kernel.cdev(A), kernel.open("/dev/iommu"))


def test_a_host_driver_in_the_group_forbids_binding(kernel: Any, refused: Any) -> None:
    with refused(errno.EPERM):
        kernel.bind(kernel.cdev("0000:04:00.0"), kernel.open("/dev/iommu"))


def test_two_devices_of_a_group_go_to_one_iommufd(kernel: Any, refused: Any) -> None:
    context = kernel.open("/dev/iommu")
    kernel.bind(kernel.cdev(B), context)
    with refused(errno.EPERM):
        kernel.bind(kernel.cdev(C), kernel.open("/dev/iommu"))
    kernel.bind(kernel.cdev(C), context)


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (IommuModel(cache_coherent=False), errno.EINVAL),
        (IommuModel(msi_isolated=False), errno.EPERM),
    ],
)
def test_what_the_iommu_lacks_shows_at_bind(
    machine: Any, refused: Any, model: IommuModel, code: int
) -> None:
    program = machine().device(A).__class__
    kernel = machine(Topology().pci(A, program, group=1).iommu(1, model))
    with refused(code):
        kernel.bind(kernel.cdev(A), kernel.open("/dev/iommu"))
    assert kernel.host.open_files() == ["device 0000:01:00.0", "iommufd"]


def test_a_driver_that_does_not_open_leaves_nothing_bound(kernel: Any, refused: Any) -> None:
    context, device = kernel.open("/dev/iommu"), kernel.cdev(A)
    kernel.device(A).open_error = errno.EAGAIN
    with refused(errno.EAGAIN):
        kernel.bind(device, context)
    kernel.device(A).open_error = None
    assert kernel.bind(device, context) == 1


def test_attaching_to_an_ioas_makes_a_page_table_that_others_share(kernel: Any) -> None:
    context = kernel.open("/dev/iommu")
    first, second = kernel.cdev(A), kernel.cdev(B)
    kernel.bind(first, context)
    kernel.bind(second, context)
    ioas = kernel.ioas(context)
    hwpt = kernel.attach(first, ioas)
    assert hwpt not in (0, ioas)
    assert kernel.attach(second, ioas) == hwpt


def test_unlike_iommus_do_not_share_a_page_table(machine: Any) -> None:
    program = machine().device(A).__class__
    topology = Topology().pci(A, program, group=1).pci(B, program, group=3)
    kernel = machine(topology.iommu(3, IommuModel(aperture=(0, 0xFFFFFFFF))))
    context = kernel.open("/dev/iommu")
    first, second = kernel.cdev(A), kernel.cdev(B)
    kernel.bind(first, context)
    kernel.bind(second, context)
    ioas = kernel.ioas(context)
    assert kernel.attach(first, ioas) != kernel.attach(second, ioas)


def test_an_automatic_page_table_goes_with_its_last_device(kernel: Any, refused: Any) -> None:
    context, ioas, device = kernel.attached(A)
    hwpt = kernel.attach(device, ioas)
    kernel.detach(device)
    with refused(errno.ENOENT):
        kernel.attach(device, hwpt)
    kernel.destroy(context, ioas)


def test_attach_says_what_is_wrong_with_the_id(kernel: Any, refused: Any) -> None:
    context = kernel.open("/dev/iommu")
    device = kernel.cdev(A)
    ident = kernel.bind(device, context)
    with refused(errno.ENOENT):
        kernel.attach(device, 77)
    with refused(errno.EINVAL):
        kernel.attach(device, ident)
    with refused(errno.EINVAL):
        kernel.attach(device, kernel.ioas(context), flags=2)
    with refused(errno.EOPNOTSUPP):
        kernel.attach(device, kernel.ioas(context), flags=vfio.VFIO_DEVICE_ATTACH_PASID)


def test_a_mapping_in_a_reserved_region_keeps_a_device_out(
    kernel: Any, buffer: Any, refused: Any
) -> None:
    context = kernel.open("/dev/iommu")
    device = kernel.cdev(A)
    kernel.bind(device, context)
    ioas = kernel.ioas(context)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0xFEE00000)
    with refused(errno.EADDRINUSE):
        kernel.attach(device, ioas)
    kernel.ioas_unmap(context, ioas, 0xFEE00000, PAGE)
    assert kernel.ranges(context, ioas)[0] == [(0, (1 << 64) - 1)]
    kernel.attach(device, ioas)


def test_a_mapping_beyond_the_aperture_keeps_a_device_out(
    kernel: Any, buffer: Any, refused: Any
) -> None:
    context = kernel.open("/dev/iommu")
    device = kernel.cdev(A)
    kernel.bind(device, context)
    ioas = kernel.ioas(context)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 1 << 48)
    with refused(errno.EADDRINUSE):
        kernel.attach(device, ioas)


def test_what_was_mapped_before_is_pinned_at_attach(kernel: Any, buffer: Any, refused: Any) -> None:
    context = kernel.open("/dev/iommu")
    device = kernel.cdev(A)
    kernel.bind(device, context)
    ioas = kernel.ioas(context)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    kernel.ioas_map(context, ioas, PAGE, PAGE, PAGE)  # nothing is there, and nobody looks
    with refused(errno.EFAULT):
        kernel.attach(device, ioas)
    assert kernel.host.pinned_bytes == 0
    kernel.ioas_unmap(context, ioas, PAGE, PAGE)
    kernel.attach(device, ioas)
    assert kernel.host.pinned_bytes == PAGE


def test_the_device_writes_through_the_ioas_it_is_attached_to(kernel: Any, buffer: Any) -> None:
    context, first, device = kernel.attached(A)
    second = kernel.ioas(context)
    one, other = buffer(1), buffer(1)
    kernel.ioas_map(context, first, one.address, PAGE, 0)
    kernel.ioas_map(context, second, other.address, PAGE, 0)
    port = kernel.device(A).dma
    port.write(0, b"first")
    kernel.attach(device, second)  # a second attach replaces
    port.write(0, b"second")
    assert (one.map[:6], other.map[:6]) == (b"first\0", b"second")
    kernel.detach(device)
    with pytest.raises(DmaFault):
        port.write(0, b"nowhere")


def test_a_second_device_of_the_group_follows_the_first(
    kernel: Any, buffer: Any, refused: Any
) -> None:
    context = kernel.open("/dev/iommu")
    first, second = kernel.cdev(B), kernel.cdev(C)
    kernel.bind(first, context)
    kernel.bind(second, context)
    one, other = kernel.ioas(context), kernel.ioas(context)
    kernel.attach(first, one)
    with refused(errno.EINVAL):
        kernel.attach(second, other)
    kernel.attach(second, one)
    kernel.attach(first, other)  # replacing moves both
    memory = buffer(1)
    kernel.ioas_map(context, other, memory.address, PAGE, 0)
    kernel.device(C).dma.write(0, b"moved too")
    assert memory.map[:9] == b"moved too"


def test_detach_always_succeeds(kernel: Any) -> None:
    _context, _ioas, device = kernel.attached(A)
    kernel.detach(device)
    kernel.detach(device)


def test_attach_and_detach_know_no_other_flag_and_no_pasid_of_these_drivers(
    kernel: Any, refused: Any
) -> None:
    _context, ioas, device = kernel.attached(A)
    for flags, code in ((2, errno.EINVAL), (1, errno.EOPNOTSUPP)):
        with refused(code):
            kernel.attach(device, ioas, flags)
        with refused(code):
            kernel.detach(device, flags)


def test_an_attach_whose_answer_cannot_be_stored_is_taken_back(kernel: Any, refused: Any) -> None:
    from vfiocore_sim.kernel.memory import addresses

    context, device = kernel.open("/dev/iommu"), kernel.cdev(A)
    kernel.bind(device, context)
    ioas = kernel.ioas(context)
    memory = kernel.host.memfd("argument", PAGE)
    kernel.host.pwrite(memory, struct.pack("=III", 12, 0, ioas), 0)
    argument = kernel.host.mmap(memory, PAGE, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
    with refused(errno.EFAULT):
        kernel.ioctl(device, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, addresses(argument).first)
    argument.close()
    kernel.close(memory)
    kernel.destroy(context, ioas)  # nothing is attached to it


def test_closing_the_device_detaches_closes_and_unbinds(kernel: Any, buffer: Any) -> None:
    context, ioas, device = kernel.attached(A)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    kernel.close(device)
    assert kernel.device(A).diary == ["open", "close"]
    assert kernel.host.pinned_bytes == 0
    assert kernel.bind(kernel.cdev(A), context) == 1


def test_the_iommufd_lives_while_a_device_holds_it(kernel: Any, buffer: Any) -> None:
    context, ioas, device = kernel.attached(A)
    memory = buffer(1)
    kernel.ioas_map(context, ioas, memory.address, PAGE, 0)
    kernel.close(context)
    kernel.device(A).dma.write(0, b"alive")
    assert memory.map[:5] == b"alive"
    kernel.close(device)
    assert kernel.host.open_files() == []
    assert kernel.host.pinned_bytes == 0


def test_a_device_of_the_group_way_has_no_attach(kernel: Any, refused: Any) -> None:
    _container, (group,) = kernel.container_with(1)
    device = kernel.device_fd(group, A)
    with refused(errno.ENOTTY):
        kernel.attach(device, 1)
    with refused(errno.EINVAL):
        kernel.bind(device, kernel.open("/dev/iommu"))


# -- mediated devices --------------------------------------------------------------------------
def test_an_emulated_device_attaches_to_an_ioas_and_echoes_it(with_mdev: Any, refused: Any) -> None:
    kernel = with_mdev
    context, ioas, device = kernel.attached(kernel.mdev)
    assert kernel.attach(device, ioas) == ioas
    with refused(errno.ENOENT):
        kernel.attach(device, 1)  # its own id
    assert kernel.ranges(context, ioas) == ([(0, (1 << 64) - 1)], 1, PAGE)


def test_an_emulated_device_pins_what_it_asks_for(with_mdev: Any, buffer: Any) -> None:
    kernel = with_mdev
    context, ioas, _device = kernel.attached(kernel.mdev)
    kernel.ioas_map(context, ioas, buffer(4).address, 4 * PAGE, 0)
    assert kernel.host.pinned_bytes == 0
    device = kernel.device(kernel.mdev)
    device.hold(PAGE, 2 * PAGE)
    assert kernel.host.pinned_bytes == 2 * PAGE
    kernel.ioas_unmap(context, ioas, 0, 4 * PAGE)
    assert device.diary == ["open", f"unmap 0x0 {4 * PAGE:#x}"]
    assert kernel.host.pinned_bytes == 0


def test_a_driver_that_never_unpins_blocks_the_unmap(
    with_mdev: Any, buffer: Any, refused: Any
) -> None:
    kernel = with_mdev
    context, ioas, _device = kernel.attached(kernel.mdev)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    device = kernel.device(kernel.mdev)
    device.hold(0, PAGE)
    device.stubborn = True
    with refused(errno.EDEADLK):
        kernel.ioas_unmap(context, ioas, 0, PAGE)


def test_an_emulated_device_drops_its_pins_when_it_moves(with_mdev: Any, buffer: Any) -> None:
    kernel = with_mdev
    context, ioas, device = kernel.attached(kernel.mdev)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    kernel.device(kernel.mdev).hold(0, PAGE)
    kernel.attach(device, kernel.ioas(context))
    assert kernel.host.pinned_bytes == 0


@pytest.mark.parametrize(("iova", "code"), [(PAGE, errno.ENOENT), (0, errno.EPERM)])
def test_pinning_what_is_not_mapped_so_is_refused(
    with_mdev: Any, buffer: Any, refused: Any, iova: int, code: int
) -> None:
    kernel = with_mdev
    context, ioas, _device = kernel.attached(kernel.mdev)
    read = iommufd.IOMMU_IOAS_MAP_READABLE
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0, read)
    with refused(code):
        kernel.device(kernel.mdev).hold(iova, PAGE)


def test_only_the_driver_of_an_attached_device_can_pin(with_mdev: Any, refused: Any) -> None:
    kernel = with_mdev
    with refused(errno.EINVAL):
        kernel.device(kernel.mdev).dma.pin(0, PAGE, write=True)
    context, device = kernel.open("/dev/iommu"), kernel.cdev(kernel.mdev)
    kernel.bind(device, context)
    with refused(errno.EINVAL):
        kernel.device(kernel.mdev).dma.pin(0, PAGE, write=True)


def test_a_page_is_pinned_until_it_was_unpinned_as_often(with_mdev: Any, buffer: Any) -> None:
    kernel = with_mdev
    context, ioas, _device = kernel.attached(kernel.mdev)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    port = kernel.device(kernel.mdev).dma
    port.pin(0, PAGE, write=True)
    port.pin(0, 8, write=False)
    assert kernel.host.pinned_bytes == PAGE
    port.unpin(0, PAGE)
    assert kernel.host.pinned_bytes == PAGE
    port.unpin(0, 8)
    assert kernel.host.pinned_bytes == 0
    port.unpin(0, PAGE)  # nothing is left to unpin
    assert kernel.host.pinned_bytes == 0


def test_a_pin_that_fails_on_the_way_holds_nothing(
    with_mdev: Any, buffer: Any, refused: Any
) -> None:
    kernel = with_mdev
    context, ioas, _device = kernel.attached(kernel.mdev)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    read = iommufd.IOMMU_IOAS_MAP_READABLE
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, PAGE, read)
    with refused(errno.EPERM):
        kernel.device(kernel.mdev).dma.pin(0, 2 * PAGE, write=True)
    assert kernel.host.pinned_bytes == 0


def test_a_driver_with_an_iommu_cannot_pin(kernel: Any, buffer: Any, refused: Any) -> None:
    context, ioas, _device = kernel.attached(A)
    kernel.ioas_map(context, ioas, buffer(1).address, PAGE, 0)
    with refused(errno.EINVAL):
        kernel.device(A).dma.pin(0, PAGE, write=True)


def test_a_page_table_made_for_another_iommu_is_refused(machine: Any, refused: Any) -> None:
    program = machine().device(A).__class__
    topology = Topology().pci(A, program, group=1).pci(B, program, group=2)
    kernel = machine(topology.iommu(2, IommuModel(aperture=(0, (1 << 40) - 1))))
    context, first, second = kernel.open("/dev/iommu"), kernel.cdev(A), kernel.cdev(B)
    ident = kernel.bind(first, context)
    kernel.bind(second, context)
    table = kernel.hwpt(context, ident, kernel.ioas(context))
    with refused(errno.EINVAL):
        kernel.attach(second, table)
    assert kernel.attach(first, table) == table
