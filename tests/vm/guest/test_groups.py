"""What the other devices of a card's IOMMU group mean for it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vfiocore.errors import GroupNotViableError, HostUnsupportedError

from . import edu as card_of
from .binding import driver_of, give_back, given_to
from .devices import Device
from .way import Way


@pytest.fixture
def card(mixed_slot: tuple[Device, Device]) -> Iterator[Device]:
    """The slot's edu card, with vfio-pci."""
    with given_to("vfio-pci", mixed_slot[0]) as (edu,):
        yield edu


@pytest.fixture
def disk(mixed_slot: tuple[Device, Device]) -> Device:
    """The slot's NVMe controller, with the driver that it has after booting."""
    assert driver_of(mixed_slot[1]) == "nvme"
    return mixed_slot[1]


@contextmanager
def without_driver(device: Device) -> Iterator[None]:
    """Take a device from its driver for a while."""
    (device.path / "driver/unbind").write_text(device.name, encoding="ascii")
    try:
        yield
    finally:
        give_back(device)


def test_a_group_with_a_device_on_a_host_driver_is_not_viable(
    card: Device, disk: Device, way: Way
) -> None:
    with pytest.raises(GroupNotViableError, match=rf"{disk.name} \(nvme\)") as caught:
        way.open(card)
    assert caught.value.errno == errno.EPERM
    assert "to no driver" in (caught.value.hint or "")


def test_a_group_can_be_opened_after_it_was_refused(card: Device, disk: Device, way: Way) -> None:
    with pytest.raises(GroupNotViableError):
        way.open(card)
    with without_driver(disk):
        assert_works(card, way)


def test_a_device_without_a_driver_is_not_in_the_way(card: Device, disk: Device, way: Way) -> None:
    with without_driver(disk):
        assert_works(card, way)


def assert_works(card: Device, way: Way) -> None:
    """The card moves data."""
    with way.open(card) as session, card_of.running(session["dev0"]) as vector:
        memory = session.dma_alloc(64, below=card_of.REACH)
        memory.write(0, b"not alone")
        card_of.load(session["dev0"], vector, memory.iova, 9)
        card_of.store(session["dev0"], vector, memory.iova + 32, 9)
        assert memory.read(32, 9) == b"not alone"


def test_a_host_driver_does_not_get_a_device_of_a_group_that_is_in_use(
    card: Device, disk: Device, way: Way
) -> None:
    with without_driver(disk):
        with way.open(card):
            with pytest.raises(OSError, match="Invalid argument"):
                give_back(disk)
            assert driver_of(disk) is None
        give_back(disk)
        assert driver_of(disk) == "nvme"


def test_a_device_on_no_vfio_driver_has_no_cdev(disk: Device, way: Way) -> None:
    if way.backend != "iommufd":
        return
    with pytest.raises(HostUnsupportedError, match="it is bound to nvme"):
        way.open(disk)
