"""A device's memory as a file (dma-buf): for other devices, other drivers, other processes."""

from __future__ import annotations

import errno
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from attrs import define, field

from vfiocore.errors import DeviceAccessError, KernelError, UnsupportedError, kernel_error

if TYPE_CHECKING:
    from vfiocore.access import DeviceAccess

EXPORT = "VFIO_DEVICE_FEATURE_DMA_BUF"

EXPORT_KINDS = MappingProxyType(
    {
        errno.EINVAL: DeviceAccessError,
        errno.EOVERFLOW: DeviceAccessError,
        errno.ENODEV: UnsupportedError,
    }
)

EXPORT_HINTS = MappingProxyType(
    {
        errno.ENOTTY: (
            "it takes Linux 6.19 or later with CONFIG_VFIO_PCI_DMABUF, and a PCI device that is"
            " not mediated"
        ),
        errno.EOPNOTSUPP: (
            "the device's variant driver shows its BARs to nobody; vfio-pci itself would"
        ),
        errno.ENODEV: "memory can be exported from the BARs 0 to 5 that the device has",
        errno.EINVAL: "whole pages of a memory BAR can be exported, and not I/O ports",
    }
)


@define(eq=False)
class DmaBuf:
    """A part of a region as a file, for `IOMMU_IOAS_MAP_FILE`, a GPU's driver, RDMA.

    Whoever has the file reaches the memory while the device answers: the kernel takes it away
    from everybody (*revokes* it) while memory decode is off, while the device is reset or asleep
    (D3, low power), and for good when the device is closed. What IOMMU_IOAS_MAP_FILE mapped does
    not come back by itself: it has to be unmapped, and mapped again once the device answers.
    `Session.share_region` does so.

    Attributes:
        access: The device whose memory it is.
        fd: The file, close-on-exec.
        size: In bytes.
    """

    access: DeviceAccess = field(repr=False)
    fd: int
    size: int
    closed: bool = field(default=False, init=False)

    def fileno(self) -> int:
        """`fd`."""
        return self.fd

    def close(self) -> None:
        """Close the file; what was mapped of it stays mapped. Idempotent."""
        if self.closed:
            return
        self.closed = True
        try:
            self.access.host.close(self.fd)
        except OSError as error:
            raise kernel_error(error, "close", f"dma-buf of {self.access.name}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def export(access: DeviceAccess, index: int, name: str, offset: int, size: int) -> DmaBuf:
    """VFIO_DEVICE_FEATURE_DMA_BUF of one range of a region; what `Region.export_dmabuf` says."""
    try:
        fd = access.export_dmabuf(index, offset, size)
    except KernelError as error:
        detail = f"offset {offset:#x} size {size:#x}"
        hint = EXPORT_HINTS.get(error.errno or 0)
        raise kernel_error(
            error, EXPORT, name, kinds=EXPORT_KINDS, detail=detail, hint=hint
        ) from error
    return DmaBuf(access, fd, size)
