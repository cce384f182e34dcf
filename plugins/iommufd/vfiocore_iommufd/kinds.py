"""What an errno of an iommufd or cdev ioctl means, and what to do about it."""

from __future__ import annotations

import errno
from types import MappingProxyType
from typing import TYPE_CHECKING

from vfiocore.errors import (
    DmaAddressError,
    DmaAlignmentError,
    DmaError,
    DmaLimitError,
    DmaMemlockError,
    DmaNotMappedError,
    DmaOverlapError,
    DmaRangeError,
    ErrorKinds,
    KernelError,
    kernel_error,
)

if TYPE_CHECKING:
    import ctypes

    from vfiocore.container import Container
    from vfiocore.host import Host
    from vfiocore.memory.mapping import DmaMapping

#: errno of IOMMU_IOAS_MAP, _MAP_FILE and _COPY; any other is a plain `DmaError`.
MAP_KINDS = MappingProxyType(
    {
        errno.EEXIST: DmaOverlapError,
        errno.EINVAL: DmaRangeError,
        errno.EOVERFLOW: DmaRangeError,
        errno.ENOSPC: DmaLimitError,
        errno.ENOMEM: DmaMemlockError,
        errno.EFAULT: DmaAddressError,
        errno.EPERM: DmaAddressError,  # COPY: writeable, from pages that were pinned read-only
        errno.EBADF: DmaAddressError,  # MAP_FILE: no such fd
        errno.ENODEV: DmaAddressError,  # MAP_FILE: a dma-buf that its exporter revoked
        errno.EOPNOTSUPP: DmaAddressError,  # MAP_FILE: a dma-buf of a kind that cannot be mapped
    }
)

#: errno of IOMMU_IOAS_UNMAP.
UNMAP_KINDS = MappingProxyType(
    {
        errno.ENOENT: DmaNotMappedError,
        errno.EINVAL: DmaRangeError,
        errno.EOVERFLOW: DmaRangeError,
    }
)

#: Attaching pins what is mapped already, so it can fail as a map does.
ATTACH_KINDS: ErrorKinds = MappingProxyType(
    {errno.ENOMEM: DmaMemlockError, errno.EFAULT: DmaAddressError}
)

BAR_HINT = (
    "iommufd cannot map another device's BAR by its address: show it with Session.share_region,"
    " which exports it as a dma-buf (VFIO_DEVICE_FEATURE_DMA_BUF) and maps that by fd"
)

REVOKED_HINT = (
    "a device's memory can be mapped while it answers: turn its memory decode on, in D0, before"
)


def issue(
    host: Host,
    fd: int,
    call: tuple[str, int],
    arg: ctypes.Structure,
    subject: str,
    *,
    kinds: ErrorKinds = MappingProxyType({}),
    detail: str = "",
    hint: str | None = None,
) -> None:
    """Issue an ioctl, given as (name, request); its refusal is a typed exception."""
    name, request = call
    try:
        host.ioctl(fd, request, arg)
    except OSError as error:
        raise kernel_error(error, name, subject, kinds=kinds, detail=detail, hint=hint) from error


def attach_error(error: OSError, operation: str, subject: str, container: Container) -> KernelError:
    """The exception for a device that could not be attached, or a HWPT not made for it."""
    hint = None
    if error.errno == errno.ENOMEM:
        hint = memlock_hint(container)
    elif error.errno == errno.EINVAL:
        hint = (
            "all devices of an IOMMU group share one page table:"
            " another device of this group may be attached to another one"
        )
    detail = f"to {container.label}: {error.strerror}"
    return kernel_error(error, operation, subject, kinds=ATTACH_KINDS, detail=detail, hint=hint)


def map_error(
    error: OSError, operation: str, container: Container, mapping: DmaMapping
) -> DmaError:
    """The exception for a map that the kernel refused."""
    number = error.errno or errno.EIO
    by_file = operation == "IOMMU_IOAS_MAP_FILE"
    kind: type[DmaError] = MAP_KINDS.get(number, DmaError)
    reason, hint = error.strerror or "", None
    if number == errno.EINVAL and not mapping.access.value:
        kind, reason = DmaError, "the device may neither read nor write"
    elif number == errno.EINVAL and by_file:
        # The container checked iova, size and ranges before: what is left is the file.
        kind, reason = _file_refused(container, mapping)
    elif number == errno.ENODEV and by_file:
        reason, hint = "the device took its memory back (the dma-buf is revoked)", REVOKED_HINT
    elif number == errno.EFAULT:
        reason, hint = "the memory cannot be pinned", BAR_HINT
    elif number == errno.ENOMEM:
        hint = memlock_hint(container)
    where = f"iova {mapping.iova:#x} size {mapping.size:#x} vaddr {mapping.vaddr:#x}"
    if by_file:
        where += f" fd {mapping.fd} offset {mapping.fd_offset:#x}"
    return kind(number, operation, container.label, f"{where}: {reason}", hint)


def unmap_error(
    error: OSError, operation: str, container: Container, iova: int, size: int
) -> DmaError:
    """The exception for an unmap that the kernel refused."""
    number = error.errno or errno.EIO
    kind: type[DmaError] = UNMAP_KINDS.get(number, DmaError)
    detail = f"iova {iova:#x} size {size:#x}: {error.strerror}"
    return kind(number, operation, container.label, detail)


def memlock_hint(container: Container) -> str | None:
    """How much is wanted, what the limit is, and how it counts; None without a limit."""
    limit = container.host.memlock_limit()
    if limit is None:
        return None
    return (
        f"{container.label} holds or wants {container.mappings.bytes} bytes pinned, RLIMIT_MEMLOCK"
        f" is {limit} bytes, and iommufd counts all that the user pins: raise the limit"
        " (ulimit -l, LimitMEMLOCK=) or grant CAP_IPC_LOCK"
    )


def _file_refused(container: Container, mapping: DmaMapping) -> tuple[type[DmaError], str]:
    if mapping.fd_offset & (container.page_size - 1):
        return DmaAlignmentError, f"the offset is not a multiple of {container.page_size:#x} bytes"
    return DmaAddressError, "not a memory file (memfd, hugetlbfs), or not that long"
