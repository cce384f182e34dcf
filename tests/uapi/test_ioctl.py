"""Request numbers, as strace shows them on each kind of machine."""

from __future__ import annotations

import platform

import pytest

from vfiocore.uapi import kvm, pci_regs, vfio
from vfiocore.uapi.ioctl import encoding_of

GENERIC = ["x86_64", "aarch64", "s390x", "riscv64"]
THREE_DIRECTION_BITS = ["ppc64le", "ppc64", "mips64", "sparc64", "alpha"]


@pytest.mark.parametrize("machine", GENERIC)
def test_a_vfio_request_without_direction_has_no_high_bits(machine: str) -> None:
    encoding = encoding_of(machine)
    assert encoding.encode(encoding.none, vfio.VFIO_TYPE, 100, 0) == 0x3B64


@pytest.mark.parametrize("machine", THREE_DIRECTION_BITS)
def test_no_direction_is_a_set_bit_on_some_machines(machine: str) -> None:
    encoding = encoding_of(machine)
    assert encoding.encode(encoding.none, vfio.VFIO_TYPE, 100, 0) == 0x20003B64


@pytest.mark.parametrize(
    ("machine", "set_attr", "create"),
    [("x86_64", 0x4018AEE1, 0xC00CAEE0), ("ppc64le", 0x8018AEE1, 0xC00CAEE0)],
)
def test_size_and_direction_are_part_of_a_kvm_request(
    machine: str, set_attr: int, create: int
) -> None:
    encoding = encoding_of(machine)
    assert encoding.encode(encoding.write, kvm.KVMIO, 0xE1, 24) == set_attr
    assert encoding.encode(encoding.read | encoding.write, kvm.KVMIO, 0xE0, 12) == create


def test_the_declared_requests_are_those_of_this_machine() -> None:
    encoding = encoding_of(platform.machine())
    expected = encoding.encode(encoding.none, ord(";"), 120, 0)
    assert expected == vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT


def test_an_extended_capability_header_holds_id_version_and_next() -> None:
    header = 0x14820001
    assert pci_regs.PCI_EXT_CAP_ID(header) == pci_regs.PCI_EXT_CAP_ID_ERR
    assert pci_regs.PCI_EXT_CAP_VER(header) == 2
    assert pci_regs.PCI_EXT_CAP_NEXT(header) == 0x148
