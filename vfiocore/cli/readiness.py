"""Whether a device can be used right away, told from sysfs alone."""

from __future__ import annotations

from typing import Any

import attrs

from vfiocore.host import Host
from vfiocore.sysfs import HostDevice, in_the_way

WANTED = {"pci": "vfio-pci", "platform": "vfio-platform"}


def missing(host: Host, device: HostDevice) -> str:
    """What a device needs before it can be used, in a few words; empty if nothing."""
    # The group of an mdev is made when its driver binds; without one, nothing else can be bound.
    if device.group is None and not device.is_mdev:
        return "not in an IOMMU group"
    wanted = WANTED.get(device.bus, "its vfio driver")
    if device.driver is None:
        return f"bind it to {wanted}"
    if device.group is None or not device.on_vfio:
        return f"{device.driver} has it, bind it to {wanted}"
    others = in_the_way(host, device.group)
    if others:
        names = ", ".join(f"{other.name} ({other.driver})" for other in others)
        return f"its group has {names}"
    return ""


def ready(host: Host, device: HostDevice) -> str:
    """``yes``, or ``no`` and why."""
    reason = missing(host, device)
    return f"no: {reason}" if reason else "yes"


def device_document(host: Host, device: HostDevice) -> dict[str, Any]:
    """A device of a host as a JSON member."""
    reason = missing(host, device)
    return attrs.asdict(device) | {"ready": not reason, "missing": reason or None}
