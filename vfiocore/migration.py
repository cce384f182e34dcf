"""May a device be migrated while it runs? A fact of each device, decided once when it is opened.

Source: VFIO_DEVICE_FEATURE_MIGRATION (Linux 5.18), VFIO_DEVICE_FEATURE_DMA_LOGGING_START
(Linux 6.1), and what the container can track.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from attrs import frozen

from vfiocore.config.types import OnOffAuto
from vfiocore.container import Capability, Container
from vfiocore.errors import UnsupportedError
from vfiocore.feature import has_feature
from vfiocore.uapi import vfio

if TYPE_CHECKING:
    from vfiocore.access import DeviceAccess


@frozen(kw_only=True)
class MigrationFacts:
    """Whether live migration is on for a device.

    Attributes:
        enabled: True if the device may be migrated.
        supported: True if its driver can save and load its state.
        dirty_tracking: True if the pages that it writes can be tracked, by itself or its IOMMU.
        reason: Why migration is off, or what it costs; empty if all is well.
    """

    enabled: bool
    supported: bool
    dirty_tracking: bool
    reason: str = ""


def decide_migration(wish: OnOffAuto, access: DeviceAccess, container: Container) -> MigrationFacts:
    """Apply ``enable-migration=`` to what the device and its container can do.

    Without dirty tracking migration is off; ``on`` forces it, with a warning, since all of memory
    then counts as dirty.

    Raises:
        UnsupportedError: ENOTTY, ``on`` for a device whose driver cannot save its state.
    """
    supported = has_feature(
        access, vfio.VFIO_DEVICE_FEATURE_MIGRATION, vfio.VFIO_DEVICE_FEATURE_GET
    )
    tracked = Capability.DIRTY_TRACKING in container.capabilities or has_feature(
        access, vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, vfio.VFIO_DEVICE_FEATURE_SET
    )
    enabled, reason = _decision(wish, access, supported=supported, tracked=tracked)
    return MigrationFacts(
        enabled=enabled, supported=supported, dirty_tracking=tracked, reason=reason
    )


def _decision(
    wish: OnOffAuto, access: DeviceAccess, *, supported: bool, tracked: bool
) -> tuple[bool, str]:
    if wish is OnOffAuto.OFF:
        return False, "enable-migration=off"
    if not supported and wish is OnOffAuto.ON:
        raise UnsupportedError(
            errno.ENOTTY,
            "VFIO_DEVICE_FEATURE_MIGRATION",
            access.name,
            "enable-migration=on, but the device's driver cannot save its state",
            "leave enable-migration out, or bind the device to a variant driver that can",
        )
    if not supported:
        return False, "the device's driver cannot save its state"
    if tracked:
        return True, ""
    if wish is OnOffAuto.AUTO:
        return False, "neither the device nor its IOMMU tracks dirty pages"
    reason = "without dirty tracking all memory counts as dirty"
    access.log.warn_of(
        "migration.forced",
        f"{access.name}: enable-migration=on: {reason}; migration will be slow",
        device=access.name,
    )
    return True, reason
