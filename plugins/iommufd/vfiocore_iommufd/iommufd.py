"""The ``-object iommufd``: one ``/dev/iommu``, opened for its first user, closed with its last."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import define, field

from vfiocore.errors import HostUnsupportedError, KernelError, kernel_error
from vfiocore.registration import BackendObject, ObjectRequest
from vfiocore.uapi import iommufd as uapi
from vfiocore_iommufd import NODE
from vfiocore_iommufd.cdev import NODE_PERMISSION_HINT
from vfiocore_iommufd.kinds import issue

if TYPE_CHECKING:
    from vfiocore.host import Host
    from vfiocore_iommufd.container import IommufdContainer

_U32_SIZE = ctypes.sizeof(ctypes.c_uint32)


@define(eq=False, kw_only=True)
class Iommufd(BackendObject):
    """A context of the kernel's iommufd: its objects and their ids mean nothing outside of it.

    Attributes:
        passed_fd: An opened /dev/iommu from elsewhere; never closed here.
        containers: The live IOASes of this context, oldest first; they can share pinned memory.
            Objects that were passed the same fd have them in common.
    """

    passed_fd: int | None = None
    containers: list[IommufdContainer] = field(factory=list, repr=False)
    _fd: int | None = field(default=None, init=False)
    _users: int = field(default=0, init=False)
    _maps_files: bool | None = field(default=None, init=False)

    @property
    def fd(self) -> int:
        """The open /dev/iommu; there is one while the object has a user."""
        assert self._fd is not None
        return self._fd

    def acquire(self) -> None:
        """Count one user; open /dev/iommu for the first.

        Raises:
            HostUnsupportedError: ENOENT or ENODEV, the kernel has no iommufd.
            AccessDeniedError: EACCES, the node's permissions.
        """
        if self._users == 0:
            self._fd = _open(self.host) if self.passed_fd is None else self.passed_fd
        self._users += 1

    def release(self) -> None:
        """Undo one `acquire`; the last one closes what the first one opened."""
        self._users -= 1
        if self._users:
            return
        fd, self._fd = self.fd, None
        if self.passed_fd is not None:
            return
        try:
            self.host.close(fd)
        except OSError as error:
            raise kernel_error(error, "close", NODE) from error

    @property
    def maps_files(self) -> bool:
        """Whether the kernel has IOMMU_IOAS_MAP_FILE (Linux 6.13); asked once."""
        if self._maps_files is None:
            self._maps_files = self._knows(uapi.IOMMU_IOAS_MAP_FILE)
        return self._maps_files

    def alloc_ioas(self) -> int:
        """IOMMU_IOAS_ALLOC: the id of a new IOAS."""
        arg = uapi.iommu_ioas_alloc(size=ctypes.sizeof(uapi.iommu_ioas_alloc))
        call = ("IOMMU_IOAS_ALLOC", uapi.IOMMU_IOAS_ALLOC)
        issue(self.host, self.fd, call, arg, f"iommufd {self.id}")
        return int(arg.out_ioas_id)

    def destroy(self, object_id: int) -> None:
        """IOMMU_DESTROY; BusyError (EBUSY) while something uses the object."""
        arg = uapi.iommu_destroy(size=ctypes.sizeof(uapi.iommu_destroy), id=object_id)
        call = ("IOMMU_DESTROY", uapi.IOMMU_DESTROY)
        issue(self.host, self.fd, call, arg, f"object {object_id} of iommufd {self.id}")

    def _knows(self, request: int) -> bool:
        """Whether the kernel knows an ioctl, without doing anything.

        A size too short for any struct is EINVAL for an ioctl that the kernel knows and ENOTTY
        for one that it does not (iommufd/main.c: iommufd_fops_ioctl).
        """
        try:
            self.host.ioctl(self.fd, request, bytearray(ctypes.c_uint32(_U32_SIZE)))
        except OSError as error:
            return error.errno != errno.ENOTTY
        return True


def make_iommufd(request: ObjectRequest) -> Iommufd:
    """The live object for ``-object iommufd,id=…[,fd=…]``.

    Raises:
        KernelError: EBADFD, the passed fd is not an iommufd; EBADF, it is not open.
    """
    id_ = request.config.id or "iommufd"
    if request.fd is not None:
        _check_is_iommufd(request.host, request.fd, id_)
    made = Iommufd(id=id_, host=request.host, passed_fd=request.fd)
    if request.fd is not None:
        made.containers = _containers_behind(request.fd, request.siblings, made.containers)
    return made


def _containers_behind(
    fd: int, objects: Iterable[BackendObject], otherwise: list[IommufdContainer]
) -> list[IommufdContainer]:
    """The IOASes of the object that was passed the same fd: the context, and its ids, are one."""
    for other in objects:
        if isinstance(other, Iommufd) and other.passed_fd == fd:
            return other.containers
    return otherwise


def _open(host: Host) -> int:
    absent = dict.fromkeys((errno.ENOENT, errno.ENODEV, errno.ENXIO), HostUnsupportedError)
    try:
        return host.open(NODE)
    except OSError as error:
        hint = (
            "load the module (modprobe iommufd; Linux 6.6 with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV), use the legacy"
            " backend (no iommufd=), or go on with the simulated host: --host sim"
            if error.errno in absent
            else NODE_PERMISSION_HINT
            if error.errno in (errno.EACCES, errno.EPERM)
            else None
        )
        raise kernel_error(error, "open", NODE, kinds=absent, hint=hint) from error


def _check_is_iommufd(host: Host, fd: int, id_: str) -> None:
    """Make sure of a passed fd by destroying object 0, which no iommufd has.

    Ids start at 1 (iommufd/main.c: iommufd_fops_open, XA_FLAGS_ALLOC1), so that only an iommufd
    says ENOENT. A short size as a probe would not tell it from a VFIO container, which answers
    EINVAL to whatever it is asked before SET_IOMMU.
    """
    arg = uapi.iommu_destroy(size=ctypes.sizeof(uapi.iommu_destroy), id=0)
    try:
        host.ioctl(fd, uapi.IOMMU_DESTROY, arg)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return
        number = errno.EBADF if error.errno == errno.EBADF else errno.EBADFD
        raise KernelError(
            number,
            "IOMMU_DESTROY",
            f"iommufd {id_}",
            f"fd {fd} is not open" if number == errno.EBADF else f"fd {fd} is not an iommufd",
            f"fd= takes an opened {NODE}",
        ) from error
