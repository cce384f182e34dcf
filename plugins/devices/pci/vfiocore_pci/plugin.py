"""What this distribution adds: the device type ``vfio-pci``."""

from __future__ import annotations

from collections.abc import Iterator

from vfiocore.config import types
from vfiocore.config.schema import Property, TypeSchema
from vfiocore.config.selectors import (
    ENABLE_MIGRATION,
    FD,
    HOST_PCI,
    SYSFSDEV,
    X_BALLOON_ALLOWED,
    selector_check,
)
from vfiocore.hookspecs import hookimpl
from vfiocore.registration import DeviceType
from vfiocore_pci.device import PciDevice

VFIOCORE_API = 1

VF_TOKEN = Property(
    "vf-token", types.UUID, "The secret that a VF of a vfio-bound PF asks for, or sets on its PF."
)

SCHEMA = TypeSchema(
    name="vfio-pci",
    help="A PCI device, or an mdev that looks like one.",
    properties=(
        HOST_PCI,
        SYSFSDEV,
        FD,
        VF_TOKEN,
        X_BALLOON_ALLOWED,
        ENABLE_MIGRATION,
    ),
    provider="vfiocore-pci",
    check=selector_check(selectors=(HOST_PCI, SYSFSDEV, FD)),
)


@hookimpl
def vfio_register_device_types() -> Iterator[DeviceType]:
    """Register ``vfio-pci``."""
    yield DeviceType(schema=SCHEMA, bus="pci", wrap=PciDevice, device_api="vfio-pci")
