"""The legacy group: /dev/vfio/N."""

from __future__ import annotations

import errno
import mmap
import struct
from typing import Any

import pytest

from vfiocore.uapi import vfio
from vfiocore_sim.topology import IommuModel, Topology

PAGE = mmap.PAGESIZE

VIABLE = vfio.VFIO_GROUP_FLAGS_VIABLE
SET = vfio.VFIO_GROUP_FLAGS_CONTAINER_SET


def test_a_group_has_one_opener(kernel: Any, refused: Any) -> None:
    first = kernel.open("/dev/vfio/1")
    with refused(errno.EBUSY):
        kernel.open("/dev/vfio/1")
    kernel.close(first)
    kernel.open("/dev/vfio/1")


def test_a_group_without_a_vfio_device_has_no_node(machine: Any, refused: Any) -> None:
    kernel = machine(Topology().pci("0000:01:00.0", group=1, driver="e1000e"))
    with refused(errno.ENOENT):
        kernel.open("/dev/vfio/1")


def test_a_group_is_viable_when_no_host_driver_owns_its_dma(kernel: Any) -> None:
    assert kernel.status(kernel.open("/dev/vfio/3")) == VIABLE


def test_a_device_on_a_host_driver_makes_its_group_not_viable(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/4")
    assert kernel.status(group) == 0
    with refused(errno.EPERM):
        kernel.set_container(group, kernel.open("/dev/vfio/vfio"))


@pytest.mark.parametrize("driver", ["pci-stub", "pcieport", None])
def test_drivers_that_leave_dma_alone_do_not_matter(machine: Any, driver: str | None) -> None:
    topology = Topology().pci("0000:01:00.0", machine().device("0000:01:00.0").__class__, group=1)
    kernel = machine(topology.pci("0000:01:00.1", group=1, driver=driver))
    assert kernel.status(kernel.open("/dev/vfio/1")) == VIABLE


def test_status_shows_that_a_container_is_set(kernel: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    kernel.set_container(group, kernel.open("/dev/vfio/vfio"))
    assert kernel.status(group) == VIABLE | SET
    kernel.unset_container(group)
    assert kernel.status(group) == VIABLE


def test_status_needs_the_whole_struct(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    with refused(errno.EINVAL):
        kernel.ioctl(group, vfio.VFIO_GROUP_GET_STATUS, vfio.vfio_group_status(argsz=7))


def test_a_container_is_set_once(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    container = kernel.open("/dev/vfio/vfio")
    kernel.set_container(group, container)
    with refused(errno.EINVAL):
        kernel.set_container(group, container)


def test_a_closed_fd_is_no_container(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    container = kernel.open("/dev/vfio/vfio")
    kernel.close(container)
    with refused(errno.EBADF):
        kernel.set_container(group, container)


def test_only_a_container_or_an_iommufd_can_be_set(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    event = kernel.host.eventfd()
    for other in (event, group):
        with refused(errno.EBADFD):
            kernel.set_container(group, other)
    kernel.close(event)


def test_the_argument_of_set_container_must_be_readable(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    with refused(errno.EFAULT):
        kernel.ioctl(group, vfio.VFIO_GROUP_SET_CONTAINER, bytearray(2))
    with refused(errno.EFAULT):
        kernel.ioctl(group, vfio.VFIO_GROUP_SET_CONTAINER, 0)


def test_nothing_can_be_unset_that_was_not_set(kernel: Any, refused: Any) -> None:
    with refused(errno.EINVAL):
        kernel.unset_container(kernel.open("/dev/vfio/1"))


def test_a_container_is_not_unset_under_an_open_device(kernel: Any, refused: Any) -> None:
    _container, (group,) = kernel.container_with(1)
    device = kernel.device_fd(group, "0000:01:00.0")
    with refused(errno.EBUSY):
        kernel.unset_container(group)
    kernel.close(device)
    kernel.unset_container(group)


def test_a_device_opens_after_set_iommu_only(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    with refused(errno.EINVAL):
        kernel.device_fd(group, "0000:01:00.0")
    kernel.set_container(group, kernel.open("/dev/vfio/vfio"))
    with refused(errno.EINVAL):
        kernel.device_fd(group, "0000:01:00.0")


@pytest.mark.parametrize("name", ["0000:02:00.0", "0000:01:00", "0000:01:00.0x", ""])
def test_a_name_that_is_not_in_the_group_is_refused(kernel: Any, refused: Any, name: str) -> None:
    _container, (group,) = kernel.container_with(1)
    with refused(errno.ENODEV):
        kernel.device_fd(group, name)


def test_a_name_must_end_within_a_page(kernel: Any, refused: Any) -> None:
    _container, (group,) = kernel.container_with(1)
    with refused(errno.EINVAL):
        kernel.ioctl(group, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(b"x" * (kernel.page + 1)))


def test_options_behind_the_name_are_for_the_pci_driver_to_judge(kernel: Any, refused: Any) -> None:
    _container, groups = kernel.container_with(1, 5)
    with refused(errno.EINVAL):
        kernel.device_fd(groups[0], "0000:01:00.0 vf_token=x")
    with refused(errno.ENODEV):
        kernel.device_fd(groups[1], "a000000.timer vf_token=x")


def test_a_device_may_be_opened_twice_and_its_driver_sees_one_open(kernel: Any) -> None:
    _container, (group,) = kernel.container_with(1)
    first = kernel.device_fd(group, "0000:01:00.0")
    second = kernel.device_fd(group, "0000:01:00.0")
    kernel.close(first)
    assert kernel.device("0000:01:00.0").diary == ["open"]
    kernel.close(second)
    assert kernel.device("0000:01:00.0").diary == ["open", "close"]


def test_what_the_driver_says_at_open_comes_through(kernel: Any, refused: Any) -> None:
    _container, (group,) = kernel.container_with(1)
    kernel.device("0000:01:00.0").open_error = errno.EAGAIN
    with refused(errno.EAGAIN):
        kernel.device_fd(group, "0000:01:00.0")
    kernel.unset_container(group)


def test_a_group_is_released_after_its_devices(kernel: Any, refused: Any) -> None:
    container, (group,) = kernel.container_with(1)
    device = kernel.device_fd(group, "0000:01:00.0")
    kernel.close(group, container)
    with refused(errno.EBUSY):
        kernel.open("/dev/vfio/1")
    kernel.close(device)
    kernel.open("/dev/vfio/1")


def test_a_bound_cdev_keeps_the_group_shut(kernel: Any, refused: Any) -> None:
    device = kernel.cdev("0000:01:00.0")
    kernel.bind(device, kernel.open("/dev/iommu"))
    with refused(errno.EBUSY):
        kernel.open("/dev/vfio/1")
    kernel.close(device)
    kernel.open("/dev/vfio/1")


def test_a_group_whose_last_device_left_vfio_is_gone(kernel: Any, refused: Any) -> None:
    group, container = kernel.open("/dev/vfio/1"), kernel.open("/dev/vfio/vfio")
    kernel.host.write_file("/sys/bus/pci/drivers/vfio-pci/unbind", b"0000:01:00.0")
    with refused(errno.ENODEV):
        kernel.status(group)
    with refused(errno.ENODEV):
        kernel.set_container(group, container)


def test_a_name_that_is_not_a_string_is_unreadable(kernel: Any, refused: Any) -> None:
    _container, (group,) = kernel.container_with(1)
    with refused(errno.EFAULT):
        kernel.ioctl(group, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(b"0000:01:00.0"))


def test_a_struct_that_ends_too_early_is_unreadable_whatever_its_argsz(
    kernel: Any, refused: Any
) -> None:
    with refused(errno.EFAULT):
        kernel.ioctl(
            kernel.open("/dev/vfio/1"), vfio.VFIO_GROUP_GET_STATUS, bytearray(struct.pack("=I", 4))
        )


def test_an_unknown_request_is_no_typewriter(kernel: Any, refused: Any) -> None:
    with refused(errno.ENOTTY):
        kernel.ioctl(kernel.open("/dev/vfio/1"), vfio.VFIO_SET_IOMMU, 1)


# -- without an IOMMU --------------------------------------------------------------------------
def noiommu(kernel: Any) -> Topology:
    program = kernel.device("0000:01:00.0").__class__
    return (
        Topology()
        .pci("0000:01:00.0", program, group=1, noiommu=True)
        .pci("0000:02:00.0", program, group=2)
    )


def test_a_noiommu_group_has_a_node_of_its_own_name(machine: Any) -> None:
    kernel = machine(noiommu(machine()))
    assert kernel.host.listdir("/dev/vfio") == ["2", "devices", "noiommu-1", "vfio"]


def test_a_noiommu_group_needs_raw_io(machine: Any, refused: Any) -> None:
    kernel = machine(noiommu(machine()), cap_sys_rawio=False)
    with refused(errno.EPERM):
        kernel.open("/dev/vfio/noiommu-1")


def test_real_and_noiommu_groups_share_no_container(machine: Any, refused: Any) -> None:
    kernel = machine(noiommu(machine()))
    container = kernel.open("/dev/vfio/vfio")
    kernel.set_container(kernel.open("/dev/vfio/2"), container)
    with refused(errno.EPERM):
        kernel.set_container(kernel.open("/dev/vfio/noiommu-1"), container)


def test_a_noiommu_container_takes_its_own_type_and_no_ioctl(machine: Any, refused: Any) -> None:
    kernel = machine(noiommu(machine()))
    container, group = kernel.open("/dev/vfio/vfio"), kernel.open("/dev/vfio/noiommu-1")
    kernel.set_container(group, container)
    with refused(errno.ENODEV):
        kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_NOIOMMU_IOMMU)
    with refused(errno.ENOTTY):
        kernel.map(container, 0, 0, kernel.page)
    check = vfio.VFIO_CHECK_EXTENSION
    assert kernel.ioctl(container, check, vfio.VFIO_NOIOMMU_IOMMU) == 1
    assert kernel.ioctl(container, check, vfio.VFIO_TYPE1_IOMMU) == 0
    kernel.device_fd(group, "0000:01:00.0")


def test_a_noiommu_device_reaches_all_memory(machine: Any, buffer: Any) -> None:
    kernel = machine(noiommu(machine()))
    container, group = kernel.open("/dev/vfio/vfio"), kernel.open("/dev/vfio/noiommu-1")
    kernel.set_container(group, container)
    kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_NOIOMMU_IOMMU)
    kernel.device_fd(group, "0000:01:00.0")
    memory = buffer(1)
    kernel.device("0000:01:00.0").dma.write(memory.address, b"anywhere")
    assert memory.map[:8] == b"anywhere"


def test_a_driver_with_hardware_of_its_own_cannot_pin(machine: Any, refused: Any) -> None:
    kernel = machine(noiommu(machine()))
    container, group = kernel.open("/dev/vfio/vfio"), kernel.open("/dev/vfio/noiommu-1")
    kernel.set_container(group, container)
    kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_NOIOMMU_IOMMU)
    kernel.device_fd(group, "0000:01:00.0")
    with refused(errno.EINVAL):
        kernel.device("0000:01:00.0").dma.pin(0, kernel.page, write=True)


# -- with an iommufd ---------------------------------------------------------------------------
def test_an_iommufd_can_take_the_containers_place(kernel: Any) -> None:
    context, group = kernel.open("/dev/iommu"), kernel.open("/dev/vfio/1")
    kernel.set_container(group, context)
    assert kernel.status(group) == VIABLE | SET
    kernel.device_fd(group, "0000:01:00.0")
    kernel.unset_container(group)  # never busy in this mode


def test_the_ownership_check_comes_with_the_device_then(kernel: Any, refused: Any) -> None:
    context, group = kernel.open("/dev/iommu"), kernel.open("/dev/vfio/4")
    kernel.set_container(group, context)
    with refused(errno.EPERM):
        kernel.device_fd(group, "0000:04:00.0")


def test_without_a_compat_ioas_the_device_does_not_open(kernel: Any, refused: Any) -> None:
    from vfiocore.uapi import iommufd

    context, group = kernel.open("/dev/iommu"), kernel.open("/dev/vfio/1")
    kernel.set_container(group, context)
    kernel.command(
        context,
        iommufd.IOMMU_VFIO_IOAS,
        iommufd.iommu_vfio_ioas,
        op=iommufd.IOMMU_VFIO_IOAS_CLEAR,
    )
    with refused(errno.ENODEV):
        kernel.device_fd(group, "0000:01:00.0")
    assert kernel.device("0000:01:00.0").diary == ["open", "close"]


def test_a_second_open_shares_the_device_that_the_first_one_attached(
    kernel: Any, buffer: Any
) -> None:
    context, group = kernel.open("/dev/iommu"), kernel.open("/dev/vfio/1")
    kernel.set_container(group, context)
    first, second = (kernel.device_fd(group, "0000:01:00.0") for _ in range(2))
    memory = buffer(1)
    kernel.map(context, 0, memory.address, kernel.page)
    kernel.close(first)
    kernel.device("0000:01:00.0").dma.write(0, b"shared")
    assert memory.map[:6] == b"shared"
    kernel.close(second)
    assert kernel.device("0000:01:00.0").diary == ["open", "close"]


def test_a_driver_that_does_not_open_leaves_nothing_bound_to_the_iommufd(
    kernel: Any, refused: Any
) -> None:
    context, group = kernel.open("/dev/iommu"), kernel.open("/dev/vfio/1")
    kernel.set_container(group, context)
    kernel.device("0000:01:00.0").open_error = errno.EIO
    with refused(errno.EIO):
        kernel.device_fd(group, "0000:01:00.0")
    kernel.close(group)
    assert kernel.bind(kernel.cdev("0000:02:00.0"), context) == 2  # 1 is the compat IOAS


def test_a_noiommu_device_on_an_iommufd_reaches_all_memory(machine: Any, buffer: Any) -> None:
    kernel = machine(noiommu(machine()))
    context, group = kernel.open("/dev/iommu"), kernel.open("/dev/vfio/noiommu-1")
    kernel.set_container(group, context)
    kernel.device_fd(group, "0000:01:00.0")
    memory = buffer(1)
    kernel.device("0000:01:00.0").dma.write(memory.address, b"anywhere")
    assert memory.map[:8] == b"anywhere"


def test_real_and_noiommu_groups_share_no_iommufd(machine: Any, refused: Any) -> None:
    kernel = machine(noiommu(machine()))
    real, other = kernel.open("/dev/vfio/2"), kernel.open("/dev/vfio/noiommu-1")
    for first, second in ((real, other), (other, real)):
        context = kernel.open("/dev/iommu")
        kernel.set_container(first, context)
        with refused(errno.EINVAL):
            kernel.set_container(second, context)
        kernel.unset_container(first)


def test_a_noiommu_device_does_not_open_beside_a_compat_ioas(machine: Any, refused: Any) -> None:
    from vfiocore.uapi import iommufd

    kernel = machine(noiommu(machine()))
    context, group = kernel.open("/dev/iommu"), kernel.open("/dev/vfio/noiommu-1")
    kernel.set_container(group, context)
    kernel.command(
        context,
        iommufd.IOMMU_VFIO_IOAS,
        iommufd.iommu_vfio_ioas,
        op=iommufd.IOMMU_VFIO_IOAS_SET,
        ioas_id=kernel.ioas(context),
    )
    with refused(errno.EPERM):
        kernel.device_fd(group, "0000:01:00.0")


def test_an_iommufd_without_iommu_takes_that_type_only(machine: Any, refused: Any) -> None:
    kernel = machine(noiommu(machine()))
    context = kernel.open("/dev/iommu")
    kernel.set_container(kernel.open("/dev/vfio/noiommu-1"), context)
    with refused(errno.EINVAL):
        kernel.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    assert kernel.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_NOIOMMU_IOMMU) == 0
    check = vfio.VFIO_CHECK_EXTENSION
    assert kernel.ioctl(context, check, vfio.VFIO_NOIOMMU_IOMMU) == 1
    assert kernel.ioctl(context, check, vfio.VFIO_TYPE1v2_IOMMU) == 0


def test_interrupts_that_are_not_isolated_show_at_set_iommu(machine: Any, refused: Any) -> None:
    program = machine().device("0000:01:00.0").__class__
    topology = Topology().pci("0000:01:00.0", program, group=1)
    topology.iommu(1, IommuModel(msi_isolated=False))
    kernel = machine(topology)
    container, group = kernel.open("/dev/vfio/vfio"), kernel.open("/dev/vfio/1")
    kernel.set_container(group, container)
    with refused(errno.EPERM):
        kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    allowing = machine(topology, allow_unsafe_interrupts=True)
    allowing.container_with(1)


def test_set_container_takes_an_immutable_buffer_as_fcntl_does(kernel: Any) -> None:
    container, group = kernel.open("/dev/vfio/vfio"), kernel.open("/dev/vfio/1")
    kernel.ioctl(group, vfio.VFIO_GROUP_SET_CONTAINER, struct.pack("=i", container))
    assert kernel.status(group) & SET


def test_a_number_that_fcntl_would_lose_is_not_handed_back(kernel: Any) -> None:
    _container, (group,) = kernel.container_with(1)
    with pytest.raises(TypeError, match="writable buffer"):
        kernel.ioctl(group, vfio.VFIO_GROUP_GET_DEVICE_FD, b"0000:01:00.0\0")


def test_the_last_device_that_leaves_vfio_takes_its_group_out_of_the_container(
    kernel: Any, buffer: Any, refused: Any
) -> None:
    name = "0000:01:00.0"
    container, (group,) = kernel.container_with(1)
    kernel.map(container, 0, buffer(1).address, PAGE)
    kernel.host.write_file(f"/sys/bus/pci/devices/{name}/driver/unbind", name.encode())
    with refused(errno.ENODEV):
        kernel.status(group)
    with refused(errno.EINVAL):
        kernel.ioctl(group, vfio.VFIO_GROUP_UNSET_CONTAINER)
    assert kernel.host.pinned_bytes == 0
