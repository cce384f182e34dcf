from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore.errors import AccessDeniedError, HostUnsupportedError, KernelError

CARD = "0000:02:00.0"
OTHER = "0000:05:00.0"


def test_an_object_opens_nothing_before_its_first_device(rig: Any, host: Any) -> None:
    rig.iommufd()
    assert host.calls == []


def test_dev_iommu_is_open_from_the_first_device_to_the_last(rig: Any, host: Any) -> None:
    rig.open(CARD)
    rig.open(OTHER)
    rig.close()
    assert "iommufd" in host.open_files()
    rig.close()
    assert host.open_files() == []


def test_an_object_can_be_used_again_after_its_last_device(rig: Any, host: Any) -> None:
    rig.open(CARD)
    rig.close()
    rig.open(CARD)
    assert host.call_names().count("open /dev/iommu") == 2


def test_a_passed_iommufd_is_used_and_left_open(rig: Any, host: Any) -> None:
    fd = host.open("/dev/iommu")
    rig.iommufd(fd=fd)
    rig.open(CARD)
    rig.close()
    assert host.open_files() == ["iommufd"]
    assert host.call_names().count("open /dev/iommu") == 1
    host.close(fd)


def test_checking_a_passed_iommufd_changes_nothing_in_it(rig: Any, host: Any) -> None:
    fd = host.open("/dev/iommu")
    rig.iommufd(fd=fd)
    assert [call.errno for call in host.calls] == [None, errno.ENOENT]
    host.close(fd)


@pytest.mark.parametrize("node", ["/dev/vfio/vfio", "/dev/vfio/1", "/dev/vfio/devices/vfio0"])
def test_a_passed_fd_of_another_kind_is_refused(rig: Any, host: Any, node: str) -> None:
    fd = host.open(node)
    with pytest.raises(KernelError, match=f"fd {fd} is not an iommufd"):
        rig.iommufd(fd=fd)
    host.close(fd)


def test_a_passed_fd_that_is_closed_is_refused(rig: Any, host: Any) -> None:
    fd = host.open("/dev/iommu")
    host.close(fd)
    with pytest.raises(KernelError, match=f"fd {fd} is not open"):
        rig.iommufd(fd=fd)


def test_two_objects_do_not_meet(rig: Any, host: Any) -> None:
    one = rig.open(CARD, iommufd=rig.iommufd("one"))
    two = rig.open(OTHER, iommufd=rig.iommufd("two"))
    assert one.container is not two.container
    assert one.container.iommufd.containers == [one.container]
    assert host.call_names().count("open /dev/iommu") == 2
    mapping = rig.mapping(0x10000)
    one.container.dma_map([mapping])
    two.container.dma_map([mapping])
    assert "ioctl IOMMU_IOAS_COPY" not in host.call_names()
    assert host.pinned_bytes == 2 * mapping.size


def test_two_objects_with_one_passed_fd_pin_memory_once(rig: Any, host: Any) -> None:
    fd = host.open("/dev/iommu")
    first = rig.iommufd("one", fd=fd)
    one = rig.open(CARD, iommufd=first)
    two = rig.open(OTHER, iommufd=rig.iommufd("two", fd=fd, siblings=(first,)))
    assert one.container is not two.container
    mapping = rig.mapping(0x10000)
    one.container.dma_map([mapping])
    two.container.dma_map([mapping])
    assert host.call_names()[-1] == "ioctl IOMMU_IOAS_COPY"
    assert host.pinned_bytes == mapping.size
    one.container.dma_unmap([(mapping.iova, mapping.size)])
    host.device(OTHER).dma.write(mapping.iova, b"still there")


def test_two_objects_with_different_passed_fds_do_not_meet(rig: Any, host: Any) -> None:
    first = rig.iommufd("one", fd=host.open("/dev/iommu"))
    second = rig.iommufd("two", fd=host.open("/dev/iommu"), siblings=(first,))
    assert first.containers is not second.containers


def test_without_iommufd_in_the_kernel_the_way_on_is_told(make_rig: Any) -> None:
    rig = make_rig(without={"iommufd"})
    with pytest.raises(HostUnsupportedError, match=r"modprobe iommufd.*--host sim"):
        rig.open(CARD)


def test_missing_permission_on_dev_iommu_is_told(rig: Any, host: Any) -> None:
    host.fail("open /dev/iommu", errno.EACCES)
    with pytest.raises(AccessDeniedError, match="read and write permission on the node"):
        rig.open(CARD)
