"""What sysfs tells before the kernel says no: groups, drivers, and who is in the way."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore.errors import GroupNotViableError, HostUnsupportedError, VfioError
from vfiocore.sysfs import in_the_way

if TYPE_CHECKING:
    from vfiocore.container import DeviceTarget
    from vfiocore.host import Host
    from vfiocore.sysfs import HostDevice


def group_of(target: DeviceTarget) -> int:
    """The IOMMU group of a device that VFIO drives.

    Raises:
        HostUnsupportedError: ENOENT, the device has no group; ENODEV, no VFIO driver has it.
    """
    device = target.device
    if device is None:
        raise HostUnsupportedError(
            errno.ENOENT,
            "open",
            target.name,
            "a device fd does not tell the group",
            "pass fds to the iommufd backend (iommufd=), or name the device (host=, sysfsdev=)",
        )
    if device.group is None:
        raise _no_group(device)
    if not _driver_may_be_vfio(device):
        raise _not_on_vfio(device)
    return device.group


def not_viable(host: Host, group: int) -> GroupNotViableError:
    """The error for a group that shares its IOMMU with host drivers: which devices, which drivers.

    EPERM is what VFIO_GROUP_SET_CONTAINER and BIND_IOMMUFD answer for such a group.
    """
    whole = "a group goes to user space as a whole: bind"
    try:
        others = in_the_way(host, group)
    except VfioError as error:  # what the kernel said is what matters
        reason = f"which of its devices are on host drivers is not known: {error}"
        hint = f"{whole} its devices to vfio-pci, or to no driver"
    else:
        names = ", ".join(f"{device.name} ({device.driver})" for device in others)
        reason = f"host drivers have {names}"
        hint = f"{whole} these devices to vfio-pci, or to no driver"
        if not others:
            reason = "its DMA belongs to somebody else, though no host driver is in the way"
            hint = "see which process has a device of the group open"
    return GroupNotViableError(
        errno.EPERM, "VFIO_GROUP_GET_STATUS", f"group {group}", f"not viable: {reason}", hint
    )


def _no_group(device: HostDevice) -> HostUnsupportedError:
    if device.is_mdev:
        # The group of a mediated device is made when its VFIO driver binds.
        return _not_on_vfio(device)
    return HostUnsupportedError(
        errno.ENOENT,
        "readlink",
        f"{device.path}/iommu_group",
        f"{device.name} is in no IOMMU group: the IOMMU is off or missing",
        "turn it on in the firmware (VT-d, AMD-Vi, SMMU) and for the kernel (intel_iommu=on);"
        " without one, vfio.enable_unsafe_noiommu_mode=1 and noiommu=on give up all protection",
    )


def _not_on_vfio(device: HostDevice) -> HostUnsupportedError:
    driver = f"bound to {device.driver}" if device.driver else "bound to no driver"
    wanted = {"pci": "vfio-pci", "platform": "vfio-platform"}.get(device.bus, "its VFIO driver")
    return HostUnsupportedError(
        errno.ENODEV,
        "open",
        device.name,
        f"the device is {driver}, and VFIO needs {wanted}",
        f"write {wanted} to {device.path}/driver_override, unbind the device from its driver"
        f" and write its name to /sys/bus/{device.bus}/drivers_probe"
        if device.bus in ("pci", "platform")
        else f"bind the device to {wanted}",
    )


def _driver_may_be_vfio(device: HostDevice) -> bool:
    if device.driver is None:
        return False
    # Names of mediated drivers follow no rule (kvmgt is intel_vgpu_mdev): the kernel will tell.
    return device.on_vfio or device.is_mdev
