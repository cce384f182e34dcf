"""Peer-to-peer DMA: showing one device's BAR to the others."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Self

from attrs import define, field

from vfiocore.container import Capability
from vfiocore.errors import UnsupportedError
from vfiocore.memory.buffer import address_of
from vfiocore.memory.mapping import DmaMapping
from vfiocore.undo import UndoStack, run_all

if TYPE_CHECKING:
    from vfiocore.address_space import VfioAddressSpace
    from vfiocore.container import Container
    from vfiocore.dmabuf import DmaBuf
    from vfiocore.region import Area, Region


@define(eq=False)
class PeerMapping:
    """A BAR as other devices see it, until `close` or until its region is unmapped.

    It follows the device: while memory decode is off nobody reaches the BAR, and when it is on
    again, or the device was reset, it is mapped again where it was.

    Attributes:
        region: The BAR.
        iova: Where they would see the first byte of it.
        mappings: The parts of it that they reach: those that are mapped here.
        unreachable: Why containers cannot show it, by their labels: facts of their devices.
        live: True while the device answers, so that others reach the BAR.
    """

    region: Region = field(repr=False)
    iova: int
    mappings: tuple[DmaMapping, ...]
    unreachable: Mapping[str, str]
    _space: VfioAddressSpace = field(repr=False)
    _undo: UndoStack = field(repr=False)
    live: bool = field(default=True, init=False)

    def suspend(self) -> None:
        """Nobody is to reach the BAR, which does not answer; its addresses stay its own.

        Called when memory decode goes off. Every part is tried; the first error is raised.
        """
        with self._space.lock:
            self.live = False
            run_all([partial(self._space.suspend_bar, bar) for bar in self.mappings])

    def resume(self) -> None:
        """Map the BAR again, which answers again. Called when memory decode goes on.

        Raises:
            DmaError: a container refuses; then nobody reaches any of it, as before.
        """
        with self._space.lock, UndoStack() as undo:
            undo.push(self.suspend)
            for bar in self.mappings:
                self._space.resume_bar(bar)
            self.live = True

    def refresh(self) -> None:
        """Map the BAR anew, after something that this library did not see.

        The kernel takes a BAR from those who mapped it as a file whenever it cannot answer. What
        goes through `PciDevice` is followed: memory decode, the power state, resets. A hot reset
        or low power by an ioctl of one's own is not.

        Raises:
            DmaError: as `resume`; ENODEV if the device does not answer.
        """
        with self._space.lock:
            self.suspend()
            self.resume()

    def close(self) -> None:
        """Take the BAR out of the containers. Idempotent."""
        with self._space.lock:
            self.live = False
            if self in self.region.users:
                self.region.users.remove(self)
            self._undo.run()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def share_region(
    space: VfioAddressSpace, region: Region, *, iova: int | None = None
) -> PeerMapping:
    """Map a region's memory into every container that can show it.

    Args:
        space: The address space.
        region: A region that has been mapped (`Region.map`), of a device that answers.
        iova: Where the region's first byte is to be seen; chosen if None.

    Raises:
        UnsupportedError: the region is not mapped.
        DmaError: a container that should be able to refused; memory decode may be off.
    """
    if not region.is_mapped:
        raise UnsupportedError(
            errno.EINVAL, "share", region.name, "the region is not mapped", "call its map() first"
        )
    where = space.allocate(region.size, align=space.granularity) if iova is None else iova
    shown: list[DmaMapping] = []
    unreachable: dict[str, str] = {}
    with UndoStack() as undo:
        for area in region.areas:
            buffer, refusal = _exported(region, area)
            if buffer is not None:
                undo.push(buffer.close)
            bar = _mapping_of(region, area, where, buffer)
            unable = space.show_bar(bar)
            undo.push(space.hide_bar, bar)
            unreachable |= {container.label: _reason(container, refusal) for container in unable}
            shown.append(bar)
    peer = PeerMapping(region, where, tuple(shown), unreachable, space, undo)
    region.users.append(peer)
    if unreachable:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in unreachable.items())
        region.access.log.warn_of(
            "p2p.unavailable",
            f"{region.name}: PCI p2p DMA is unsupported in {reasons}",
            region=region.name,
            containers=tuple(unreachable),
            reasons=tuple(unreachable.values()),
        )
    return peer


def _exported(region: Region, area: Area) -> tuple[DmaBuf | None, str]:
    """The dma-buf of a part of a BAR, or why there is none."""
    try:
        return region.export_dmabuf(area.offset, area.size), ""
    except UnsupportedError as error:
        return None, error.hint or str(error)


def _mapping_of(region: Region, area: Area, start: int, buffer: DmaBuf | None) -> DmaMapping:
    with region.view(area.offset, area.size) as view:
        address = address_of(view)
    fd = None if buffer is None else buffer.fd
    return DmaMapping(start + area.offset, area.size, address, fd=fd)


def _reason(container: Container, refusal: str) -> str:
    if Capability.NO_IOMMU in container.capabilities:
        return "there is no IOMMU, so nothing can be mapped"
    if Capability.MAP_FILE in container.capabilities:
        return f"it maps a BAR as a file (dma-buf), and there is none: {refusal}"
    return "it can map a BAR neither by its address nor as a file (dma-buf)"
