from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import define, field

from vfiocore.access import DeviceAccess
from vfiocore.config import Object
from vfiocore.container import DeviceTarget
from vfiocore.kvm import KvmLink
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.plugins import BackendHooks, PluginSet
from vfiocore.registration import ContextRequest, ObjectRequest
from vfiocore.sysfs import device_path, read_device
from vfiocore.undo import run_all
from vfiocore_iommufd import plugin
from vfiocore_iommufd.container import IommufdAttachment, IommufdContainer
from vfiocore_iommufd.iommufd import Iommufd
from vfiocore_sim.device import SimDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import X86_MSI, IommuModel, ReservedRegion, Topology

PAGE = mmap.PAGESIZE
TOKEN = uuid.UUID("2f1b7a9c-0b1e-4c57-9a3f-0d5c6d1e2f30")
MDEV = "7e270a25-e163-4922-af60-757fc8ed48c6"


class Card(SimDevice):
    """A device that does nothing by itself; tests do DMA in its name."""


class VirtualFunction(SimDevice):
    def token_check(self, name_options: str | None, token: bytes | None) -> None:
        if token != TOKEN.bytes:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


class Mediated(SimDevice):
    emulated = True


class Matrix(Mediated):
    def needs_kvm(self) -> bool:
        return True


def machine() -> Topology:
    no_dirty = IommuModel(dirty_tracking=False)
    reserving = IommuModel(reserved=(X86_MSI, ReservedRegion(0x100000, 0x1FFFFF, "direct")))
    unsafe = IommuModel(msi_isolated=False)
    return (
        Topology()
        .pci("0000:02:00.0", Card, group=1)
        .pci("0000:05:00.0", Card, group=4)
        .pci("0000:06:00.0", Card, group=5)
        .pci("0000:06:00.1", Card, group=5)
        .pci("0000:04:00.0", Card, group=3)
        .pci("0000:04:00.1", Card, group=3, driver="e1000e")
        .pci("0000:04:00.2", Card, group=3, driver="pcieport")
        .pci("0000:07:00.0", Card, group=7)
        .iommu(7, no_dirty)
        .pci("0000:08:00.0", Card, group=8)
        .iommu(8, reserving)
        .pci("0000:09:00.0", VirtualFunction, group=9)
        .pci("0000:0a:00.0", Card, group=10)
        .iommu(10, unsafe)
        .subchannel("0.0.0001", device=Mediated)
        .mdev(MDEV, parent="0.0.0001")
        .ap_matrix("6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01", Matrix)
    )


@define(eq=False)
class Opened:
    attachment: IommufdAttachment
    access: DeviceAccess

    @property
    def container(self) -> IommufdContainer:
        return self.attachment.container

    @property
    def fd(self) -> int:
        return self.access.fd


@define(eq=False)
class Rig:
    """What a session does with this backend, in the order of the contract."""

    host: SimHost
    hooks: BackendHooks = field(
        factory=lambda: PluginSet([plugin], autoload=False).hooks("iommufd")
    )
    memory: list[DmaMapping] = field(factory=list)
    opened: list[Opened] = field(factory=list)
    connected: list[IommufdContainer] = field(factory=list)
    _objects: dict[str, Iommufd] = field(factory=dict)
    _buffers: list[mmap.mmap] = field(factory=list)

    # -- configuration -------------------------------------------------------------------------
    def iommufd(
        self, id_: str = "iommufd0", fd: int | None = None, siblings: tuple[Iommufd, ...] = ()
    ) -> Iommufd:
        if id_ not in self._objects:
            config = Object("iommufd", id_)
            request = ObjectRequest(host=self.host, config=config, fd=fd, siblings=siblings)
            self._objects[id_] = plugin.make_object(request)
        return self._objects[id_]

    def request(
        self,
        name: str,
        *,
        bus: str = "pci",
        iommufd: Iommufd | None = None,
        fd: int | None = None,
        sysfs: bool = True,
        token: uuid.UUID | None = None,
        kvm: KvmLink | None = None,
    ) -> ContextRequest:
        owner = iommufd or self.iommufd()
        device = read_device(self.host, device_path(bus, name)) if sysfs else None
        containers = {opened.container: None for opened in self.opened}
        return ContextRequest(
            host=self.host,
            target=DeviceTarget(name if sysfs else f"VFIO_FD{fd}", device, fd, token),
            backend_object=owner,
            options={},
            containers=tuple(item for item in containers if item.iommufd is owner),
            kvm=kvm,
        )

    # -- a session's work ------------------------------------------------------------------------
    def open(self, name: str = "0000:02:00.0", **options: Any) -> Opened:
        attachment = self.hooks.setup_context(self.request(name, **options))
        assert isinstance(attachment, IommufdAttachment)
        container = attachment.container
        try:
            if container not in self.connected:
                self.connected.append(container)
                container.connect(self.hooks.dma_map, self.hooks.dma_unmap, threading.RLock())
                if self.memory:
                    container.dma_map(self.memory)
            access = self.hooks.open_device(attachment)
        except BaseException:
            self.leave(attachment)
            raise
        opened = Opened(attachment, access)
        self.opened.append(opened)
        return opened

    def close(self, opened: Opened | None = None) -> None:
        opened = opened or self.opened[-1]
        self.opened.remove(opened)
        run_all(
            [
                lambda: self.hooks.close_device(opened.attachment, opened.access),
                lambda: self.leave(opened.attachment),
            ]
        )

    def leave(self, attachment: IommufdAttachment) -> None:
        if attachment.container.attachments == [attachment]:
            attachment.container.unmap_all()
        self.hooks.teardown_context(attachment)

    # -- memory ------------------------------------------------------------------------------------
    def buffer(self, pages: int = 1) -> int:
        """The address of that many pages of zeroes."""
        memory = mmap.mmap(-1, pages * PAGE)
        self._buffers.append(memory)
        return ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def mapping(self, iova: int, pages: int = 1, access: Access = Access.READ_WRITE) -> DmaMapping:
        return DmaMapping(iova, pages * PAGE, self.buffer(pages), access)

    def memfd_mapping(self, iova: int, pages: int = 1, offset: int = 0) -> DmaMapping:
        fd = self.host.memfd("test", (pages + offset) * PAGE)
        memory = mmap.mmap(fd, pages * PAGE, offset=offset * PAGE)
        self._buffers.append(memory)
        vaddr = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return DmaMapping(iova, pages * PAGE, vaddr, fd=fd, fd_offset=offset * PAGE)


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    rigs = []

    def make(topology: Topology | None = None, **options: Any) -> Rig:
        rigs.append(Rig(SimHost(topology or machine(), **options)))
        return rigs[-1]

    yield make
    for rig in rigs:
        for opened in reversed(rig.opened[:]):
            rig.close(opened)


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


@pytest.fixture
def host(rig: Rig) -> SimHost:
    return rig.host
