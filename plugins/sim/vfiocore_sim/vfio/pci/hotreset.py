"""VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_DEVICE_PCI_HOT_RESET."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable

from vfiocore.uapi.vfio import (
    VFIO_PCI_DEVID_NOT_OWNED,
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
    vfio_pci_dependent_device,
    vfio_pci_hot_reset,
    vfio_pci_hot_reset_info,
)
from vfiocore_sim.device import HotResetPeer, KernelPort, SimDevice
from vfiocore_sim.refusal import fail
from vfiocore_sim.user import UserArg

_MINSZ = 12


def hot_reset_info(user: UserArg, kernel: KernelPort) -> int:
    """Name the functions that a bus reset touches.

    ``vfio_pci_core.c:vfio_pci_ioctl_get_pci_hot_reset_info``.

    Raises:
        OSError: ENODEV on a root bus; ENOSPC, with the count written, when they do not fit.
    """
    header = user.struct(vfio_pci_hot_reset_info, _MINSZ)
    peers = kernel.hot_reset_peers()
    header.flags = 0
    header.count = len(peers)
    room = (header.argsz - _MINSZ) // ctypes.sizeof(vfio_pci_dependent_device)
    if len(peers) > room:
        user.answer(header, _MINSZ)
        fail(errno.ENOSPC)
    cdev = kernel.cdev()
    if cdev:
        header.flags = VFIO_PCI_HOT_RESET_FLAG_DEV_ID
        if all(peer.devid & 0xFFFFFFFF != VFIO_PCI_DEVID_NOT_OWNED for peer in peers):
            header.flags |= VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
    entries = b"".join(_entry(peer, cdev=cdev) for peer in peers)
    user.write(entries, _MINSZ)
    user.answer(header, _MINSZ)
    return 0


def _entry(peer: HotResetPeer, *, cdev: bool) -> bytes:
    segment, bus, slot_function = peer.name.split(":")
    slot, function = slot_function.split(".")
    ident = peer.devid & 0xFFFFFFFF if cdev else peer.group_id
    devfn = int(slot, 16) << 3 | int(function, 16)
    return struct.pack("=IHBB", ident, int(segment, 16), int(bus, 16), devfn)


def hot_reset(user: UserArg, kernel: KernelPort, reset_one: Callable[[SimDevice], None]) -> int:
    """Reset every function of the bus, or refuse before anything is touched.

    ``vfio_pci_core.c:vfio_pci_ioctl_pci_hot_reset``.

    Raises:
        OSError: EINVAL, ENODEV, EFAULT, EBADF.
    """
    header = user.struct(vfio_pci_hot_reset, _MINSZ)
    cdev = kernel.cdev()
    if header.flags or bool(header.count) == cdev:
        fail(errno.EINVAL)
    peers = kernel.hot_reset_peers()
    if header.count > len(peers):
        fail(errno.EINVAL)
    fds = struct.unpack(f"={header.count}i", user.read(4 * header.count, _MINSZ))
    kernel.check_hot_reset(fds)
    for peer in peers:
        reset_one(peer.program)
    return 0
