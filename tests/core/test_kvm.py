from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

import pytest

from vfiocore.errors import (
    ClosedError,
    DeviceNotFoundError,
    KernelError,
    UnsupportedError,
)
from vfiocore.kvm import KvmLink
from vfiocore.uapi import kvm

from .scripted import ScriptedHost, refusing


class KvmHost(ScriptedHost):
    """A machine with KVM, whose files are memory files."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.names: dict[int, str] = {}
        self.set: list[tuple[int, int, int, int]] = []
        self.answers = {
            kvm.KVM_CREATE_VM: lambda _arg: self.made("machine"),
            kvm.KVM_CREATE_DEVICE: self.create_device,
            kvm.KVM_SET_DEVICE_ATTR: self.set_attribute,
        }

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        assert path == "/dev/kvm"
        return self.made("kvm")

    def made(self, name: str) -> int:
        fd = self.memfd(name, 0)
        self.order.append(f"open {name}")
        self.names[fd] = name
        return fd

    def create_device(self, arg: kvm.kvm_create_device) -> int:
        assert arg.type == kvm.KVM_DEV_TYPE_VFIO
        arg.fd = self.made("device")
        return 0

    def set_attribute(self, arg: kvm.kvm_device_attr) -> int:
        fd = ctypes.c_int32.from_address(arg.addr).value
        self.set.append((arg.flags, arg.group, arg.attr, fd))
        return 0

    def close(self, fd: int) -> None:
        self.order.append(f"close {self.names[fd]}")
        super().close(fd)


@pytest.fixture
def host() -> KvmHost:
    return KvmHost()


def test_a_link_of_its_own_is_a_virtual_machine_with_a_vfio_device(host: KvmHost) -> None:
    link = KvmLink.create(host)
    assert host.names[link.fd] == "device"
    link.close()
    assert host.order == [
        "open kvm",
        "open machine",
        "open device",
        "close device",
        "close machine",
        "close kvm",
    ]
    link.close()
    assert host.files == set()


def test_files_are_added_and_removed_by_fd(host: KvmHost) -> None:
    link = KvmLink(host, 5)
    link.add(7)
    link.remove(7)
    assert host.set == [
        (0, kvm.KVM_DEV_VFIO_FILE, kvm.KVM_DEV_VFIO_FILE_ADD, 7),
        (0, kvm.KVM_DEV_VFIO_FILE, kvm.KVM_DEV_VFIO_FILE_DEL, 7),
    ]
    assert [fd for fd, _request in host.asked] == [5, 5]


@pytest.mark.parametrize("request_", [kvm.KVM_CREATE_VM, kvm.KVM_CREATE_DEVICE])
def test_a_link_that_cannot_be_made_leaves_nothing_open(host: KvmHost, request_: int) -> None:
    host.answers[request_] = refusing(errno.ENODEV)
    with pytest.raises(UnsupportedError):
        KvmLink.create(host)
    assert host.files == set()


def test_a_machine_without_kvm_is_told_what_to_do(host: KvmHost, monkeypatch: Any) -> None:
    def missing(*_: object) -> int:
        raise OSError(errno.ENOENT, "")

    monkeypatch.setattr(host, "open", missing)
    with pytest.raises(DeviceNotFoundError, match="enable KVM") as caught:
        KvmLink.create(host)
    assert caught.value.subject == "/dev/kvm"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EEXIST, KernelError), (errno.ENXIO, UnsupportedError)]
)
def test_what_kvm_refuses_is_typed(host: KvmHost, number: int, kind: type[KernelError]) -> None:
    host.answers[kvm.KVM_SET_DEVICE_ATTR] = refusing(number)
    with pytest.raises(kind) as caught:
        KvmLink(host, 5).add(7)
    assert (caught.value.errno, caught.value.operation) == (number, "KVM_SET_DEVICE_ATTR")


def test_a_passed_device_stays_open(host: KvmHost) -> None:
    fd = host.made("mine")
    KvmLink(host, fd).close()
    assert fd in host.files
    host.close(fd)


def test_a_closed_link_takes_no_file(host: KvmHost) -> None:
    link = KvmLink.create(host)
    link.close()
    for use in (link.add, link.remove):
        with pytest.raises(ClosedError):
            use(7)
    assert host.set == []
