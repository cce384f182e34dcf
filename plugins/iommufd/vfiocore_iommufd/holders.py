"""Who has a device in use already, as far as the machine lets one see."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore import sysfs
from vfiocore.errors import VfioError

if TYPE_CHECKING:
    from vfiocore.host import Host
    from vfiocore.sysfs import HostDevice


def is_bound(host: Host, device: HostDevice) -> bool:
    """True if the device is certainly bound to an iommufd; False if it may be.

    Its group tells: it cannot be opened while a device of it is bound (group.c:vfio_group_fops_open).
    Which of several devices that is it does not tell.
    """
    try:
        if device.group is None or not _is_alone(host, device.group):
            return False
        host.close(host.open(f"/dev/vfio/{device.group}"))
    except OSError as error:
        return error.errno == errno.EBUSY
    except VfioError:
        return False
    return False


def holders(host: Host, path: str, *, own: int = 0) -> str:
    """The programs that have a file open, such as ``qemu (process 4711)``; empty if none is seen.

    Without privileges only programs of the same user are seen, and in a container only its own.

    Args:
        host: The host.
        path: The file.
        own: How many fds of this program do not count.
    """
    found = []
    for pid in filter(str.isdigit, _names(host, "/proc")):
        mine = own if pid == _link(host, "/proc/self") else 0
        folder = f"/proc/{pid}/fd"
        if sum(_link(host, f"{folder}/{fd}") == path for fd in _names(host, folder)) > mine:
            found.append(f"{sysfs.read_text(host, f'/proc/{pid}/comm')} (process {pid})")
    return ", ".join(found)


def _is_alone(host: Host, group: int) -> bool:
    return sum(device.on_vfio for device in sysfs.group_devices(host, group)) == 1


def _names(host: Host, folder: str) -> list[str]:
    try:
        return host.listdir(folder)
    except OSError:
        return []  # of another user, or ended just now


def _link(host: Host, path: str) -> str | None:
    try:
        return host.readlink(path)
    except OSError:
        return None
