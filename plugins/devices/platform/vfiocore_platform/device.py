"""A platform device: register regions, interrupt lines, compatible strings, reset."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, ClassVar

from vfiocore.device import Device
from vfiocore.errors import (
    DeviceAccessError,
    DeviceNotFoundError,
    UnsupportedError,
    kernel_error,
)
from vfiocore.region import ByteOrder, Region
from vfiocore.uapi import vfio
from vfiocore_platform.irq import PlatformIrq

if TYPE_CHECKING:
    from vfiocore.access import IrqInfo
    from vfiocore.registration import DeviceSetup


class PlatformDevice(Device):
    """A device behind vfio-platform.

    Registers have the byte order of the machine: the kernel copies what a load returned.

    Attributes:
        regions: Its regions in the order of its resources; an I/O port region is there, but the
            kernel neither reads nor writes it (no flags).
        irqs: Its interrupt lines, in order; see `PlatformIrq.handling`.
        compatible: What the device tree says it is, most specific first; empty for a device that
            ACPI describes.
    """

    regions: tuple[Region, ...]
    irqs: tuple[PlatformIrq, ...]
    compatible: tuple[str, ...]

    # vfio_platform_common.c:vfio_platform_read_mmio: ioread32 and copy_to_user, nothing swapped.
    byteorder: ClassVar[ByteOrder] = sys.byteorder

    def __init__(self, setup: DeviceSetup) -> None:
        """Look at the open device; nothing of it changes.

        Raises:
            UnsupportedError: EINVAL, it is not a platform device.
            DeviceNotFoundError: ENOENT, only an fd is known of it.
        """
        super().__init__(setup)
        self._check_kind()
        self.compatible = self._read_compatible()
        self.regions = tuple(self.region(index) for index in range(self.info.num_regions))
        self.irqs = tuple(self.irq(index) for index in range(self.info.num_irqs))

    @property
    def resettable(self) -> bool:
        """True if the kernel has a reset function for it."""
        return bool(self.info.flags & vfio.VFIO_DEVICE_FLAGS_RESET)

    def irq(self, index: int) -> PlatformIrq:
        """The interrupt line with this index; the same object each time.

        Raises:
            DeviceAccessError: EINVAL, the device has no such line.
        """
        line = super().irq(index)
        assert isinstance(line, PlatformIrq)
        return line

    def make_irq(self, info: IrqInfo, name: str) -> PlatformIrq:
        """A line, which knows how to be handled."""
        return PlatformIrq(self.access, info, name)

    def reset(self) -> None:
        """Reset the device with VFIO_DEVICE_RESET; interrupts stay wired.

        Raises:
            DeviceAccessError: EINVAL, the kernel has no reset function for it; or what that
                function returned.
        """
        try:
            super().reset()
        except DeviceAccessError as error:
            if error.errno != errno.EINVAL or self.resettable:
                raise
            raise self._no_reset(error) from error

    # ----------------------------------------------------------------------------------------
    def _check_kind(self) -> None:
        flags = self.info.flags
        if flags & vfio.VFIO_DEVICE_FLAGS_PLATFORM:
            return
        reason = (
            "it is an AMBA device (vfio-amba), which is not supported"
            if flags & vfio.VFIO_DEVICE_FLAGS_AMBA
            else "it is not a platform device"
        )
        raise UnsupportedError(
            errno.EINVAL,
            "VFIO_DEVICE_GET_INFO",
            self.name,
            reason,
            "another device type fits it, or sysfsdev= or fd= is of another device",
        )

    def _read_compatible(self) -> tuple[str, ...]:
        """``of_node/compatible``: strings that end in NUL each."""
        device = self.target.device
        if device is None:
            raise DeviceNotFoundError(
                errno.ENOENT,
                "read",
                self.name,
                "its compatible strings are read from sysfs, and only an fd is known of it",
                "give sysfsdev= beside fd=",
            )
        path = f"{device.path}/of_node/compatible"
        try:
            data = self.host.read_file(path)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise kernel_error(error, "read", path) from error
        return tuple(part.decode(errors="replace") for part in data.split(b"\0") if part)

    def _no_reset(self, error: DeviceAccessError) -> DeviceAccessError:
        what = self.compatible[0] if self.compatible else "a device of ACPI without _RST"
        return DeviceAccessError(
            errno.EINVAL,
            error.operation,
            error.subject,
            f"the kernel has no reset function for {what}",
            "such a device can only be bound with vfio_platform.reset_required=0; load the module"
            " that has its reset function, then bind it again",
        )
