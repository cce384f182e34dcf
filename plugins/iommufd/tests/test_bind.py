from __future__ import annotations

import errno
from typing import Any
from uuid import UUID

import pytest

from vfiocore.errors import (
    AccessDeniedError,
    BusyError,
    DeviceNotFoundError,
    GroupNotViableError,
    KernelError,
    UnsupportedError,
)

CARD = "0000:02:00.0"
VIRTUAL = "0000:09:00.0"
TOKEN = UUID("2f1b7a9c-0b1e-4c57-9a3f-0d5c6d1e2f30")
MATRIX = "6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01"
BIND = "VFIO_DEVICE_BIND_IOMMUFD"


def test_a_group_that_is_open_elsewhere_is_named(rig: Any, host: Any) -> None:
    group = host.open("/dev/vfio/1")
    with pytest.raises(BusyError, match="/dev/vfio/1 is open"):
        rig.open(CARD)
    host.close(group)


def test_a_device_that_is_bound_already_is_busy(rig: Any) -> None:
    rig.open(CARD, iommufd=rig.iommufd("one"))
    with pytest.raises(BusyError, match="in use already") as info:
        rig.open(CARD, iommufd=rig.iommufd("two"))
    assert info.value.errno == errno.EINVAL


def test_a_device_that_may_be_bound_already_is_told_as_one_cause_of_several(rig: Any) -> None:
    # Its group is busy, but that may be for the other device of it.
    rig.open("0000:06:00.0")
    with pytest.raises(KernelError, match="the device is open or bound already") as info:
        rig.open("0000:06:00.0")
    assert not isinstance(info.value, BusyError)


def test_a_device_that_does_not_bind_for_another_reason_is_not_busy(rig: Any, host: Any) -> None:
    host.fail(BIND, errno.EINVAL)
    with pytest.raises(KernelError, match="possible causes") as info:
        rig.open(CARD)
    assert not isinstance(info.value, BusyError)
    assert host.open_files() == []


def test_a_host_driver_in_the_group_is_named(rig: Any, host: Any) -> None:
    with pytest.raises(GroupNotViableError, match=r"group 3: 0000:04:00\.1 \(e1000e\) \[") as info:
        rig.open("0000:04:00.0")
    assert info.value.hint == "bind them to vfio-pci, or to no driver"
    assert host.open_files() == []


def test_a_group_used_through_another_iommufd_is_told(rig: Any) -> None:
    rig.open("0000:06:00.0", iommufd=rig.iommufd("one"))
    with pytest.raises(AccessDeniedError, match="in use through another iommufd"):
        rig.open("0000:06:00.1", iommufd=rig.iommufd("two"))


def test_interrupts_that_are_not_isolated_are_told(rig: Any) -> None:
    with pytest.raises(AccessDeniedError, match="allow_unsafe_interrupts"):
        rig.open("0000:0a:00.0")


def test_a_device_without_iommu_group_is_told(rig: Any, host: Any) -> None:
    host.fail(BIND, errno.ENODEV)
    with pytest.raises(DeviceNotFoundError, match="enable the IOMMU"):
        rig.open(CARD)


def test_a_driver_that_needs_a_virtual_machine_is_told(rig: Any) -> None:
    with pytest.raises(KernelError, match="wants a virtual machine first"):
        rig.open(MATRIX, bus="mdev")


# -- VF tokens -----------------------------------------------------------------------------------
def test_the_vf_token_reaches_the_driver(rig: Any) -> None:
    assert rig.open(VIRTUAL, token=TOKEN).access.name == VIRTUAL


@pytest.mark.parametrize("token", [None, UUID(int=1)])
def test_a_missing_or_wrong_vf_token_is_told(rig: Any, token: UUID | None) -> None:
    with pytest.raises(AccessDeniedError, match="vf-token="):
        rig.open(VIRTUAL, token=token)


def test_a_vf_token_for_a_device_that_takes_none_is_an_error(rig: Any, host: Any) -> None:
    with pytest.raises(KernelError, match="it takes no vf-token") as info:
        rig.open(CARD, token=TOKEN)
    assert not isinstance(info.value, UnsupportedError)
    assert host.open_files() == []


def test_a_vf_token_on_a_kernel_without_tokens_is_an_error(rig: Any, host: Any) -> None:
    host.fail(BIND, errno.EINVAL, times=2)
    with pytest.raises(UnsupportedError, match=r"Linux 6\.17"):
        rig.open(CARD, token=TOKEN)


def test_without_a_token_the_bind_is_that_of_the_first_kernels(
    rig: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, ioctl = [], host.ioctl

    def seen(fd: int, request: int, arg: Any = 0) -> int:
        if request == 0x3B76:
            sizes.append(arg.argsz)
        return int(ioctl(fd, request, arg))

    monkeypatch.setattr(host, "ioctl", seen)
    rig.open(CARD)
    rig.open(VIRTUAL, token=TOKEN)
    assert sizes == [16, 24]
