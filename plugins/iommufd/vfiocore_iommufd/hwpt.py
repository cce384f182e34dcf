"""Hardware page tables (HWPT), and what a device's IOMMU says of itself."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from attrs import define, frozen

from vfiocore.errors import kernel_error
from vfiocore.uapi import iommufd as uapi

if TYPE_CHECKING:
    from vfiocore_iommufd.iommufd import Iommufd


@frozen
class HwInfo:
    """What IOMMU_GET_HW_INFO says.

    Attributes:
        type: ``IOMMU_HW_INFO_TYPE_*``, or None where the kernel does not tell.
        capabilities: ``IOMMU_HW_CAP_*``.
    """

    type: int | None = None
    capabilities: int = 0

    @property
    def tracks_dirty(self) -> bool:
        """Whether a page table can record which pages were written (Linux 6.7)."""
        return bool(self.capabilities & uapi.IOMMU_HW_CAP_DIRTY_TRACKING)


UNKNOWN = HwInfo()


@define(eq=False)
class Hwpt:
    """A page table that was allocated for an IOAS; it shows all that is mapped there.

    Attributes:
        id: Its id in the iommufd.
        tracks_dirty: Whether it was made with dirty tracking.
        users: How many devices are attached to it.
    """

    id: int
    tracks_dirty: bool
    users: int = 0


def read_hw_info(iommufd: Iommufd, name: str, dev_id: int) -> HwInfo | None:
    """IOMMU_GET_HW_INFO (Linux 6.6): type and capabilities, none of the vendor's data.

    Returns:
        None for an emulated device, which is no device to an iommufd but an access (ENOENT,
        iommufd/device.c: iommufd_get_hw_info); `UNKNOWN` where the kernel cannot tell.
    """
    arg = uapi.iommu_hw_info(size=ctypes.sizeof(uapi.iommu_hw_info), dev_id=dev_id)
    try:
        iommufd.host.ioctl(iommufd.fd, uapi.IOMMU_GET_HW_INFO, arg)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
            return UNKNOWN
        raise kernel_error(error, "IOMMU_GET_HW_INFO", name) from error
    return HwInfo(int(arg.out_data_type), int(arg.out_capabilities))


def alloc_hwpt(iommufd: Iommufd, ioas_id: int, dev_id: int, *, dirty: bool) -> Hwpt:
    """IOMMU_HWPT_ALLOC (Linux 6.6): a page table on an IOAS that suits a device.

    Raises:
        OSError: EINVAL, EADDRINUSE: device and IOAS do not go together; EOPNOTSUPP, ENOTTY: the
            IOMMU or the kernel makes none on request; ENOMEM, EFAULT: pinning what is mapped.
    """
    arg = uapi.iommu_hwpt_alloc(
        size=ctypes.sizeof(uapi.iommu_hwpt_alloc),
        flags=uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING if dirty else 0,
        dev_id=dev_id,
        pt_id=ioas_id,
    )
    iommufd.host.ioctl(iommufd.fd, uapi.IOMMU_HWPT_ALLOC, arg)
    return Hwpt(int(arg.out_hwpt_id), dirty)
