"""Peer-to-peer DMA: showing one device's BAR to the others."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Self

from attrs import define, field

from vfiocore.errors import UnsupportedError
from vfiocore.memory.buffer import address_of
from vfiocore.memory.mapping import DmaMapping
from vfiocore.undo import UndoStack

if TYPE_CHECKING:
    from vfiocore.address_space import VfioAddressSpace
    from vfiocore.container import Container
    from vfiocore.region import Region


@define(eq=False)
class PeerMapping:
    """A BAR as other devices see it, until `close` or until its region is unmapped.

    Attributes:
        iova: Where they would see the first byte of the BAR.
        mappings: The parts of it that they reach: those that are mapped here.
        unreachable: The labels of containers that cannot show it: a fact of their devices.
    """

    iova: int
    mappings: tuple[DmaMapping, ...]
    unreachable: tuple[str, ...]
    _undo: UndoStack = field(repr=False)

    def close(self) -> None:
        """Take the BAR out of the containers. Idempotent."""
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
        region: A region that has been mapped (`Region.map`).
        iova: Where the region's first byte is to be seen; chosen if None.

    Raises:
        UnsupportedError: the region is not mapped.
        DmaError: a container that should be able to refused.
    """
    if not region.is_mapped:
        raise UnsupportedError(
            errno.EINVAL, "share", region.name, "the region is not mapped", "call its map() first"
        )
    where = space.allocate(region.size, align=space.granularity) if iova is None else iova
    mappings: list[DmaMapping] = []
    unable: tuple[Container, ...] = ()
    with UndoStack() as undo:
        for area in region.areas:
            with region.view(area.offset, area.size) as view:
                mapping = DmaMapping(where + area.offset, area.size, address_of(view))
            unable = space.show_bar(mapping)
            undo.push(space.hide_bar, mapping)
            mappings.append(mapping)
    unreachable = tuple(container.label for container in unable)
    peer = PeerMapping(where, tuple(mappings), unreachable, undo)
    region.before_unmap(peer.close)
    if unreachable:
        region.access.log.warn_of(
            "p2p.unavailable",
            f"{region.name}: PCI p2p DMA is unsupported in {', '.join(unreachable)}:"
            " the backend cannot map a BAR by its address",
            region=region.name,
            containers=unreachable,
        )
    return peer
