"""Devices for whole suites: bound once for each, since most of its tests open them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.guest.binding import given_to, new_mdev, setting
from tests.vm.guest.conftest import CCW_UUID, UNSAFE_NOIOMMU
from tests.vm.guest.devices import Device, pci_functions, platform_node


@pytest.fixture(scope="module")
def virtio_disks() -> Iterator[tuple[Device, Device]]:
    """Two virtio disks, each alone in its group."""
    with given_to("vfio-pci", *pci_functions("1af4:1042")) as (first, second):
        yield first, second


@pytest.fixture(scope="module")
def edu() -> Iterator[Device]:
    """QEMU's edu card, alone in its group."""
    with given_to("vfio-pci", pci_functions("1234:11e8")[0]) as (card,):
        yield card


@pytest.fixture(scope="module")
def ivshmem() -> Iterator[Device]:
    """A card whose BAR 2 is memory."""
    with given_to("vfio-pci", *pci_functions("1af4:1110")) as (card,):
        yield card


@pytest.fixture(scope="module")
def nvme() -> Iterator[Device]:
    with given_to("vfio-pci", pci_functions("1b36:0010")[0]) as (controller,):
        yield controller


@pytest.fixture(scope="module")
def zpci() -> Iterator[Device]:
    """A network card as a PCI function of s390."""
    with given_to("vfio-pci", *pci_functions("1af4:1041")) as (card,):
        yield card


@pytest.fixture(scope="module")
def platform() -> Iterator[Device]:
    """A virtio-mmio device behind the SMMU."""
    with given_to("vfio-platform", platform_node("a003e00.virtio_mmio")) as (node,):
        yield node


@pytest.fixture(scope="module")
def platform_noiommu() -> Iterator[Device]:
    """The same, behind nothing."""
    with (
        setting(UNSAFE_NOIOMMU, "Y"),
        given_to("vfio-platform", platform_node("a003e00.virtio_mmio")) as (node,),
    ):
        yield node


@pytest.fixture(scope="module")
def ccw(subchannels: tuple[Device, ...]) -> Iterator[Device]:
    """The disk's subchannel, as the mediated device that vfio_ccw makes of it."""
    with new_mdev(subchannels[0], "vfio_ccw-io", CCW_UUID) as disk:
        yield disk
