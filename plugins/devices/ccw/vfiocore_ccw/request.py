"""What a start of a channel program is: the operation request block, in the I/O region.

Source: ``struct ccw_io_region`` (Linux 4.12).
"""

from __future__ import annotations

import errno
from types import MappingProxyType
from typing import TypedDict

from vfiocore.errors import BusyError, DeviceAccessError, ErrorKinds
from vfiocore.uapi import s390_cio as cio
from vfiocore.uapi import vfio_ccw
from vfiocore_ccw.channel import ADDRESS_LIMIT, CCW_SIZE

FORMAT0_LIMIT = 1 << 24
"""Format-0 programs lie below 16 MiB."""

KINDS: ErrorKinds = MappingProxyType(
    {
        errno.EAGAIN: BusyError,
        errno.EBUSY: BusyError,
        errno.EACCES: DeviceAccessError,
        errno.EFAULT: DeviceAccessError,
        errno.EINVAL: DeviceAccessError,
        errno.EIO: DeviceAccessError,
        errno.ENODEV: DeviceAccessError,
        errno.ENOENT: DeviceAccessError,
        errno.EPERM: DeviceAccessError,
    }
)
"""What the errnos of vfio_ccw mean; EOPNOTSUPP means what it does everywhere."""

DETAILS = MappingProxyType(
    {
        errno.EAGAIN: "the subchannel is still taken by another access",
        errno.EBUSY: "a channel program is running, or status is pending",
        errno.EACCES: "the path to the device is gone; others are left",
        errno.EFAULT: "the channel program jumps to where nothing is",
        errno.EINVAL: "the channel program or its data is not mapped, or it has too many CCWs",
        errno.EIO: "the subchannel is not operational",
        errno.ENODEV: "no path to the device is left",
        # What type1 calls EINVAL: io_pagetable.c, device.c:iommufd_access_rw.
        errno.ENOENT: "the channel program or its data is not mapped",
        errno.EPERM: "the channel program or its data is not mapped for reading and writing",
        errno.EOPNOTSUPP: "vfio-ccw knows command mode only",
    }
)
"""Why a start, halt or clear was refused (vfio_ccw_fsm.c, vfio_ccw_cp.c)."""

UNPINNABLE = "the kernel pins no data for a channel program here: the container is type1 version 1"
"""What EACCES says there instead (vfio_iommu_type1.c:vfio_iommu_type1_pin_pages)."""

UNPINNABLE_HINT = "use iommufd (iommufd=), or a kernel whose type1 has version 2"


class OrbOptions(TypedDict, total=False):
    """What `build_orb` takes besides the program."""

    key: int
    format1: bool
    prefetch: bool
    intparm: int
    lpm: int
    idaw64: bool


def build_orb(
    program_iova: int,
    *,
    key: int = 0,
    format1: bool = True,
    prefetch: bool = True,
    intparm: int = 0,
    lpm: int = 0xFF,
    idaw64: bool = False,
) -> bytes:
    """An operation request block, 12 bytes, for a command-mode program.

    Args:
        program_iova: Where the first CCW is: 8-byte aligned, below 2 GiB, or 16 MiB for format 0.
        key: The storage key, 0 to 15.
        format1: The CCWs' format; False for format 0.
        prefetch: The channel may read CCWs and data before their turn. vfio-ccw always does.
        intparm: 32 bits; vfio-ccw puts a number of its own in its place.
        lpm: The paths that may be used.
        idaw64: Lists of indirect addresses have 8-byte words (format 2); 4-byte words if False.

    Raises:
        ValueError: An argument does not fit its field.
    """
    limit = ADDRESS_LIMIT if format1 else FORMAT0_LIMIT
    if program_iova % CCW_SIZE or not 0 <= program_iova < limit:
        raise ValueError(
            f"a channel program at {program_iova:#x}: it has to lie below {limit:#x},"
            f" at a multiple of {CCW_SIZE}"
        )
    for name, value, bits in (("key", key, 4), ("intparm", intparm, 32), ("lpm", lpm, 8)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} has {bits} bits, which {value:#x} does not fit")
    control = key << 12
    control |= cio.ORB_CTRL0_MASK_FMT if format1 else 0
    control |= cio.ORB_CTRL0_MASK_PFCH if prefetch else 0
    control |= cio.ORB_CTRL0_MASK_C64 if idaw64 else 0
    return bytes(cio.ORB(intparm, control, lpm, 0, program_iova))


def io_region_to_start(orb: cio.ORB) -> bytes:
    """The 124 bytes whose write starts a program: the ORB, and the start function in the SCSW.

    The kernel looks at the function bits of the SCSW only, and at ``ret_code``, which has to be 0:
    vfio_ccw_ops.c:vfio_ccw_mdev_write_io_region.
    """
    scsw = cio.SCSW(ctrl=cio.SCSW_FCTL_START_FUNC)
    region = vfio_ccw.ccw_io_region()
    region.orb_area[:] = bytes(orb)
    region.scsw_area[:] = bytes(scsw)
    return bytes(region)
