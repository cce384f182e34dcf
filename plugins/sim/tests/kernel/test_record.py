"""The record of calls, and errors on demand."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore.uapi import vfio


def test_calls_are_recorded_in_order_by_name(kernel: Any) -> None:
    container, (group,) = kernel.container_with(1)
    device = kernel.device_fd(group, "0000:01:00.0")
    kernel.close(device)
    kernel.unset_container(group)
    kernel.close(group, container)
    assert kernel.host.call_names() == [
        "open /dev/vfio/vfio",
        "open /dev/vfio/1",
        "ioctl VFIO_GROUP_SET_CONTAINER",
        "ioctl VFIO_SET_IOMMU",
        "ioctl VFIO_GROUP_GET_DEVICE_FD",
        "close device 0000:01:00.0",
        "ioctl VFIO_GROUP_UNSET_CONTAINER",
        "close group 1",
        "close container",
    ]


def test_a_number_means_what_its_file_makes_of_it(kernel: Any, refused: Any) -> None:
    container, _groups = kernel.container_with(1)
    device = kernel.cdev("0000:02:00.0")
    for fd in (container, device):
        with refused(errno.EINVAL):
            kernel.ioctl(fd, vfio.VFIO_IOMMU_MAP_DMA, bytearray(32))
    names = [call.operation for call in kernel.host.calls[-2:]]
    assert names == ["VFIO_IOMMU_MAP_DMA", "VFIO_DEVICE_PCI_HOT_RESET"]


def test_a_call_has_its_target_result_and_errno(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    with refused(errno.EINVAL):
        kernel.unset_container(group)
    opened, failed = kernel.host.calls
    assert (opened.target, opened.result, opened.errno) == ("/dev/vfio/1", group, None)
    assert (failed.target, failed.result, failed.errno) == ("group 1", None, errno.EINVAL)


def test_an_unknown_request_is_recorded_by_number(kernel: Any, refused: Any) -> None:
    with refused(errno.ENOTTY):
        kernel.ioctl(kernel.open("/dev/vfio/1"), 0x1234)
    assert kernel.host.call_names()[-1] == "ioctl 0x1234"


def test_recording_can_be_off(machine: Any) -> None:
    kernel = machine(record=False)
    kernel.open("/dev/vfio/1")
    assert kernel.host.calls == []


def test_the_record_can_begin_anew(kernel: Any) -> None:
    kernel.open("/dev/vfio/1")
    kernel.host.forget_calls()
    assert kernel.host.call_names() == []


def test_a_call_fails_on_demand_and_then_works(kernel: Any, refused: Any) -> None:
    kernel.host.fail("open /dev/vfio/1", errno.EACCES)
    with refused(errno.EACCES):
        kernel.open("/dev/vfio/1")
    kernel.open("/dev/vfio/1")


def test_a_failure_may_come_later_and_more_than_once(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    kernel.host.fail("VFIO_GROUP_GET_STATUS", errno.ENODEV, after=1, times=2)
    kernel.status(group)
    for _ in range(2):
        with refused(errno.ENODEV):
            kernel.status(group)
    kernel.status(group)


def test_a_failure_asked_for_no_times_does_not_happen(kernel: Any) -> None:
    kernel.host.fail("open", errno.EMFILE, times=0)
    kernel.open("/dev/vfio/1")


def test_a_whole_kind_of_call_can_fail(kernel: Any, refused: Any) -> None:
    kernel.host.fail("eventfd", errno.EMFILE)
    with refused(errno.EMFILE):
        kernel.host.eventfd()
    kernel.host.fail("open", errno.EMFILE)
    with refused(errno.EMFILE):
        kernel.open("/dev/iommu")


def test_a_close_that_fails_has_closed(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    kernel.host.fail("close group 1", errno.EIO)
    with refused(errno.EIO):
        kernel.close(group)
    assert kernel.host.open_files() == []


def test_failures_that_have_not_happened_can_be_cleared(kernel: Any, refused: Any) -> None:
    kernel.host.fail("open", errno.EMFILE, times=99)
    kernel.host.fail("eventfd", errno.EMFILE, after=3)
    with refused(errno.EMFILE):
        kernel.open("/dev/iommu")
    kernel.host.clear_failures()
    kernel.open("/dev/iommu")
    for _ in range(4):
        kernel.close(kernel.host.eventfd())


def test_a_failure_can_be_asked_for_after_others_were_cleared(kernel: Any, refused: Any) -> None:
    kernel.host.clear_failures()
    kernel.host.fail("open", errno.EMFILE)
    with refused(errno.EMFILE):
        kernel.open("/dev/iommu")


def test_an_unknown_device_is_a_key_error(kernel: Any) -> None:
    with pytest.raises(KeyError):
        kernel.device("0000:ff:00.0")
