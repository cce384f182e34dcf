"""Making and removing mediated devices (drivers/vfio/mdev/mdev_sysfs.c)."""

from __future__ import annotations

import errno
import uuid
from typing import TYPE_CHECKING

from vfiocore_sim.refusal import refused
from vfiocore_sim.topology import DeviceSpec, MdevType

if TYPE_CHECKING:
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.kernel.node import Node

_UUID_LENGTH = 36


def instances(machine: Machine, parent: Node, kind: MdevType) -> list[Node]:
    """The mediated devices of one type on a parent."""
    return [
        node
        for node in machine.on_bus("mdev")
        if node.parent == parent.path and machine.specs["mdev", node.name].mdev_type == kind.name
    ]


def create(machine: Machine, parent: Node, kind: MdevType, data: bytes) -> None:
    """``mdev_sysfs.c:create_store``: the driver of its type binds at once.

    Raises:
        OSError: EINVAL for what is no UUID, EEXIST, EUSERS when no instance is left.
    """
    text = data.decode("ascii", "replace")
    # There is room for a newline, whatever it is: guid_parse does not look at it.
    if not _UUID_LENGTH <= len(text) <= _UUID_LENGTH + 1:
        raise refused(errno.EINVAL)
    try:
        name = str(uuid.UUID(text[:_UUID_LENGTH]))
    except ValueError:
        raise refused(errno.EINVAL) from None
    if machine.device("mdev", name) is not None:
        raise refused(errno.EEXIST)
    if len(instances(machine, parent, kind)) >= kind.instances:
        raise refused(errno.EUSERS)
    spec = DeviceSpec("mdev", name, parent.path, kind.program, kind.driver, None)
    spec.mdev_type = kind.name
    machine.add_device(spec)


def remove(machine: Machine, node: Node, data: bytes) -> None:
    """``mdev_sysfs.c:remove_store``: waits until nobody has the device open."""
    try:
        wanted = int(data.decode("ascii", "replace").strip(), 0)
    except ValueError:
        raise refused(errno.EINVAL) from None
    if wanted:
        machine.remove_device(node)
