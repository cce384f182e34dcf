"""Device features: what VFIO_DEVICE_FEATURE offers, asked for by number (Linux 5.7)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore.errors import DeviceAccessError, UnsupportedError
from vfiocore.uapi import vfio

if TYPE_CHECKING:
    from vfiocore.access import DeviceAccess


def has_feature(access: DeviceAccess, feature: int, operation: int) -> bool:
    """True if the device supports `operation` (``VFIO_DEVICE_FEATURE_GET``, ``_SET``) of it.

    Asked with VFIO_DEVICE_FEATURE_PROBE, so nothing changes.
    """
    try:
        access.feature(feature, operation | vfio.VFIO_DEVICE_FEATURE_PROBE)
    except UnsupportedError:
        return False
    except DeviceAccessError as error:
        # vfio.h:vfio_check_feature: the feature is there, but not this operation of it.
        if error.errno != errno.EINVAL:
            raise
        return False
    return True
