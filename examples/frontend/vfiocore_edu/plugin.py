"""Registers the device type ``edu``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vfiocore import hookimpl
from vfiocore.config import TypeSchema, selector_check
from vfiocore.config.selectors import FD, HOST_PCI, SYSFSDEV
from vfiocore.registration import DeviceType

if TYPE_CHECKING:
    from vfiocore.registration import DeviceSetup
    from vfiocore_edu.card import EduCard

VFIOCORE_API = 1

SELECTORS = (HOST_PCI, SYSFSDEV, FD)
SCHEMA = TypeSchema(
    name="edu",
    help="QEMU's educational card: factorials, and copies of memory.",
    properties=SELECTORS,
    provider="vfiocore-edu",
    check=selector_check(selectors=SELECTORS),
)


@hookimpl
def vfio_register_device_types() -> Iterator[DeviceType]:
    """Found on the PCI bus."""
    yield DeviceType(schema=SCHEMA, bus="pci", wrap=wrap)


def wrap(setup: DeviceSetup) -> EduCard:
    """Make the driver of an open card; what it needs is imported now."""
    from vfiocore_edu.card import EduCard  # noqa: PLC0415 - plugin modules stay light

    return EduCard(setup)
