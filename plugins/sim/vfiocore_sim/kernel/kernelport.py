"""What a device program may ask of the kernel: the `KernelPort` of a device."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from vfiocore.uapi.vfio import VFIO_PCI_DEVID_NOT_OWNED, VFIO_PCI_DEVID_OWNED
from vfiocore_sim.device import DmaBuf, HotResetPeer
from vfiocore_sim.kernel.dmabuf import DmaBufFile
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.group import Group
    from vfiocore_sim.kernel.node import Node


class KernelSide:
    """The kernel as one device sees it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def lock(self) -> AbstractContextManager[object]:
        """The lock of the simulated kernel."""
        return self._node.machine.lock

    def cdev(self) -> bool:
        """True when the device was opened through its cdev."""
        return self._node.opened_by_cdev

    def kvm(self) -> object | None:
        """The virtual machine that was linked to the file it was opened through."""
        return self._node.kvm

    def hot_reset_peers(self) -> list[HotResetPeer]:
        """``vfio_pci_core.c:vfio_pci_ioctl_get_pci_hot_reset_info``: everything on the bus."""
        return [
            HotResetPeer(node.name, group.number, self._devid(node), node.program)
            for node in self._on_same_bus()
            if (group := self._group_of(node)) and node.program is not None
        ]

    def alone_on_bus(self) -> bool:
        """``pci.c:pci_parent_bus_reset``; every simulated function is behind a port."""
        return self._on_same_bus() == [self._node]

    def has(self, name: str) -> bool:
        """See `KernelOptions.without`."""
        return self._node.machine.has(name)

    def export(self, buffer: DmaBuf, open_flags: int) -> int:
        """``dma-buf.c:dma_buf_export`` and ``dma_buf_fd``."""
        machine = self._node.machine
        fd = machine.files.install(DmaBufFile(machine, self._node.name, buffer))
        os.set_inheritable(fd, not open_flags & os.O_CLOEXEC)
        return fd

    def check_hot_reset(self, group_fds: Sequence[int]) -> None:
        """``vfio_pci_core.c:vfio_pci_dev_set_hot_reset``: the caller must own each device."""
        affected = self._on_same_bus()
        groups = [self._named(fd) for fd in group_fds]
        for node in affected:
            owned = (
                self._devid(node) != VFIO_PCI_DEVID_NOT_OWNED
                if self.cdev()
                else node.group in groups
            )
            if not owned or not node.on_vfio:
                raise refused(errno.EINVAL)

    def _on_same_bus(self) -> list[Node]:
        nodes = self._node.machine.on_bus("pci")
        return [node for node in nodes if node.parent == self._node.parent]

    def _group_of(self, node: Node) -> Group:
        if node.group is None:
            raise refused(errno.EPERM)
        return node.group

    def _named(self, fd: int) -> Group:
        group: Group | None = getattr(self._node.machine.files.find(fd), "group", None)
        if group is None:
            raise refused(errno.EINVAL)
        return group

    def _devid(self, node: Node) -> int:
        """``iommufd.c:vfio_iommufd_get_dev_id``."""
        mine = self._node.attachment
        if mine is None:
            return VFIO_PCI_DEVID_NOT_OWNED
        if node.attachment is not None and node.attachment.context is mine.context:
            return node.attachment.ident
        group = node.group.devices if node.group else []
        shared = any(peer.attachment and peer.attachment.context is mine.context for peer in group)
        return VFIO_PCI_DEVID_OWNED if shared else VFIO_PCI_DEVID_NOT_OWNED
