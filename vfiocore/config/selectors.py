"""The properties that the device types share, and the rules by which they select a device.

``host`` names the device on its bus, ``sysfsdev`` its directory in sysfs, ``fd`` a device file that
somebody else has opened. QEMU lets one override the other in silence; here two that contradict each
other are an error. ``fd`` with ``sysfsdev`` is fine: the fd is used, and sysfs tells what kind of
device it is, which an fd cannot (QEMU, docs/devel/vfio-iommufd.rst, "FD passing with mdev").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from attrs import frozen

from vfiocore.config import types
from vfiocore.config.model import Device
from vfiocore.config.schema import Check, Property
from vfiocore.errors import Problem

HOST_PCI = Property("host", types.PCI_ADDRESS, "The PCI address of the device on the host.")

HOST_NAME = Property("host", types.DEVICE_NAME, "The name of the device on its bus.")

SYSFSDEV = Property("sysfsdev", types.PATH, "The directory of the device, or mdev, in sysfs.")

FD = Property(
    "fd", types.FD, "The device's character device, opened by somebody else; iommufd only."
)

X_BALLOON_ALLOWED = Property(
    "x-balloon-allowed", types.BOOL, "Allow RAM to be discarded; for mdev only.", default=False
)

ENABLE_MIGRATION = Property(
    "enable-migration",
    types.ON_OFF_AUTO,
    "Offer live migration: auto does where dirty pages can be tracked, on forces it.",
    default=types.OnOffAuto.AUTO,
)

NEEDS_IOMMUFD = "fd passing works only with an iommufd object (iommufd=)"


def require_one_selector(device: Device, *allowed: str) -> Iterator[Problem]:
    """A problem if the device has none of the properties that could select it."""
    if not any(_has(device, name) for name in allowed):
        yield Problem(device.label, "no host device is selected", f"give {_either(allowed)}")


def exclude_selectors(device: Device) -> Iterator[Problem]:
    """Problems for selectors that contradict each other, and for an fd without a backend."""
    if _has(device, "host") and _has(device, "sysfsdev"):
        yield Problem(
            device.at("host"),
            "host and sysfsdev both select the device",
            "remove host=, since sysfsdev= also serves for an mdev, or remove sysfsdev=",
        )
    if _has(device, "host") and _has(device, "fd"):
        yield Problem(
            device.at("host"),
            "host and fd both select the device",
            "remove host=; to tell the kind of device beside fd=, give sysfsdev=",
        )
    if _has(device, "fd") and device.backend is None:
        yield Problem(
            device.at("fd"), NEEDS_IOMMUFD, "add an iommufd object and iommufd=ID, or remove fd="
        )


def fd_needs_sysfsdev(device: Device, why: str) -> Iterator[Problem]:
    """A problem for an fd alone, with a type of device that reads something from sysfs.

    Args:
        device: The device, validated.
        why: What is read there: "its compatible string is read from sysfs".
    """
    if _has(device, "fd") and not _has(device, "sysfsdev"):
        yield Problem(device.at("fd"), f"fd needs sysfsdev beside it: {why}", "add sysfsdev=PATH")


@frozen
class SelectorCheck:
    """The rules above as one `TypeSchema.check`; made by `selector_check`.

    Attributes:
        selectors: The properties of which one has to be given.
        why_sysfsdev: Why an fd needs sysfsdev beside it; None if it does not.
    """

    presence_only: ClassVar[bool] = True

    selectors: tuple[str, ...]
    why_sysfsdev: str | None = None

    def __call__(self, device: Device) -> Iterator[Problem]:
        """The problems of a validated device."""
        yield from require_one_selector(device, *self.selectors)
        yield from exclude_selectors(device)
        if self.why_sysfsdev is not None:
            yield from fd_needs_sysfsdev(device, self.why_sysfsdev)


def selector_check(
    *, selectors: tuple[str | Property, ...], fd_needs_sysfsdev: str | None = None
) -> Check:
    """A check for the `TypeSchema` of a device type.

    Args:
        selectors: The properties of which one has to be given.
        fd_needs_sysfsdev: Why an fd needs sysfsdev beside it; None if it does not.

    Example:
        ``selector_check(selectors=("host", "sysfsdev", "fd"))``
    """
    names = tuple(each.name if isinstance(each, Property) else each for each in selectors)
    return SelectorCheck(names, fd_needs_sysfsdev)


def _has(device: Device, name: str) -> bool:
    return device.properties.get(name) is not None


def _either(names: tuple[str, ...]) -> str:
    given = [f"{name}=" for name in names]
    return given[0] if len(given) == 1 else f"{', '.join(given[:-1])} or {given[-1]}"
