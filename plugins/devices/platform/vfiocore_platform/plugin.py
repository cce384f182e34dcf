"""What this distribution adds: the device type ``vfio-platform``."""

from __future__ import annotations

from collections.abc import Iterator

from vfiocore.config.schema import TypeSchema
from vfiocore.config.selectors import ENABLE_MIGRATION, FD, HOST_NAME, SYSFSDEV, selector_check
from vfiocore.hookspecs import hookimpl
from vfiocore.registration import DeviceType
from vfiocore_platform.device import PlatformDevice

VFIOCORE_API = 1

SCHEMA = TypeSchema(
    name="vfio-platform",
    help="A platform device: memory-mapped registers and interrupt lines.",
    properties=(HOST_NAME, SYSFSDEV, FD, ENABLE_MIGRATION),
    provider="vfiocore-platform",
    check=selector_check(
        selectors=(HOST_NAME, SYSFSDEV, FD),
        fd_needs_sysfsdev="its compatible strings are read from sysfs",
    ),
)


@hookimpl
def vfio_register_device_types() -> Iterator[DeviceType]:
    """Register ``vfio-platform``."""
    yield DeviceType(schema=SCHEMA, bus="platform", wrap=PlatformDevice)
