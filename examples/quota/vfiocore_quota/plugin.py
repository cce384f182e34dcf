"""Wrappers around the hooks of whichever backend a device uses."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable
from typing import ClassVar
from weakref import WeakKeyDictionary

from attrs import define, field

from vfiocore import hookimpl
from vfiocore.container import Attachment, Batch, Container
from vfiocore.errors import DmaLimitError
from vfiocore.registration import ContextRequest


@define(eq=False)
class Quota:
    """A plugin: accounts the bytes that are mapped for each device, and holds it to a limit.

    Devices of one container see the same memory, so the lowest limit among them counts.

    Attributes:
        default: What a device may reach, in bytes; None for as much as it likes.
        limits: The same for one device, by the kernel's name for it.
    """

    VFIOCORE_API: ClassVar[int] = 1

    default: int | None = None
    limits: dict[str, int] = field(factory=dict)
    _used: WeakKeyDictionary[Container, int] = field(factory=WeakKeyDictionary, repr=False)

    def usage(self) -> dict[str, int]:
        """The bytes that each open device reaches, by the kernel's name for it."""
        return {
            attachment.target.name: used
            for container, used in self._used.items()
            for attachment in container.attachments
        }

    @hookimpl(wrapper=True)
    def vfio_setup_context(
        self, request: ContextRequest
    ) -> Generator[None, Attachment, Attachment]:
        """Before anything is opened: what is mapped already must not be too much for the device."""
        limit = self.limits.get(request.target.name, self.default)
        for container in request.containers:
            used = self._used.get(container, 0)
            if limit is not None and used > limit:
                raise self._refused("setup_context", request.target.name, used, limit)
        attachment = yield
        self._used.setdefault(attachment.container, 0)
        return attachment

    @hookimpl(wrapper=True)
    def vfio_dma_map(self, container: Container, batch: Batch) -> Generator[None, None, None]:
        """Before the kernel sees the batch; what it refuses is not counted."""
        used = self._used.get(container, 0)
        limit = self._limit(attachment.target.name for attachment in container.attachments)
        wanted = used
        for index, mapping in enumerate(batch):
            wanted += mapping.size
            if limit is not None and wanted > limit:
                error = self._refused("dma_map", container.label, wanted, limit)
                error.index = index
                raise error
        yield
        self._used[container] = wanted

    @hookimpl(wrapper=True)
    def vfio_dma_unmap(self, container: Container, batch: Batch) -> Generator[None, None, None]:
        """After the kernel has done it."""
        yield
        self._used[container] -= sum(mapping.size for mapping in batch)

    def _limit(self, names: Iterable[str]) -> int | None:
        found = [self.limits.get(name, self.default) for name in names]
        return min((limit for limit in found if limit is not None), default=None)

    def _refused(self, operation: str, subject: str, wanted: int, limit: int) -> DmaLimitError:
        return DmaLimitError(
            errno.ENOSPC,
            operation,
            subject,
            f"{wanted} bytes would be mapped, and the quota is {limit} bytes",
            "unmap something, or raise the quota (vfiocore_quota.quota.limits)",
        )


quota = Quota()
"""The one that is installed: it accounts, and has no limits until the application sets some."""
