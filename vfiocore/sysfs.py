"""Discovery: what sysfs says of devices, IOMMU groups, cdevs and drivers, read through the Host."""

from __future__ import annotations

import errno
import os.path
import re
from typing import TYPE_CHECKING

from attrs import frozen

from vfiocore.errors import DeviceNotFoundError, HostUnsupportedError, kernel_error

if TYPE_CHECKING:
    from vfiocore.host import Host

BUSES = ("pci", "platform", "mdev")
"""The buses on which a device can be driven through VFIO; ap and ccw devices are mdevs."""

GROUPS = "/sys/kernel/iommu_groups"

HARMLESS_DRIVERS = frozenset({"pci-stub", "pcieport"})
"""They leave DMA to user space (``driver_managed_dma``), so a group stays viable with them."""

BRIDGE_CLASS = "0x0604"


@frozen
class HostDevice:
    """A device as sysfs shows it at one moment.

    Attributes:
        name: Its name on its bus: ``0000:02:00.0``, ``a003e00.virtio_mmio``, a UUID.
        bus: ``pci``, ``platform``, ``mdev``.
        path: The real directory below ``/sys/devices``.
        driver: The bound driver, or None.
        group: The IOMMU group's number, or None without an IOMMU.
        cdev: The name of its VFIO character device (``vfio3``), or None.
    """

    name: str
    bus: str
    path: str
    driver: str | None
    group: int | None
    cdev: str | None

    @property
    def on_vfio(self) -> bool:
        """True if a VFIO driver has it, as far as sysfs tells.

        Since Linux 6.1 the VFIO core makes ``vfio-dev/vfioN`` for whatever driver registers with
        it; before, a name has to do (vfio-pci, mlx5_vfio_pci).
        """
        return self.cdev is not None or "vfio" in (self.driver or "")

    @property
    def is_mdev(self) -> bool:
        """True for a mediated device, which has no IOMMU domain of its own."""
        return self.bus == "mdev"


def device_path(bus: str, name: str) -> str:
    """Where a device is found by bus and name."""
    return f"/sys/bus/{bus}/devices/{name}"


def read_device(host: Host, path: str) -> HostDevice:
    """Read one device from its directory, or from any link to it.

    Raises:
        DeviceNotFoundError: ENOENT, the path does not exist.
    """
    if not host.exists(path):
        raise DeviceNotFoundError(
            errno.ENOENT, "read", path, hint="`vfiocore devices` lists what is there"
        )
    real = host.realpath(path)
    return HostDevice(
        name=os.path.basename(real),
        bus=_link_name(host, f"{real}/subsystem") or "",
        path=real,
        driver=_link_name(host, f"{real}/driver"),
        group=_group_number(host, real),
        cdev=_cdev_name(host, real),
    )


def list_devices(host: Host, bus: str) -> list[HostDevice]:
    """Every device of a bus, sorted by name; empty if the bus does not exist."""
    root = f"/sys/bus/{bus}/devices"
    if not host.exists(root):
        return []
    return _read_devices(host, root)


def group_devices(host: Host, group: int) -> list[HostDevice]:
    """The devices of an IOMMU group, sorted by name; DeviceNotFoundError (ENOENT) without it."""
    root = f"{GROUPS}/{group}/devices"
    return _read_devices(host, root)


def in_the_way(host: Host, group: int) -> list[HostDevice]:
    """The devices of a group that keep it from user space: host drivers use DMA for them.

    Devices of VFIO drivers and without a driver do not, nor do bridges.
    """
    return [device for device in group_devices(host, group) if _on_host_driver(host, device)]


def device_number(host: Host, device: HostDevice) -> tuple[int, int]:
    """The (major, minor) of a device's VFIO cdev, from ``vfio-dev/vfioN/dev``.

    The directory alone proves nothing: only a kernel with CONFIG_VFIO_DEVICE_CDEV has the file.

    Raises:
        HostUnsupportedError: ENOENT, the device has no cdev.
    """
    path = f"{device.path}/vfio-dev/{device.cdev}/dev"
    try:
        text = host.read_file(path).decode().strip()
    except OSError as error:
        raise HostUnsupportedError(
            errno.ENOENT,
            "read",
            path,
            "the device has no VFIO character device",
            "bind it to a vfio driver; cdevs need Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV,"
            " or use the legacy backend (no iommufd=)",
        ) from error
    major, _, minor = text.partition(":")
    return int(major), int(minor)


def read_text(host: Host, path: str) -> str | None:
    """An attribute's text without its newline, or None if it cannot be read."""
    try:
        return host.read_file(path).decode(errors="replace").strip()
    except OSError:
        return None


def _on_host_driver(host: Host, device: HostDevice) -> bool:
    if device.driver is None or device.driver in HARMLESS_DRIVERS or device.on_vfio:
        return False
    return not (read_text(host, f"{device.path}/class") or "").startswith(BRIDGE_CLASS)


def _read_devices(host: Host, root: str) -> list[HostDevice]:
    try:
        names = host.listdir(root)
    except OSError as error:
        raise kernel_error(error, "listdir", root) from error
    found = []
    for name in names:
        try:
            found.append(read_device(host, f"{root}/{name}"))
        except DeviceNotFoundError:
            continue  # unplugged since the directory was read
    return found


def _link_name(host: Host, path: str) -> str | None:
    try:
        return os.path.basename(host.readlink(path))
    except OSError:
        return None


def _group_number(host: Host, path: str) -> int | None:
    name = _link_name(host, f"{path}/iommu_group")
    return int(name) if name is not None and name.isdecimal() else None


def _cdev_name(host: Host, path: str) -> str | None:
    try:
        names = host.listdir(f"{path}/vfio-dev")
    except OSError:
        return None
    return next((name for name in names if re.fullmatch(r"(noiommu-)?vfio\d+", name)), None)
