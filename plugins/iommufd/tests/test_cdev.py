from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest

from vfiocore.errors import (
    AccessDeniedError,
    BusyError,
    DeviceNotFoundError,
    HostUnsupportedError,
    KernelError,
)
from vfiocore.host import FileStat
from vfiocore_sim.device import SimDevice
from vfiocore_sim.topology import Topology

CARD = "0000:02:00.0"
OTHER = "0000:05:00.0"
NODE = "/dev/vfio/devices/vfio0"


def forge(host: Any, monkeypatch: pytest.MonkeyPatch, *answers: FileStat | None) -> None:
    """Let the next calls of fstat answer what is given; None is the truth."""
    left, truth = list(answers), host.fstat

    def fstat(fd: int) -> FileStat:
        answer = left.pop(0) if left else None
        return truth(fd) if answer is None else answer

    monkeypatch.setattr(host, "fstat", fstat)


# -- found through sysfs -------------------------------------------------------------------------
def test_without_a_named_node_the_node_by_number_is_opened(rig: Any, host: Any) -> None:
    host.fail(f"open {NODE}", errno.ENOENT)
    rig.open(CARD)
    opens = [name for name in host.call_names() if name.startswith("open ")]
    assert opens[1] == f"open {NODE}"
    assert opens[2].startswith("open /dev/char/")


def test_a_node_of_another_device_is_closed_again_and_not_used(
    rig: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(host, monkeypatch, FileStat(stat.S_IFCHR, os.makedev(1, 3)))
    rig.open(CARD)
    names = host.call_names()
    assert names[1:3] == [f"open {NODE}", f"close device {CARD}"]
    assert names[3].startswith("open /dev/char/")


def test_a_node_that_is_no_character_device_is_not_used(
    rig: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = FileStat(stat.S_IFREG, 0)
    forge(host, monkeypatch, regular, regular)
    with pytest.raises(DeviceNotFoundError, match="it is no character device, sysfs means") as info:
        rig.open(CARD)
    assert info.value.subject == NODE
    assert host.open_files() == []


def test_a_missing_node_is_told_by_its_name(rig: Any, host: Any) -> None:
    host.fail("open", errno.ENOENT, after=1, times=2)
    with pytest.raises(DeviceNotFoundError, match="udev makes the nodes") as info:
        rig.open(CARD)
    assert info.value.subject == NODE
    assert info.value.errno == errno.ENOENT


def test_missing_permission_is_told_at_once(rig: Any, host: Any) -> None:
    host.fail(f"open {NODE}", errno.EACCES)
    with pytest.raises(AccessDeniedError, match="read and write permission on the node"):
        rig.open(CARD)
    assert host.open_files() == []


def test_a_device_on_a_host_driver_has_no_cdev(rig: Any, host: Any) -> None:
    with pytest.raises(HostUnsupportedError, match="it is bound to e1000e"):
        rig.open("0000:04:00.1")
    assert host.open_files() == []


def test_a_kernel_without_cdevs_is_told_from_its_sysfs(make_rig: Any) -> None:
    rig = make_rig(without={"cdev"})
    with pytest.raises(HostUnsupportedError, match="CONFIG_VFIO_DEVICE_CDEV"):
        rig.open(CARD)
    assert rig.host.open_files() == []


@pytest.mark.parametrize(
    ("noiommu", "reason"), [(True, "no-IOMMU group"), (False, "CONFIG_VFIO_DEVICE_CDEV")]
)
def test_a_folder_in_sysfs_without_a_device_number_is_no_cdev(
    make_rig: Any, noiommu: bool, reason: str
) -> None:
    folder = {"vfio-dev/vfio0/uevent": b""}
    topology = Topology().pci(CARD, SimDevice, group=1, noiommu=noiommu, files=folder)
    rig = make_rig(topology, without={"cdev"})
    with pytest.raises(HostUnsupportedError, match=reason):
        rig.open(CARD)


# -- passed in -------------------------------------------------------------------------------------
def test_a_passed_fd_is_used_and_left_open(rig: Any, host: Any) -> None:
    fd = host.open(NODE)
    opened = rig.open(CARD, fd=fd)
    assert opened.fd == fd
    rig.close()
    assert f"device {CARD}" in host.open_files()
    host.close(fd)
    assert host.open_files() == []


def test_a_passed_fd_is_detached_when_it_is_given_back(rig: Any, host: Any) -> None:
    fd = host.open(NODE)
    rig.open(CARD, fd=fd)
    host.forget_calls()
    rig.close()
    assert host.call_names()[0] == "ioctl VFIO_DEVICE_DETACH_IOMMUFD_PT"
    host.close(fd)


def test_a_passed_fd_needs_no_sysfs(rig: Any, host: Any) -> None:
    fd = host.open(NODE)
    opened = rig.open(CARD, fd=fd, sysfs=False)
    assert opened.access.name == f"VFIO_FD{fd}"
    assert opened.attachment.device.hw is not None
    rig.close()
    host.close(fd)


def test_a_passed_fd_stays_open_when_setting_up_fails(rig: Any, host: Any) -> None:
    fd = host.open(NODE)
    host.fail("IOMMU_IOAS_ALLOC", errno.ENOMEM)
    with pytest.raises(KernelError):
        rig.open(CARD, fd=fd)
    assert f"device {CARD}" in host.open_files()
    host.close(fd)
    assert host.open_files() == []


def test_a_passed_fd_and_sysfs_must_mean_the_same_device(rig: Any, host: Any) -> None:
    fd = host.open(NODE)
    with pytest.raises(DeviceNotFoundError, match="sysfs means"):
        rig.open(OTHER, fd=fd)
    host.close(fd)


def test_a_passed_fd_that_is_no_device_is_refused(rig: Any, host: Any) -> None:
    fd = host.eventfd()
    with pytest.raises(KernelError, match="not a character device"):
        rig.open(CARD, fd=fd)
    host.close(fd)


def test_a_passed_fd_that_is_closed_is_refused(rig: Any, host: Any) -> None:
    fd = host.eventfd()
    host.close(fd)
    with pytest.raises(KernelError) as info:
        rig.open(CARD, fd=fd, sysfs=False)
    assert info.value.errno == errno.EBADF


def test_a_passed_fd_that_is_bound_already_is_refused_with_what_to_pass_instead(
    rig: Any, host: Any
) -> None:
    fd = host.open(NODE)
    rig.open(CARD, fd=fd)
    rig.close()
    with pytest.raises(BusyError, match="pass one that was opened anew"):
        rig.open(CARD, fd=fd)
    host.close(fd)
