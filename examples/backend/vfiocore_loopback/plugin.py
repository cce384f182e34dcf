"""The hooks, and the isolation unit: what a card reaches is in the table of its context."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field

from vfiocore import hookimpl
from vfiocore.config import Property, TypeSchema, UInt
from vfiocore.container import Attachment, Batch, Container, DeviceTarget, for_each
from vfiocore.errors import BusyError
from vfiocore.memory import IovaRange, MappingTable
from vfiocore.registration import Backend, BackendObject, ContextRequest, DeviceType
from vfiocore_loopback.card import REGISTERS, Card, LoopbackCard

VFIOCORE_API = 1

SLOT = Property("slot", UInt(maximum=3), "The slot of the card.", required=True)
SCHEMA = TypeSchema("loopback-card", "A card that copies memory.", (SLOT,), "vfiocore-loopback")

TAKEN: dict[str, Attachment] = {}
"""The slots in use: the hardware is one for the process, as a machine's is for all of them."""


@define(eq=False, kw_only=True)
class Context(Container):
    """One address space; `table` is what the unit knows, `mappings` what the library knows."""

    table: MappingTable = field(factory=MappingTable)


@hookimpl
def vfio_register_backends() -> Iterator[Backend]:
    """Each object is an address space of its own on the unit."""
    yield Backend(
        name="loopback",
        help="Cards in this process, behind an isolation unit of its own.",
        make_object=lambda request: BackendObject(id=request.config.id, host=request.host),
        find_target=find_target,
    )


def find_target(options: Mapping[str, Any]) -> DeviceTarget | None:
    """A card is known by its slot; sysfs has never heard of it."""
    return DeviceTarget(f"slot{options['slot']}") if "slot" in options else None


@hookimpl
def vfio_register_device_types() -> Iterator[DeviceType]:
    """The driver of the card."""
    yield DeviceType(schema=SCHEMA, bus="loopback", wrap=LoopbackCard)


@hookimpl
def vfio_setup_context(request: ContextRequest) -> Attachment:
    """Take the slot, and join the context that is there, or a new one."""
    name = request.target.name
    context = next(iter(request.containers), None) or Context(
        host=request.host,
        backend="loopback",
        label=f"context of {name}",
        page_sizes=request.host.page_size,
        iova_ranges=(IovaRange(0, (1 << 32) - 1),),
        max_mappings=64,
    )
    attachment = Attachment(container=context, target=request.target)
    if TAKEN.setdefault(name, attachment) is not attachment:
        raise BusyError(errno.EBUSY, "open", name, "the slot is in use")
    context.attachments.append(attachment)
    return attachment


@hookimpl
def vfio_teardown_context(attachment: Attachment) -> None:
    """Give the slot back; the last card takes the context down."""
    context = attachment.container
    context.attachments.remove(attachment)
    context.closed = not context.attachments
    del TAKEN[attachment.target.name]


@hookimpl
def vfio_open_device(attachment: Attachment) -> Card:
    """Power the card on: its registers are a memory file."""
    context: Any = attachment.container
    fd = context.host.memfd("loopback-card", REGISTERS)
    return Card(host=context.host, fd=fd, name=attachment.target.name, table=context.table)


@hookimpl
def vfio_close_device(device: Card) -> None:
    """And off."""
    device.close()


@hookimpl
def vfio_dma_map(container: Context, batch: Batch) -> None:
    """Enter each mapping into the unit's table; all of them, or none."""
    for_each(batch, container.table.add, container.table.remove)


@hookimpl
def vfio_dma_unmap(container: Context, batch: Batch) -> None:
    """Strike each out."""
    for_each(batch, container.table.remove, container.table.add)
