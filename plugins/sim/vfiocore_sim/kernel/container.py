"""The legacy container, /dev/vfio/vfio (drivers/vfio/container.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

from vfiocore.uapi.vfio import (
    VFIO_API_VERSION,
    VFIO_CHECK_EXTENSION,
    VFIO_DMA_CC_IOMMU,
    VFIO_GET_API_VERSION,
    VFIO_IOMMU_DIRTY_PAGES,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_UNMAP_DMA,
    VFIO_NOIOMMU_IOMMU,
    VFIO_SET_IOMMU,
    VFIO_TYPE1_IOMMU,
    VFIO_UNMAP_ALL,
    VFIO_UPDATE_VADDR,
    VFIO_TYPE1v2_IOMMU,
)
from vfiocore_sim.kernel.files import OpenFile
from vfiocore_sim.kernel.translation import PhysicalMemory, Translation
from vfiocore_sim.kernel.type1 import Type1
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiocore_sim.kernel.group import Group
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.user import UserArg

CONTAINER_REQUESTS = {
    VFIO_GET_API_VERSION: "VFIO_GET_API_VERSION",
    VFIO_CHECK_EXTENSION: "VFIO_CHECK_EXTENSION",
    VFIO_SET_IOMMU: "VFIO_SET_IOMMU",
    VFIO_IOMMU_GET_INFO: "VFIO_IOMMU_GET_INFO",
    VFIO_IOMMU_MAP_DMA: "VFIO_IOMMU_MAP_DMA",
    VFIO_IOMMU_UNMAP_DMA: "VFIO_IOMMU_UNMAP_DMA",
    VFIO_IOMMU_DIRTY_PAGES: "VFIO_IOMMU_DIRTY_PAGES",
}

_EXTENSIONS = {
    VFIO_TYPE1_IOMMU: "VFIO_TYPE1_IOMMU",
    VFIO_TYPE1v2_IOMMU: "VFIO_TYPE1v2_IOMMU",
    VFIO_DMA_CC_IOMMU: "VFIO_DMA_CC_IOMMU",
    VFIO_NOIOMMU_IOMMU: "VFIO_NOIOMMU_IOMMU",
    VFIO_UNMAP_ALL: "VFIO_UNMAP_ALL",
    VFIO_UPDATE_VADDR: "VFIO_UPDATE_VADDR",
}


class NoIommu:
    """The backend without translation (``container.c:vfio_noiommu_ops``)."""

    def __init__(self, machine: Machine) -> None:
        self.translation: PhysicalMemory = PhysicalMemory(machine.memory)

    def check_extension(self, extension: int) -> int:
        """``container.c:vfio_noiommu_ioctl``."""
        return int(extension == VFIO_NOIOMMU_IOMMU)

    def ioctl(self, request: int, arg: UserArg) -> int:
        """Every other request."""
        raise refused(errno.ENOTTY)

    def attach(self, group: Group) -> None:
        """Nothing to program."""

    def detach(self, group: Group) -> None:
        """Nothing to program."""


class Container:
    """Groups that share an address space, and the backend that translates for them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.groups: list[Group] = []
        self.backend: Type1 | NoIommu | None = None

    @property
    def translation(self) -> Translation | None:
        """Where DMA of the container's devices goes."""
        return self.backend.translation if self.backend else None

    def attach(self, group: Group) -> None:
        """``container.c:vfio_container_attach_group``."""
        if self.groups and self.groups[0].noiommu != group.noiommu:
            raise refused(errno.EPERM)
        if group.translated:
            group.claim(group)
        if self.backend is not None:
            try:
                self.backend.attach(group)
            except OSError:
                if group.translated:
                    group.disclaim()
                raise
        self.groups.append(group)

    def detach(self, group: Group) -> None:
        """``container.c:vfio_group_detach_container``; the last group takes the backend along."""
        if self.backend is not None:
            self.backend.detach(group)
        if group.translated:
            group.disclaim()
        self.groups.remove(group)
        if not self.groups:
            self.backend = None

    def check_extension(self, extension: int) -> int:
        """``container.c:vfio_container_ioctl_check_extension``."""
        if not self._machine.has(_EXTENSIONS.get(extension, "")):
            return 0
        if self.backend is not None:
            return self.backend.check_extension(extension)
        if extension == VFIO_NOIOMMU_IOMMU:
            return int(self._machine.noiommu_enabled)
        return int(extension in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL))

    def set_iommu(self, kind: int) -> int:
        """``container.c:vfio_ioctl_set_iommu``."""
        if not self.groups or self.backend is not None:
            raise refused(errno.EINVAL)
        noiommu = self.groups[0].noiommu
        backend = self._open_noiommu(kind) if noiommu else self._open_type1(kind)
        attached: list[Group] = []
        try:
            for group in self.groups:
                backend.attach(group)
                attached.append(group)
        except OSError:
            for group in reversed(attached):
                backend.detach(group)
            raise
        self.backend = backend
        return 0

    def _open_noiommu(self, kind: int) -> NoIommu:
        """``container.c:vfio_noiommu_open``."""
        if kind != VFIO_NOIOMMU_IOMMU:
            raise refused(errno.ENODEV)
        return NoIommu(self._machine)

    def _open_type1(self, kind: int) -> Type1:
        """``vfio_iommu_type1.c:vfio_iommu_type1_open``."""
        if kind == VFIO_UNMAP_ALL:
            # Answers CHECK_EXTENSION with 1, so the backend is asked to open, and refuses.
            raise refused(errno.EINVAL)
        offered = self._machine.has(_EXTENSIONS.get(kind, ""))
        if not offered or kind not in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU):
            raise refused(errno.ENODEV)
        return Type1(self._machine, v2=kind == VFIO_TYPE1v2_IOMMU)


class ContainerFile(OpenFile):
    """An open /dev/vfio/vfio. Groups hold the container, so it outlives the file."""

    requests: ClassVar[Mapping[int, str]] = CONTAINER_REQUESTS

    def __init__(self, machine: Machine, *, rdev: int) -> None:
        super().__init__(machine, rdev=rdev)
        self.container: Container = Container(machine)

    def __str__(self) -> str:
        return "container"

    def ioctl(self, request: int, arg: UserArg) -> int:
        """``container.c:vfio_fops_unl_ioctl``."""
        container = self.container
        if request == VFIO_GET_API_VERSION:
            return VFIO_API_VERSION
        if request == VFIO_CHECK_EXTENSION:
            return container.check_extension(arg.value)
        if request == VFIO_SET_IOMMU:
            return container.set_iommu(arg.value)
        if container.backend is None:
            raise refused(errno.EINVAL)
        return container.backend.ioctl(request, arg)
