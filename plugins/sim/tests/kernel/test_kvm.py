"""KVM, as far as VFIO needs it."""

from __future__ import annotations

import ctypes
import errno
from typing import Any

import pytest

from vfiocore.uapi import kvm

ADD, DELETE = kvm.KVM_DEV_VFIO_FILE_ADD, kvm.KVM_DEV_VFIO_FILE_DEL
A = "0000:01:00.0"


def test_a_device_that_needs_kvm_opens_when_its_cdev_is_linked(kernel: Any, refused: Any) -> None:
    kernel.device(A).kvm_needed = True
    context, device, link = kernel.open("/dev/iommu"), kernel.cdev(A), kernel.kvm_vfio()
    with refused(errno.EINVAL):
        kernel.bind(device, context)
    kernel.kvm_file(link, ADD, device)
    kernel.bind(device, context)
    assert kernel.device(A).kernel.kvm() is not None
    kernel.close(device)
    kernel.close(link)
    assert kernel.device(A).kernel.kvm() is None


def test_a_device_that_needs_kvm_opens_when_its_group_is_linked(kernel: Any, refused: Any) -> None:
    kernel.device(A).kvm_needed = True
    _container, (group,) = kernel.container_with(1)
    with refused(errno.EINVAL):
        kernel.device_fd(group, A)
    link = kernel.kvm_vfio()
    kernel.kvm_file(link, ADD, group)
    kernel.device_fd(group, A)


def test_a_linked_group_is_open_until_it_is_unlinked(kernel: Any, refused: Any) -> None:
    group, link = kernel.open("/dev/vfio/1"), kernel.kvm_vfio()
    kernel.kvm_file(link, ADD, group)
    kernel.close(group)
    with refused(errno.EBUSY):
        kernel.open("/dev/vfio/1")
    kernel.close(link)
    kernel.open("/dev/vfio/1")


def test_linking_says_what_is_wrong_with_the_fd(kernel: Any, refused: Any) -> None:
    group, link = kernel.open("/dev/vfio/1"), kernel.kvm_vfio()
    with refused(errno.EBADF):
        kernel.kvm_file(link, ADD, 9999)
    with refused(errno.EINVAL):
        kernel.kvm_file(link, ADD, kernel.open("/dev/vfio/vfio"))
    with refused(errno.ENOENT):
        kernel.kvm_file(link, DELETE, group)
    kernel.kvm_file(link, ADD, group)
    with refused(errno.EEXIST):
        kernel.kvm_file(link, ADD, group)
    kernel.kvm_file(link, DELETE, group)


def test_a_machine_has_one_vfio_device(kernel: Any, refused: Any) -> None:
    machine = kernel.ioctl(kernel.open("/dev/kvm"), kvm.KVM_CREATE_VM)
    wanted = kvm.kvm_create_device(type=kvm.KVM_DEV_TYPE_VFIO)
    kernel.ioctl(machine, kvm.KVM_CREATE_DEVICE, wanted)
    with refused(errno.EBUSY):
        kernel.ioctl(machine, kvm.KVM_CREATE_DEVICE, wanted)
    with refused(errno.ENODEV):
        kernel.ioctl(machine, kvm.KVM_CREATE_DEVICE, kvm.kvm_create_device(type=1))


def test_each_kvm_file_says_in_its_own_way_that_a_request_is_unknown(
    kernel: Any, refused: Any
) -> None:
    system = kernel.open("/dev/kvm")
    with refused(errno.EINVAL):
        kernel.ioctl(system, 0x1234)
    for fd in (kernel.ioctl(system, kvm.KVM_CREATE_VM), kernel.kvm_vfio()):
        with refused(errno.ENOTTY):
            kernel.ioctl(fd, 0x1234)


@pytest.mark.parametrize(
    ("group", "attribute"), [(kvm.KVM_DEV_VFIO_FILE + 1, ADD), (kvm.KVM_DEV_VFIO_FILE, 99)]
)
def test_the_vfio_device_has_no_other_attribute(
    kernel: Any, refused: Any, group: int, attribute: int
) -> None:
    number = ctypes.c_int32(kernel.open("/dev/vfio/1"))
    arg = kvm.kvm_device_attr(group=group, attr=attribute, addr=ctypes.addressof(number))
    with refused(errno.ENXIO):
        kernel.ioctl(kernel.kvm_vfio(), kvm.KVM_SET_DEVICE_ATTR, arg)


def test_kvm_tells_its_version(kernel: Any) -> None:
    assert kernel.ioctl(kernel.open("/dev/kvm"), kvm.KVM_GET_API_VERSION) == 12


def test_a_machine_without_kvm_has_no_node(machine: Any) -> None:
    assert not machine(without={"kvm"}).host.exists("/dev/kvm")
    with pytest.raises(FileNotFoundError):
        machine(without={"kvm"}).open("/dev/kvm")
