"""Registers the device type ``vfio-ap``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vfiocore.config import TypeSchema
from vfiocore.config.selectors import ENABLE_MIGRATION, FD, SYSFSDEV, selector_check
from vfiocore.hookspecs import hookimpl
from vfiocore.registration import DeviceSetup, DeviceType

if TYPE_CHECKING:
    from vfiocore_ap.device import ApDevice

VFIOCORE_API = 1

SCHEMA = TypeSchema(
    name="vfio-ap",
    help="A matrix of cryptographic adapters and domains (s390 AP).",
    properties=(SYSFSDEV, FD, ENABLE_MIGRATION),
    provider="vfiocore-ap",
    check=selector_check(selectors=(SYSFSDEV, FD)),
)


@hookimpl
def vfio_register_device_types() -> Iterator[DeviceType]:
    """One type; vfio_ap refuses to open a device that no virtual machine is linked to."""
    yield DeviceType(
        schema=SCHEMA,
        bus="mdev",
        wrap=_wrap,
        device_api="vfio-ap",
        always_mdev=True,
        needs_kvm=True,
    )


def _wrap(setup: DeviceSetup) -> ApDevice:
    from vfiocore_ap.device import ApDevice  # noqa: PLC0415 - only who opens one pays for it

    return ApDevice(setup)
