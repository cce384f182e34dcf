"""Discovery: what sysfs says of devices, IOMMU groups, cdevs and drivers, read through the Host."""

from __future__ import annotations

import errno
import os.path
import re
from typing import TYPE_CHECKING

from attrs import frozen

from vfiocore.errors import (
    DeviceNotFoundError,
    HostUnsupportedError,
    MalformedReplyError,
    kernel_error,
)

if TYPE_CHECKING:
    from vfiocore.host import Host

BUSES = ("pci", "platform", "mdev")
"""The buses on which a device can be driven through VFIO; ap and ccw devices are mdevs."""

GROUPS = "/sys/kernel/iommu_groups"

HARMLESS_DRIVERS = frozenset({"pci-stub", "pcieport"})
"""They leave DMA to user space (``driver_managed_dma``), so a group stays viable with them."""

BRIDGE_CLASS = "0x0604"

MAJOR_LIMIT, MINOR_LIMIT = 1 << 12, 1 << 20
"""Of a device number (include/linux/kdev_t.h: MINORBITS)."""


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
        KernelError: EACCES and others, its attributes cannot be read.
        MalformedReplyError: its group is no number.
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
        KernelError: EACCES and others, the file cannot be read.
        MalformedReplyError: the file holds something else.
    """
    path = f"{device.path}/vfio-dev/{device.cdev}/dev"
    try:
        text = host.read_file(path)
    except FileNotFoundError as error:
        raise HostUnsupportedError(
            errno.ENOENT,
            "read",
            path,
            "the device has no VFIO character device",
            "bind it to a vfio driver; cdevs need Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV,"
            " or use the legacy backend (no iommufd=)",
        ) from error
    except OSError as error:
        raise kernel_error(error, "read", path) from error
    return _parse_device_number(text, path)


def mdev_api(host: Host, device: HostDevice) -> str | None:
    """The interface that a mediated device says it has (``vfio-ap``); None if it does not say.

    Raises:
        KernelError: EACCES and others, the attribute cannot be read.
    """
    path = f"{device.path}/mdev_type/device_api"
    try:
        return host.read_file(path).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise kernel_error(error, "read", path) from error


def read_text(host: Host, path: str) -> str | None:
    """An attribute's text without its newline, or None if it cannot be read."""
    try:
        return host.read_file(path).decode(errors="replace").strip()
    except OSError:
        return None


def _parse_device_number(text: bytes, path: str) -> tuple[int, int]:
    match = re.fullmatch(rb"(\d{1,4}):(\d{1,7})\s*", text)
    if match is not None:
        major, minor = int(match[1]), int(match[2])
        if major < MAJOR_LIMIT and minor < MINOR_LIMIT:
            return major, minor
    raise MalformedReplyError(f"{path}: {text[:40]!r} is no device number, such as b'511:3'")


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
    """The last part of a link's target; None without the link: no driver, no group."""
    try:
        return os.path.basename(host.readlink(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise kernel_error(error, "readlink", path) from error


def _group_number(host: Host, path: str) -> int | None:
    link = f"{path}/iommu_group"
    name = _link_name(host, link)
    if name is None:
        return None
    # iommu.c:iommu_group_alloc: the name is the number, an int.
    if not re.fullmatch("[0-9]{1,10}", name):
        raise MalformedReplyError(f"{link}: {name!r} is no number of an IOMMU group")
    return int(name)


def _cdev_name(host: Host, path: str) -> str | None:
    folder = f"{path}/vfio-dev"
    try:
        names = host.listdir(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise kernel_error(error, "listdir", folder) from error
    return next((name for name in names if re.fullmatch(r"(noiommu-)?vfio[0-9]+", name)), None)
