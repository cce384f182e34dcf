"""The legacy container: /dev/vfio/vfio, before and around its backend."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore.uapi import vfio
from vfiocore_sim.topology import IommuModel, ReservedRegion, Topology

OFFERED = (vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_UNMAP_ALL)


def extensions(kernel: Any, container: int) -> set[int]:
    check = vfio.VFIO_CHECK_EXTENSION
    return {number for number in range(16) if kernel.ioctl(container, check, number)}


def test_the_api_version_is_0(kernel: Any) -> None:
    assert kernel.ioctl(kernel.open("/dev/vfio/vfio"), vfio.VFIO_GET_API_VERSION) == 0


def test_an_empty_container_offers_every_backends_extensions(kernel: Any) -> None:
    assert extensions(kernel, kernel.open("/dev/vfio/vfio")) == set(OFFERED)


def test_the_backend_adds_what_depends_on_its_groups(kernel: Any, with_mdev: Any) -> None:
    more = {vfio.VFIO_UPDATE_VADDR, vfio.VFIO_DMA_CC_IOMMU}
    assert extensions(kernel, kernel.container_with(1)[0]) == {*OFFERED, *more}
    # The vaddr of an emulated device's memory may not go away under its driver.
    assert vfio.VFIO_UPDATE_VADDR not in extensions(with_mdev, with_mdev.container_with(2)[0])


def test_every_other_request_waits_for_set_iommu(kernel: Any, refused: Any) -> None:
    container = kernel.open("/dev/vfio/vfio")
    kernel.set_container(kernel.open("/dev/vfio/1"), container)
    with refused(errno.EINVAL):
        kernel.info(container)
    with refused(errno.EINVAL):
        kernel.ioctl(container, 0x1234)


def test_set_iommu_needs_a_group(kernel: Any, refused: Any) -> None:
    with refused(errno.EINVAL):
        kernel.ioctl(kernel.open("/dev/vfio/vfio"), vfio.VFIO_SET_IOMMU, 3)


def test_set_iommu_works_once(kernel: Any, refused: Any) -> None:
    container, _groups = kernel.container_with(1)
    with refused(errno.EINVAL):
        kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (vfio.VFIO_DMA_CC_IOMMU, errno.ENODEV),
        (6, errno.ENODEV),
        (vfio.VFIO_NOIOMMU_IOMMU, errno.ENODEV),
        (vfio.VFIO_UNMAP_ALL, errno.EINVAL),
        (vfio.VFIO_UPDATE_VADDR, errno.ENODEV),
    ],
)
def test_what_is_no_offered_type_is_refused(
    kernel: Any, refused: Any, kind: int, code: int
) -> None:
    container = kernel.open("/dev/vfio/vfio")
    kernel.set_container(kernel.open("/dev/vfio/1"), container)
    with refused(code):
        kernel.ioctl(container, vfio.VFIO_SET_IOMMU, kind)


def test_an_older_kernel_can_be_asked_for(machine: Any, refused: Any) -> None:
    kernel = machine(without={"VFIO_TYPE1v2_IOMMU", "VFIO_UNMAP_ALL", "VFIO_IOMMU_DIRTY_PAGES"})
    container = kernel.open("/dev/vfio/vfio")
    assert extensions(kernel, container) == {vfio.VFIO_TYPE1_IOMMU}
    kernel.set_container(kernel.open("/dev/vfio/1"), container)
    with refused(errno.ENODEV):
        kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1_IOMMU)
    with refused(errno.ENOTTY):
        kernel.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, bytearray(8))


def test_the_last_group_takes_the_backend_and_its_mappings_along(
    kernel: Any, buffer: Any, refused: Any
) -> None:
    container, (group,) = kernel.container_with(1)
    memory = buffer(4)
    kernel.map(container, 0, memory.address, memory.size)
    assert kernel.host.pinned_bytes == memory.size
    kernel.unset_container(group)
    assert kernel.host.pinned_bytes == 0
    with refused(errno.EINVAL):
        kernel.info(container)
    kernel.set_container(group, container)
    kernel.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1_IOMMU)
    kernel.map(container, 0, memory.address, memory.size)


def test_a_closed_container_lives_on_in_its_groups(kernel: Any, buffer: Any) -> None:
    container, (group,) = kernel.container_with(1)
    memory = buffer(1)
    kernel.map(container, 0, memory.address, memory.size)
    device = kernel.device_fd(group, "0000:01:00.0")
    kernel.close(container)
    kernel.device("0000:01:00.0").dma.write(0, b"still there")
    assert memory.map[:11] == b"still there"
    kernel.close(device, group)
    assert kernel.host.pinned_bytes == 0


def test_a_group_joins_a_container_that_has_its_backend(kernel: Any) -> None:
    container, _groups = kernel.container_with(1)
    second = kernel.open("/dev/vfio/2")
    kernel.set_container(second, container)
    kernel.device_fd(second, "0000:02:00.0")


def test_usable_ranges_shrink_when_a_group_joins_and_grow_when_it_leaves(machine: Any) -> None:
    program = machine().device("0000:01:00.0").__class__
    topology = Topology().pci("0000:01:00.0", program, group=1)
    topology.pci("0000:02:00.0", program, group=2)
    topology.iommu(1, IommuModel(reserved=()))
    topology.iommu(2, IommuModel(aperture=(0, 0xFFFFFFFF)))
    kernel = machine(topology)
    container, _groups = kernel.container_with(1)
    wide = [(0, (1 << 48) - 1)]
    assert kernel.info(container).ranges == wide
    second = kernel.open("/dev/vfio/2")
    kernel.set_container(second, container)
    assert kernel.info(container).ranges == [(0, 0xFEDFFFFF), (0xFEF00000, 0xFFFFFFFF)]
    kernel.unset_container(second)
    assert kernel.info(container).ranges == wide


def test_a_group_that_cannot_reach_a_mapping_does_not_join(
    machine: Any, buffer: Any, refused: Any
) -> None:
    program = machine().device("0000:01:00.0").__class__
    topology = Topology().pci("0000:01:00.0", program, group=1)
    topology.pci("0000:02:00.0", program, group=2)
    topology.iommu(2, IommuModel(reserved=(ReservedRegion(0x100000, 0x1FFFFF),)))
    kernel = machine(topology)
    container, _groups = kernel.container_with(1)
    memory = buffer(1)
    kernel.map(container, 0x100000, memory.address, memory.size)
    second = kernel.open("/dev/vfio/2")
    with refused(errno.EINVAL):
        kernel.set_container(second, container)
    kernel.unmap(container, 0x100000, memory.size)
    kernel.set_container(second, container)


def test_a_relaxable_region_may_be_mapped_over(machine: Any) -> None:
    program = machine().device("0000:01:00.0").__class__
    topology = Topology().pci("0000:01:00.0", program, group=1)
    relaxable = ReservedRegion(0, 0xFFFFFF, "direct-relaxable")
    topology.iommu(1, IommuModel(aperture=(0, 0xFFFFFFFF), reserved=(relaxable,)))
    kernel = machine(topology)
    assert kernel.info(kernel.container_with(1)[0]).ranges == [(0, 0xFFFFFFFF)]
