"""Devices for whole suites: bound once for each, since most of its tests open them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.guest.binding import given_to
from tests.vm.guest.devices import Device, pci_functions


@pytest.fixture(scope="module")
def virtio_disks() -> Iterator[tuple[Device, Device]]:
    """Two virtio disks, each alone in its group."""
    with given_to("vfio-pci", *pci_functions("1af4:1042")) as (first, second):
        yield first, second
