"""What the kernel can answer to each call in place of success.

The sections are those of the project's account of the kernel's behaviour (Linux 7.2), errno by
errno; calls that are not VFIO's own have their manual page. Where the kernel has no way to fail the
row has EIO: a host that is no kernel, such as a trace that is played back, still has one.
"""

from __future__ import annotations

import errno as e

from attrs import frozen


@frozen
class Answers:
    """The errnos of a call, and where that is written."""

    source: str
    errnos: tuple[int, ...]


def _row(source: str, *errnos: int) -> Answers:
    return Answers(source, errnos or (e.EIO,))


INFO = (e.EINVAL, e.EFAULT)
RESUME = e.EIO
"""Device ioctls: the device does not come back from low power (0)."""
MAP = (e.EINVAL, e.EOVERFLOW, e.EEXIST, e.ENOMEM, e.EFAULT)

TABLE = {
    # -- nodes ---------------------------------------------------------------------------------
    "open /dev/vfio/vfio": _row("2, open(2)", e.ENOENT, e.ENODEV, e.EACCES, e.EMFILE),
    "open /dev/vfio/devices/": _row("3 open", e.ENODEV, e.ENOENT, e.EACCES, e.EMFILE),
    "open /dev/vfio/": _row("1 open", e.ENODEV, e.EPERM, e.EBUSY, e.ENOENT, e.EACCES, e.EMFILE),
    "open /dev/iommu": _row("3 fall back, open(2)", e.ENOENT, e.ENODEV, e.EACCES, e.EMFILE),
    "open /dev/char/": _row("3 open", e.ENODEV, e.ENOENT, e.EACCES),
    "open /dev/kvm": _row("open(2)", e.ENOENT, e.EACCES, e.ENFILE),
    "close": _row("close(2)", e.EIO),
    "fstat": _row("fstat(2)", e.EBADF),
    # -- group and container -------------------------------------------------------------------
    "ioctl VFIO_GROUP_GET_STATUS": _row("1", e.ENODEV, *INFO),
    "ioctl VFIO_GROUP_SET_CONTAINER": _row(
        "1", e.EFAULT, e.EBADF, e.EINVAL, e.ENODEV, e.EPERM, e.ENOMEM, e.EBUSY, e.EBADFD
    ),
    "ioctl VFIO_GROUP_UNSET_CONTAINER": _row("1", e.EINVAL, e.EBUSY),
    "ioctl VFIO_GROUP_GET_DEVICE_FD": _row(
        "1, 8", e.EFAULT, e.EINVAL, e.ENODEV, e.EACCES, e.EPERM, e.EAGAIN, e.EMFILE
    ),
    "ioctl VFIO_GET_API_VERSION": _row("2"),
    "ioctl VFIO_CHECK_EXTENSION": _row("2"),
    "ioctl VFIO_SET_IOMMU": _row("2", e.EINVAL, e.ENODEV, e.EPERM, e.EBUSY, e.ENOMEM),
    "ioctl VFIO_IOMMU_GET_INFO": _row("0 argsz, 2", *INFO, e.ENOMEM),
    "ioctl VFIO_IOMMU_MAP_DMA": _row("2 MAP_DMA", *MAP, e.ENOENT, e.ENOSPC, e.EBUSY),
    "ioctl VFIO_IOMMU_UNMAP_DMA": _row("2 UNMAP_DMA", e.EFAULT, e.EINVAL, e.EBUSY, e.EOVERFLOW),
    # -- cdev ----------------------------------------------------------------------------------
    "ioctl VFIO_DEVICE_BIND_IOMMUFD": _row(
        "3 BIND",
        *(e.EFAULT, e.EINVAL, e.E2BIG, e.EBUSY, e.EACCES, e.EBADF, e.EBADFD, e.ENODEV, e.EPERM),
        e.ENOTTY,
    ),
    "ioctl VFIO_DEVICE_ATTACH_IOMMUFD_PT": _row(
        "3 ATTACH", e.EINVAL, e.ENOENT, e.EADDRINUSE, e.EFAULT, e.ENOMEM, e.EBUSY, e.ENOTTY
    ),
    "ioctl VFIO_DEVICE_DETACH_IOMMUFD_PT": _row("3 DETACH", e.EINVAL, e.ENOTTY),
    # -- iommufd -------------------------------------------------------------------------------
    "ioctl IOMMU_DESTROY": _row("4 DESTROY", e.ENOENT, e.EBUSY),
    "ioctl IOMMU_IOAS_ALLOC": _row("4", e.EOPNOTSUPP, e.ENOMEM),
    "ioctl IOMMU_IOAS_IOVA_RANGES": _row("4", e.EOPNOTSUPP, e.ENOENT, e.EMSGSIZE, e.EFAULT),
    "ioctl IOMMU_IOAS_MAP_FILE": _row("4 MAP", *MAP, e.EOPNOTSUPP, e.ENOENT, e.EBADF, e.ENOTTY),
    "ioctl IOMMU_IOAS_MAP": _row("4 MAP", *MAP, e.EOPNOTSUPP, e.ENOENT),
    "ioctl IOMMU_IOAS_UNMAP": _row("4 UNMAP", e.EOVERFLOW, e.EINVAL, e.ENOENT, e.EBUSY, e.EDEADLK),
    "ioctl IOMMU_HWPT_ALLOC": _row(
        "4 HWPT", e.EOPNOTSUPP, e.EINVAL, e.ENOENT, e.ENOMEM, e.EFAULT, e.EADDRINUSE, e.ENOTTY
    ),
    "ioctl IOMMU_GET_HW_INFO": _row("4 HWPT", e.EOPNOTSUPP, e.ENOENT, e.EFAULT, e.ENOTTY),
    # -- KVM -----------------------------------------------------------------------------------
    "ioctl KVM_CREATE_VM": _row("KVM API", e.EINVAL, e.ENOMEM, e.EMFILE),
    "ioctl KVM_CREATE_DEVICE": _row("KVM API", e.ENODEV, e.EEXIST, e.EMFILE),
    "ioctl KVM_SET_DEVICE_ATTR": _row(
        "14", e.EBADF, e.EINVAL, e.EEXIST, e.ENOENT, e.ENXIO, e.EPERM
    ),
    # -- devices -------------------------------------------------------------------------------
    "ioctl VFIO_DEVICE_GET_INFO": _row("0, 6", *INFO, RESUME),
    "ioctl VFIO_DEVICE_GET_REGION_INFO": _row("0, 6", *INFO, RESUME),
    "ioctl VFIO_DEVICE_GET_IRQ_INFO": _row("0, 6", *INFO, RESUME),
    "ioctl VFIO_DEVICE_SET_IRQS": _row(
        "6, 7, 10", *INFO, e.EBADF, e.EBUSY, e.ENODEV, e.ENOTTY, e.ERANGE, e.ENOMEM, RESUME
    ),
    "ioctl VFIO_DEVICE_RESET": _row("6, 7", e.EINVAL, e.EAGAIN, e.ENOTTY, e.EOPNOTSUPP, RESUME),
    "ioctl VFIO_DEVICE_FEATURE": _row("6, 9", e.ENOTTY, e.EINVAL, e.EOPNOTSUPP, RESUME),
    "pread": _row("7, 11", e.EIO, e.EINVAL, e.EFAULT, e.EAGAIN, e.ENODEV),
    "pwrite": _row(
        "7, 11",
        *(e.EIO, e.EINVAL, e.EFAULT, e.EAGAIN, e.EBUSY, e.EACCES, e.ENODEV, e.EOPNOTSUPP, e.EPERM),
    ),
    "mmap device": _row("7 mmap", e.EINVAL, e.EBUSY, e.ENOMEM, e.ENODEV, e.EAGAIN),
    # -- memory and events ---------------------------------------------------------------------
    "mmap": _row("mmap(2)", e.ENOMEM, e.EAGAIN, e.ENFILE),
    "madvise": _row("madvise(2)", e.ENOMEM, e.EFAULT),
    "memfd": _row("memfd_create(2), ftruncate(2)", e.EMFILE, e.ENFILE, e.ENOMEM, e.EFBIG),
    "eventfd": _row("eventfd(2)", e.EMFILE, e.ENFILE, e.ENODEV, e.ENOMEM),
    "read": _row("eventfd(2)", e.EAGAIN),
    "write": _row("eventfd(2)", e.EAGAIN),
    "poll": _row("poll(2)", e.ENOMEM, e.EINVAL),
    # -- sysfs ---------------------------------------------------------------------------------
    "listdir": _row("14, readdir(3)", e.ENOENT, e.EACCES, e.EMFILE),
    "readlink": _row("14, readlink(2)", e.ENOENT, e.EACCES, e.EINVAL),
    "read_file": _row("14, read(2)", e.ENOENT, e.EACCES, e.ENODEV, e.EIO),
}


def answers(label: str) -> Answers:
    """The row of a call, by the longest beginning of its words."""
    return TABLE[max((key for key in TABLE if label.startswith(key)), key=len)]


TAKEN_AS_FACTS: dict[tuple[str, int], str] = {
    ("ioctl VFIO_GROUP_SET_CONTAINER", e.EINVAL): "not with these groups: a container of its own",
    ("ioctl VFIO_GROUP_SET_CONTAINER", e.EPERM): "not with these groups: a container of its own",
    ("ioctl VFIO_IOMMU_MAP_DMA", e.EBUSY): "cleared, and tried once more",
    ("ioctl VFIO_DEVICE_ATTACH_IOMMUFD_PT", e.EBUSY): "the group resets: tried again",
    ("ioctl VFIO_DEVICE_ATTACH_IOMMUFD_PT", e.EINVAL): "not this page table: one of its own",
    ("ioctl VFIO_DEVICE_ATTACH_IOMMUFD_PT", e.EADDRINUSE): "not this IOAS: one of its own",
    ("ioctl IOMMU_HWPT_ALLOC", e.EOPNOTSUPP): "no page tables on request: plain attachment",
    ("ioctl IOMMU_HWPT_ALLOC", e.ENOTTY): "a kernel without: plain attachment",
    ("ioctl IOMMU_HWPT_ALLOC", e.ENOENT): "an emulated device: plain attachment",
    ("ioctl IOMMU_GET_HW_INFO", e.EOPNOTSUPP): "an IOMMU that does not tell",
    ("ioctl IOMMU_GET_HW_INFO", e.ENOTTY): "a kernel that does not tell",
    ("ioctl IOMMU_GET_HW_INFO", e.ENOENT): "an emulated device",
    ("ioctl IOMMU_IOAS_IOVA_RANGES", e.EMSGSIZE): "asked again with more room",
    ("ioctl VFIO_DEVICE_FEATURE", e.ENOTTY): "the device has no such feature",
    ("ioctl VFIO_DEVICE_FEATURE", e.EINVAL): "the device has no such operation of it",
    ("ioctl VFIO_DEVICE_FEATURE", e.EOPNOTSUPP): "the driver has no such feature",
    ("ioctl VFIO_DEVICE_GET_REGION_INFO", e.EINVAL): "a region that not every device has",
    ("ioctl VFIO_DEVICE_GET_IRQ_INFO", e.EINVAL): "an index that not every device has",
    ("pwrite", e.EAGAIN): "a subchannel that is taken: tried again",
    ("read", e.EAGAIN): "nothing yet",
    ("write", e.EAGAIN): "the eventfd is readable already",
    ("open /dev/vfio/devices/", e.ENOENT): "no node of that name: the one by number",
    ("open /dev/vfio/devices/", e.ENODEV): "no node of that name: the one by number",
    ("listdir", e.ENOENT): "the device has no cdev",
    ("readlink", e.ENOENT): "the device has no driver, or no group",
    ("read_file", e.ENOENT): "the device has no such attribute",
}
"""Answers that do not stop a session, or that it reports as what follows from them."""


def is_a_fact(label: str, code: int) -> bool:
    return any(label.startswith(key) and code == number for key, number in TAKEN_AS_FACTS)
