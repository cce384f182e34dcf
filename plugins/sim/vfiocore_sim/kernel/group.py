"""The legacy group and its file /dev/vfio/N (drivers/vfio/group.c)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, ClassVar

from vfiocore.uapi.vfio import (
    VFIO_GROUP_FLAGS_CONTAINER_SET,
    VFIO_GROUP_FLAGS_VIABLE,
    VFIO_GROUP_GET_DEVICE_FD,
    VFIO_GROUP_GET_STATUS,
    VFIO_GROUP_SET_CONTAINER,
    VFIO_GROUP_UNSET_CONTAINER,
    vfio_group_status,
)
from vfiocore_sim.kernel.container import Container, ContainerFile
from vfiocore_sim.kernel.devicefile import DeviceFile
from vfiocore_sim.kernel.files import OpenFile
from vfiocore_sim.kernel.iommufd import Iommufd
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiocore_sim.kernel.iommu import IommuModel
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.kernel.node import Node
    from vfiocore_sim.user import UserArg


class Group:
    """An IOMMU group: devices that cannot be kept apart, and who owns their DMA."""

    def __init__(self, number: int, iommu: IommuModel, *, noiommu: bool, emulated: bool) -> None:
        self.number = number
        self.iommu = iommu
        self.noiommu = noiommu
        #: Made for a mediated device, which has no IOMMU domain of its own.
        self.emulated = emulated
        self.devices: list[Node] = []
        self.file: GroupFile | None = None
        #: Device files that are bound through a cdev: they keep the group's node shut.
        self.cdev_binds = 0
        self._owner: object | None = None
        self._claims = 0

    @property
    def translated(self) -> bool:
        """True when a real IOMMU stands between the devices and memory."""
        return not (self.noiommu or self.emulated)

    @property
    def on_vfio(self) -> list[Node]:
        """The devices that a VFIO driver is bound to."""
        return [node for node in self.devices if node.on_vfio]

    @property
    def node_name(self) -> str:
        """The name of the group's node under /dev/vfio."""
        return f"noiommu-{self.number}" if self.noiommu else str(self.number)

    @property
    def claimed(self) -> bool:
        """True while VFIO owns the DMA of the group: no host driver may bind."""
        return self._claims > 0

    @property
    def owned(self) -> bool:
        """``iommu.c:iommu_group_dma_owner_claimed``, and drivers that use the DMA API."""
        return self._claims > 0 or any(node.owns_dma for node in self.devices)

    def claim(self, owner: object, *, shared: bool = False) -> None:
        """``iommu.c:iommu_group_claim_dma_owner``; `shared` lets the same owner claim again."""
        if any(node.owns_dma for node in self.devices):
            raise refused(errno.EPERM)
        if self._claims and not (shared and self._owner is owner):
            raise refused(errno.EPERM)
        self._owner = owner
        self._claims += 1

    def disclaim(self) -> None:
        """``iommu.c:iommu_group_release_dma_owner``."""
        self._claims -= 1
        if not self._claims:
            self._owner = None


class GroupFile(OpenFile):
    """The one open file of a group."""

    requests: ClassVar[Mapping[int, str]] = {
        VFIO_GROUP_GET_STATUS: "VFIO_GROUP_GET_STATUS",
        VFIO_GROUP_SET_CONTAINER: "VFIO_GROUP_SET_CONTAINER",
        VFIO_GROUP_UNSET_CONTAINER: "VFIO_GROUP_UNSET_CONTAINER",
        VFIO_GROUP_GET_DEVICE_FD: "VFIO_GROUP_GET_DEVICE_FD",
    }

    def __init__(self, machine: Machine, group: Group, *, rdev: int) -> None:
        """``group.c:vfio_group_fops_open``."""
        super().__init__(machine, rdev=rdev)
        if group.noiommu and not machine.cap_sys_rawio:
            raise refused(errno.EPERM)
        if group.cdev_binds or group.file is not None:
            raise refused(errno.EBUSY)
        group.file = self
        self.group = group
        self.kvm: object | None = None
        self.container: Container | None = None
        self.iommufd: Iommufd | None = None
        #: Device files in container mode: UNSET_CONTAINER waits for them.
        self.container_users = 0

    def __str__(self) -> str:
        return f"group {self.group.number}"

    def ioctl(self, request: int, arg: UserArg) -> int:
        """``group.c:vfio_group_fops_unl_ioctl``."""
        if request == VFIO_GROUP_GET_STATUS:
            return self._get_status(arg)
        if request == VFIO_GROUP_SET_CONTAINER:
            return self._set_container(arg)
        if request == VFIO_GROUP_UNSET_CONTAINER:
            return self._unset_container()
        if request == VFIO_GROUP_GET_DEVICE_FD:
            return self._get_device_fd(arg)
        raise refused(errno.ENOTTY)

    @property
    def _has_iommu(self) -> bool:
        return self.container is not None or self.iommufd is not None

    def _get_status(self, arg: UserArg) -> int:
        """``group.c:vfio_group_ioctl_get_status``."""
        status = arg.struct(vfio_group_status)
        if not self.group.on_vfio:
            raise refused(errno.ENODEV)
        status.flags = 0
        if self._has_iommu:
            status.flags = VFIO_GROUP_FLAGS_CONTAINER_SET | VFIO_GROUP_FLAGS_VIABLE
        elif not self.group.owned:
            status.flags = VFIO_GROUP_FLAGS_VIABLE
        arg.answer(status)
        return 0

    def _set_container(self, arg: UserArg) -> int:
        """``group.c:vfio_group_ioctl_set_container``."""
        (fd,) = struct.unpack("=i", arg.read(4))
        file = self.machine.files.find(fd)
        if self._has_iommu:
            raise refused(errno.EINVAL)
        if not self.group.on_vfio:
            raise refused(errno.ENODEV)
        if isinstance(file, ContainerFile):
            file.container.attach(self.group)
            self.container = file.container
        elif isinstance(file, Iommufd):
            self._use_iommufd(file)
        else:
            raise refused(errno.EBADFD)
        return 0

    def _use_iommufd(self, iommufd: Iommufd) -> None:
        if self.group.noiommu:
            iommufd.compat_use_noiommu()
        else:
            iommufd.compat_ioas_create()
        iommufd.hold()
        self.iommufd = iommufd

    def _unset_container(self) -> int:
        """``group.c:vfio_group_ioctl_unset_container``."""
        if not self._has_iommu:
            raise refused(errno.EINVAL)
        if self.container is not None and self.container_users:
            raise refused(errno.EBUSY)
        self._detach()
        return 0

    def _detach(self) -> None:
        if self.container is not None:
            self.container.detach(self.group)
            self.container = None
        if self.iommufd is not None:
            self.iommufd.drop()
            self.iommufd = None

    def _get_device_fd(self, arg: UserArg) -> int:
        """``group.c:vfio_group_ioctl_get_device_fd``."""
        text = arg.string(self.machine.page_size)
        node = self._match(text)
        file = DeviceFile(self.machine, node)
        try:
            file.open_through_group(self)
        except OSError:
            file.release()
            raise
        return self.machine.files.install(file)

    def _match(self, text: str) -> Node:
        """``vfio_main.c:vfio_device_get_from_name``; for PCI, ``vfio_pci_core.c`` matches."""
        for node in self.group.on_vfio:
            if node.name == text:
                node.vfio_program().token_check(None, None)
                return node
            options = text.removeprefix(node.name)
            if node.bus == "pci" and options != text and options.startswith(" "):
                node.vfio_program().token_check(options if options.strip(" ") else None, None)
                return node
        raise refused(errno.ENODEV)

    def revoke(self) -> None:
        """The last device has left VFIO (``group.c:vfio_device_remove_group``)."""
        if self.container is not None:
            self.container.detach(self.group)
            self.container = None

    def release(self) -> None:
        """``group.c:vfio_group_fops_release``."""
        self._detach()
        self.group.file = None
