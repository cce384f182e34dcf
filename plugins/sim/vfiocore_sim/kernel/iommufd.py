"""/dev/iommu: the objects of an iommufd and its ioctls (drivers/iommu/iommufd/main.c)."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from vfiocore.uapi import iommufd as uapi
from vfiocore_sim.kernel import compat, hwpt_ioctls, ioas_ioctls
from vfiocore_sim.kernel.accounting import Charge
from vfiocore_sim.kernel.faultqueue import FaultQueue
from vfiocore_sim.kernel.files import OpenFile
from vfiocore_sim.kernel.hwpt import Access, Attachment, BoundDevice, Hwpt
from vfiocore_sim.kernel.ioas import Ioas
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.kernel.node import Node
    from vfiocore_sim.user import UserArg

T = TypeVar("T")
_FIRST, _LAST = uapi.IOMMUFD_CMD_BASE, 0x94


class Command(NamedTuple):
    """A line of ``main.c:iommufd_ioctl_ops``: the struct, its shortest size, what answers."""

    kind: type[ctypes.Structure]
    minimum: int
    #: Any, as each handler takes the struct of its own line.
    handler: Callable[[Iommufd, Any], None]


class Iommufd(OpenFile):
    """An open /dev/iommu (``struct iommufd_ctx``); bound device files hold it open."""

    def __init__(self, machine: Machine, *, rdev: int) -> None:
        super().__init__(machine, rdev=rdev)
        self._objects: dict[int, object] = {}
        self.compat_ioas: Ioas | None = None
        self.noiommu: bool = False
        self.account = Charge.USER

    requests: ClassVar[Mapping[int, str]] = compat.REQUESTS | {
        getattr(uapi, name): name
        for name in (
            "IOMMU_DESTROY",
            "IOMMU_IOAS_ALLOC",
            "IOMMU_IOAS_ALLOW_IOVAS",
            "IOMMU_IOAS_COPY",
            "IOMMU_IOAS_IOVA_RANGES",
            "IOMMU_IOAS_MAP",
            "IOMMU_IOAS_UNMAP",
            "IOMMU_OPTION",
            "IOMMU_VFIO_IOAS",
            "IOMMU_HWPT_ALLOC",
            "IOMMU_FAULT_QUEUE_ALLOC",
            "IOMMU_GET_HW_INFO",
            "IOMMU_HWPT_SET_DIRTY_TRACKING",
            "IOMMU_HWPT_GET_DIRTY_BITMAP",
            "IOMMU_IOAS_MAP_FILE",
            "IOMMU_IOAS_CHANGE_PROCESS",
        )
    }

    def __str__(self) -> str:
        return "iommufd"

    # -- objects -----------------------------------------------------------------------------
    def add(self, thing: object) -> int:
        """Give an object the lowest free id; 0 is no id."""
        ident = 1
        while ident in self._objects:
            ident += 1
        self._objects[ident] = thing
        return ident

    def forget(self, thing: object) -> None:
        """Free an object's id."""
        del self._objects[self.ident_of(thing)]

    def ident_of(self, thing: object) -> int:
        """The id of an object."""
        return next(ident for ident, held in self._objects.items() if held is thing)

    def get(self, ident: int) -> object:
        """The object of an id, of any type; ENOENT."""
        try:
            return self._objects[ident]
        except KeyError:
            raise refused(errno.ENOENT) from None

    def find(self, ident: int, kind: type[T]) -> T:
        """The object of an id; ENOENT also when it is of another type."""
        thing = self._objects.get(ident)
        if not isinstance(thing, kind):
            raise refused(errno.ENOENT)
        return thing

    def of_type(self, kind: type[T]) -> list[T]:
        """All objects of a type."""
        return [thing for thing in self._objects.values() if isinstance(thing, kind)]

    @property
    def empty(self) -> bool:
        """True while no object exists."""
        return not self._objects

    def destroy(self, ident: int) -> None:
        """``main.c:iommufd_destroy``: EBUSY while something uses the object."""
        thing = self.get(ident)
        if isinstance(thing, BoundDevice | Access):
            raise refused(errno.EBUSY)
        if isinstance(thing, Hwpt):
            if thing.devices or self._has_pasids(thing):
                raise refused(errno.EBUSY)
            thing.ioas.remove_hwpt(thing)
        if isinstance(thing, Ioas):
            self._destroy_ioas(thing)
        if isinstance(thing, FaultQueue) and (thing.open or self._uses(thing)):
            raise refused(errno.EBUSY)
        self.forget(thing)

    def _has_pasids(self, hwpt: Hwpt) -> bool:
        return any(hwpt in device.pasids.values() for device in self.of_type(BoundDevice))

    def _uses(self, queue: FaultQueue) -> bool:
        return any(hwpt.faults is queue for hwpt in self.of_type(Hwpt))

    def _destroy_ioas(self, ioas: Ioas) -> None:
        """``ioas.c:iommufd_ioas_destroy``."""
        if ioas.hwpts or ioas.accesses:
            raise refused(errno.EBUSY)
        if ioas is self.compat_ioas:
            self.compat_ioas = None
        for area in ioas.areas:
            ioas.remove(area)

    # -- devices -----------------------------------------------------------------------------
    def bind(self, node: Node) -> Attachment:
        """``device.c:iommufd_device_bind``; for an emulated device an access is made."""
        if node.emulated:
            return Access(self, node)
        assert node.group is not None  # without one a device has no file to be bound through
        return BoundDevice(self, node, node.group)

    # -- compat ------------------------------------------------------------------------------
    def compat_ioas_create(self) -> None:
        """``vfio_compat.c:iommufd_vfio_compat_ioas_create``."""
        if self.noiommu:
            raise refused(errno.EINVAL)
        if self.compat_ioas is None:
            self.compat_ioas = Ioas(self.machine)
            self.add(self.compat_ioas)

    def compat_use_noiommu(self) -> None:
        """``vfio_compat.c:iommufd_vfio_compat_set_no_iommu``."""
        if self.compat_ioas is not None:
            raise refused(errno.EINVAL)
        self.noiommu = True

    def compat_ioas_id(self) -> int:
        """``vfio_compat.c:iommufd_vfio_compat_ioas_get_id``."""
        return self.ident_of(self.compat())

    def compat(self) -> Ioas:
        """The IOAS that container ioctls work on; ENODEV when there is none."""
        if self.compat_ioas is None:
            raise refused(errno.ENODEV)
        return self.compat_ioas

    # -- ioctls ------------------------------------------------------------------------------
    def ioctl(self, request: int, arg: UserArg) -> int:
        """``main.c:iommufd_fops_ioctl``."""
        if not _FIRST <= request & 0xFF <= _LAST:
            return compat.ioctl(self, request, arg)
        arg.read(4)  # get_user(ucmd.user_size): before it is known whether there is such a command
        command = _COMMANDS.get(request)
        if command is None:
            # Nested translation (INVALIDATE, VIOMMU...) is not simulated.
            raise refused(errno.ENOTTY)
        wanted = arg.sized(command.kind, command.minimum)
        size = min(getattr(wanted, "size"), ctypes.sizeof(wanted))  # noqa: B009
        try:
            command.handler(self, wanted)
        except OSError as refusal:
            # IOVA_RANGES answers with the true number beside its error; nothing else does.
            if refusal.errno == errno.EMSGSIZE:
                arg.answer(wanted, size)
            raise
        arg.answer(wanted, size)
        return 0

    def mmap(self, length: int, prot: int, flags: int, offset: int) -> mmap.mmap:
        """``main.c:iommufd_fops_mmap``: only a vIOMMU, which there is none of, can be mapped."""
        if not flags & mmap.MAP_SHARED:
            raise refused(errno.EINVAL)
        raise refused(errno.EPERM if prot & mmap.PROT_EXEC else errno.ENXIO)

    def release(self) -> None:
        """``main.c:iommufd_fops_release``: users before what they use."""
        for hwpt in self.of_type(Hwpt):
            hwpt.ioas.remove_hwpt(hwpt)
            self.forget(hwpt)
        for ioas in self.of_type(Ioas):
            self._destroy_ioas(ioas)
            self.forget(ioas)


_COMMANDS = {
    uapi.IOMMU_DESTROY: Command(uapi.iommu_destroy, 8, lambda ctx, arg: ctx.destroy(arg.id)),
    uapi.IOMMU_IOAS_ALLOC: Command(uapi.iommu_ioas_alloc, 12, ioas_ioctls.alloc),
    uapi.IOMMU_IOAS_ALLOW_IOVAS: Command(uapi.iommu_ioas_allow_iovas, 24, ioas_ioctls.allow),
    uapi.IOMMU_IOAS_COPY: Command(uapi.iommu_ioas_copy, 40, ioas_ioctls.copy),
    uapi.IOMMU_IOAS_IOVA_RANGES: Command(uapi.iommu_ioas_iova_ranges, 32, ioas_ioctls.ranges),
    uapi.IOMMU_IOAS_MAP: Command(uapi.iommu_ioas_map, 40, ioas_ioctls.map_memory),
    uapi.IOMMU_IOAS_MAP_FILE: Command(uapi.iommu_ioas_map_file, 40, ioas_ioctls.map_file),
    uapi.IOMMU_IOAS_UNMAP: Command(uapi.iommu_ioas_unmap, 24, ioas_ioctls.unmap),
    uapi.IOMMU_IOAS_CHANGE_PROCESS: Command(
        uapi.iommu_ioas_change_process, 8, ioas_ioctls.change_process
    ),
    uapi.IOMMU_OPTION: Command(uapi.iommu_option, 24, ioas_ioctls.option),
    uapi.IOMMU_VFIO_IOAS: Command(uapi.iommu_vfio_ioas, 12, compat.vfio_ioas),
    uapi.IOMMU_HWPT_ALLOC: Command(uapi.iommu_hwpt_alloc, 24, hwpt_ioctls.alloc),
    uapi.IOMMU_FAULT_QUEUE_ALLOC: Command(
        uapi.iommu_fault_alloc, 16, hwpt_ioctls.alloc_fault_queue
    ),
    uapi.IOMMU_GET_HW_INFO: Command(uapi.iommu_hw_info, 32, hwpt_ioctls.hw_info),
    uapi.IOMMU_HWPT_SET_DIRTY_TRACKING: Command(
        uapi.iommu_hwpt_set_dirty_tracking, 16, hwpt_ioctls.set_dirty_tracking
    ),
    uapi.IOMMU_HWPT_GET_DIRTY_BITMAP: Command(
        uapi.iommu_hwpt_get_dirty_bitmap, 48, hwpt_ioctls.get_dirty_bitmap
    ),
}
