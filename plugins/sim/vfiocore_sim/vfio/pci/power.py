"""Runtime low power: the LOW_POWER_* features of vfio-pci."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
    VFIO_DEVICE_FEATURE_SET,
    vfio_device_low_power_entry_with_wakeup,
)
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.base import Feature
from vfiocore_sim.vfio.eventfd import EventFd


class LowPower:
    """Whether the user let the device sleep (``vfio_pci_core.c:vfio_pci_runtime_pm_entry``)."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called after `engaged` has changed."""
        self.engaged: bool = False
        self._changed = changed
        self._wakeup: EventFd | None = None

    def features(self) -> Mapping[int, Feature]:
        """The three features."""
        return {
            VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: Feature(
                VFIO_DEVICE_FEATURE_SET, 0, lambda _data: self._enter(None)
            ),
            VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: Feature(
                VFIO_DEVICE_FEATURE_SET, 8, self._enter_with_wakeup
            ),
            VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: Feature(
                VFIO_DEVICE_FEATURE_SET, 0, lambda _data: self._exit()
            ),
        }

    def _enter(self, wakeup: EventFd | None) -> int:
        if self.engaged:
            fail(errno.EINVAL)
        self.engaged = True
        self._wakeup = wakeup
        self._changed()
        return 0

    def _enter_with_wakeup(self, data: bytes) -> int:
        entry = vfio_device_low_power_entry_with_wakeup.from_buffer_copy(data)
        if entry.wakeup_eventfd < 0:
            fail(errno.EINVAL)
        event = EventFd(entry.wakeup_eventfd)
        try:
            return self._enter(event)
        except OSError:
            event.close()
            raise

    def _exit(self) -> int:
        """Idempotent; with a wakeup eventfd the access itself has ended it already."""
        self.engaged = False
        self._changed()
        return 0

    def resume(self) -> None:
        """Any access wakes the device; with a wakeup eventfd it stays awake and says so.

        ``vfio_pci_core.c:vfio_pci_core_runtime_resume``.
        """
        event, self._wakeup = self._wakeup, None
        if event is None:
            return
        self.engaged = False
        self._changed()
        event.signal()
        event.close()

    def close(self) -> None:
        """Last close: awake, and nobody is told."""
        event, self._wakeup = self._wakeup, None
        self.engaged = False
        if event is not None:
            event.close()
