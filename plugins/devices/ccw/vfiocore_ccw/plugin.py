"""Registers the device type ``vfio-ccw``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import evolve

from vfiocore.config import BOOL, Property, TypeSchema, exclude_selectors
from vfiocore.config.selectors import ENABLE_MIGRATION, FD, SYSFSDEV
from vfiocore.hookspecs import hookimpl
from vfiocore.registration import DeviceSetup, DeviceType

if TYPE_CHECKING:
    from vfiocore_ccw.device import CcwDevice

VFIOCORE_API = 1

SCHEMA = TypeSchema(
    name="vfio-ccw",
    help="A channel-attached device, through its subchannel (s390 CCW).",
    properties=(
        evolve(
            SYSFSDEV,
            required=True,
            help="The directory of the mdev in sysfs, also beside fd=: the directory above it"
            " names the subchannel.",
        ),
        FD,
        Property(
            "force-orb-pfch",
            BOOL,
            "Allow prefetching for every channel program, also where its request does not.",
            default=False,
        ),
        ENABLE_MIGRATION,
    ),
    provider="vfiocore-ccw",
    check=exclude_selectors,
)


@hookimpl
def vfio_register_device_types() -> Iterator[DeviceType]:
    """One type."""
    yield DeviceType(schema=SCHEMA, bus="mdev", wrap=_wrap, device_api="vfio-ccw", always_mdev=True)


def _wrap(setup: DeviceSetup) -> CcwDevice:
    from vfiocore_ccw.device import CcwDevice  # noqa: PLC0415 - only who opens one pays for it

    return CcwDevice(setup)
