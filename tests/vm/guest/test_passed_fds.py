"""Files that somebody else has opened are used, and left open."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vfiocore import Framework
from vfiocore.config.types import FdRef
from vfiocore.errors import ConfigError
from vfiocore.fds import FdTable
from vfiocore.host import LinuxHost
from vfiocore.session import Session

from . import edu as card_of
from .devices import Device


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A file as somebody else opens it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def cdev_of(device: Device) -> str:
    (name,) = os.listdir(device.path / "vfio-dev")
    return f"/dev/vfio/devices/{name}"


def assert_moves_data(session: Session) -> None:
    with card_of.running(session["card"]) as vector:
        memory = session.dma_alloc(64, below=card_of.REACH)
        memory.write(0, b"from outside")
        card_of.load(session["card"], vector, memory.iova, 12)
        card_of.store(session["card"], vector, memory.iova + 32, 12)
        assert memory.read(32, 12) == b"from outside"


def assert_open(fd: int) -> None:
    os.fstat(fd)


def test_a_passed_iommufd_is_used_and_left_open(edu: Device, framework: Framework) -> None:
    with opened("/dev/iommu") as iommufd:
        for _ in range(2):
            with framework.open(
                f"-object iommufd,id=iommufd0,fd={iommufd}"
                f" -device vfio-pci,id=card,{edu.selector},iommufd=iommufd0"
            ) as session:
                assert_moves_data(session)
            assert_open(iommufd)


def test_a_passed_device_is_used_and_left_open(edu: Device, framework: Framework) -> None:
    with opened(cdev_of(edu)) as device:
        with framework.open(
            f"-object iommufd,id=iommufd0 -device vfio-pci,id=card,fd={device},iommufd=iommufd0"
        ) as session:
            assert session["card"].name == f"VFIO_FD{device}"
            assert_moves_data(session)
        assert_open(device)


def test_a_passed_device_is_checked_to_be_the_one_that_sysfs_means(
    edu: Device, twins: tuple[Device, Device], framework: Framework
) -> None:
    words = "-object iommufd,id=iommufd0 -device vfio-pci,id=card,iommufd=iommufd0"
    with opened(cdev_of(edu)) as device:
        with pytest.raises(OSError, match="sysfs means") as caught:
            framework.open(f"{words},fd={device},sysfsdev={twins[0].path}")
        assert caught.value.errno == errno.ENXIO
        with framework.open(f"{words},fd={device},sysfsdev={edu.path}") as session:
            assert session["card"].name == edu.name
        assert_open(device)


def test_files_that_came_over_a_socket_are_used_by_name(edu: Device) -> None:
    ours, theirs = socket.socketpair()
    fds = FdTable()
    with ours, theirs:
        with opened("/dev/iommu") as iommufd, opened(cdev_of(edu)) as device:
            names = json.dumps(["iommu", "card"]).encode()
            socket.send_fds(theirs, [names], [iommufd, device])
        assert fds.receive(LinuxHost(), ours.fileno()) == ["iommu", "card"]
    received = [fds.resolve(FdRef(name=name), name) for name in ("iommu", "card")]
    try:
        with Framework(host="linux", fds=fds).open(
            "-object iommufd,id=iommufd0,fd=iommu -device vfio-pci,id=card,fd=card,iommufd=iommufd0"
        ) as session:
            assert_moves_data(session)
        for fd in received:
            assert_open(fd)
    finally:
        for fd in received:
            os.close(fd)


def test_the_legacy_backend_takes_no_passed_device(edu: Device, framework: Framework) -> None:
    with opened(cdev_of(edu)) as device, pytest.raises(ConfigError, match="fd"):
        framework.open(f"-device vfio-pci,id=card,fd={device}")
