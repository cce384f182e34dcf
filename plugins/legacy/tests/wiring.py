"""What a session does with this backend, and the machine that the tests run on."""

from __future__ import annotations

import mmap
import threading
import uuid
from typing import TYPE_CHECKING, Any

from attrs import define, field

from vfiocore.access import DeviceAccess
from vfiocore.container import DeviceTarget
from vfiocore.kvm import KvmLink
from vfiocore.plugins import PluginSet
from vfiocore.registration import ContextRequest
from vfiocore.sysfs import device_path, read_device
from vfiocore_legacy import plugin
from vfiocore_legacy.container import LegacyAttachment, LegacyContainer
from vfiocore_sim.device import SimDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology

if TYPE_CHECKING:
    from vfiocore.host.protocol import IoctlArgument

HOOKS = PluginSet([plugin], autoload=False).hooks("legacy")

PAGE = mmap.PAGESIZE
CARD = "0000:02:00.0"
OTHER = "0000:05:00.0"
TWIN = "0000:06:00.0"
TWIN_SIBLING = "0000:06:00.1"


class Card(SimDevice):
    """A device that does nothing by itself; tests do DMA in its name."""


class Mediated(SimDevice):
    emulated = True


class AnsweringHost(SimHost):
    """A machine whose kernel answers one ioctl (with one argument) with a number of its own."""

    def __init__(self, request: int, arg: int | None, answer: int) -> None:
        super().__init__(topology())
        self._special = (request, arg, answer)

    def ioctl(self, fd: int, request: int, arg: IoctlArgument = 0) -> int:
        wanted, of, answer = self._special
        if request == wanted and of in (None, arg):
            return answer
        return super().ioctl(fd, request, arg)


@define(eq=False)
class Opened:
    attachment: LegacyAttachment
    access: DeviceAccess

    @property
    def container(self) -> LegacyContainer:
        return self.attachment.container


@define(eq=False)
class Wiring:
    """What a session does with this backend, in the order of the contract."""

    host: SimHost
    kvm: KvmLink | None = None
    containers: list[LegacyContainer] = field(factory=list)
    opened: list[Opened] = field(factory=list)

    def open(
        self, name: str, *, bus: str = "pci", vf_token: uuid.UUID | None = None, **options: Any
    ) -> Opened:
        target = DeviceTarget(
            name, read_device(self.host, device_path(bus, name)), vf_token=vf_token
        )
        attachment = HOOKS.setup_context(
            ContextRequest(
                host=self.host,
                target=target,
                backend_object=None,
                options=options,
                containers=tuple(self.containers),
                kvm=self.kvm,
            )
        )
        assert isinstance(attachment, LegacyAttachment)
        container = attachment.container
        if container not in self.containers:
            container.connect(HOOKS.dma_map, HOOKS.dma_unmap, threading.RLock())
            self.containers.append(container)
        try:
            access = HOOKS.open_device(attachment)
        except BaseException:
            self._leave(attachment)
            raise
        opened = Opened(attachment, access)
        self.opened.append(opened)
        return opened

    def close(self, opened: Opened) -> None:
        self.opened.remove(opened)
        HOOKS.close_device(opened.attachment, opened.access)
        self._leave(opened.attachment)

    def close_all(self) -> None:
        for opened in reversed(self.opened):
            self.close(opened)

    def _leave(self, attachment: LegacyAttachment) -> None:
        container = attachment.container
        if container.attachments == [attachment]:
            container.unmap_all()
            self.containers.remove(container)
        HOOKS.teardown_context(attachment)


def topology() -> Topology:
    """Two cards with groups of their own, two that share one, a group with a host driver."""
    return (
        Topology()
        .pci(CARD, Card, group=1)
        .pci(OTHER, Card, group=4)
        .pci(TWIN, Card, group=5)
        .pci(TWIN_SIBLING, Card, group=5)
    )


def nothing_left(host: SimHost) -> None:
    assert host.open_files() == []
    assert host.pinned_bytes == 0
    assert host.live_mappings() == []
