"""Whether a device can be used right away, told from sysfs alone."""

from __future__ import annotations

from typing import Any

import attrs

from vfiocore.host import Host
from vfiocore.sysfs import HostDevice, group_devices, read_text

WANTED = {"pci": "vfio-pci", "platform": "vfio-platform"}

HARMLESS_DRIVERS = frozenset({"pci-stub", "pcieport"})
"""They leave DMA to user space (driver_managed_dma), so the group stays viable."""

BRIDGE_CLASS = "0x0604"


def missing(host: Host, device: HostDevice) -> str:
    """What a device needs before it can be used, in a few words; empty if nothing."""
    wanted = WANTED.get(device.bus, "its vfio driver")
    if device.driver is None:
        return f"bind it to {wanted}"
    if not _on_vfio(device):
        return f"{device.driver} has it, bind it to {wanted}"
    if device.group is None:
        return "not in an IOMMU group"
    others = [other for other in group_devices(host, device.group) if _in_the_way(host, other)]
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


def _on_vfio(device: HostDevice) -> bool:
    # Since Linux 6.1 the VFIO core makes vfio-dev/vfioN for whatever driver registers with it.
    return device.cdev is not None or "vfio" in (device.driver or "")


def _in_the_way(host: Host, device: HostDevice) -> bool:
    if device.driver is None or device.driver in HARMLESS_DRIVERS or _on_vfio(device):
        return False
    return not (read_text(host, f"{device.path}/class") or "").startswith(BRIDGE_CLASS)
