"""VFIO_DEVICE_SET_IRQS: the header's checks and the data behind it."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable

from attrs import frozen

from vfiocore.uapi.vfio import (
    VFIO_IRQ_SET_ACTION_TYPE_MASK,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_IRQ_SET_DATA_TYPE_MASK,
    vfio_irq_set,
)
from vfiocore_sim.refusal import fail
from vfiocore_sim.user import UserArg

_U32_MAX = 0xFFFFFFFF
_ELEMENT_SIZE = {
    VFIO_IRQ_SET_DATA_NONE: 0,
    VFIO_IRQ_SET_DATA_BOOL: 1,
    VFIO_IRQ_SET_DATA_EVENTFD: 4,
}


@frozen
class IrqRequest:
    """A SET_IRQS call whose header is in order."""

    index: int
    start: int
    count: int
    #: One of the VFIO_IRQ_SET_DATA_* values.
    data_type: int
    #: The VFIO_IRQ_SET_ACTION_* bits as given: one, several or none.
    action: int
    data: bytes

    @property
    def vectors(self) -> range:
        """The vectors named by start and count."""
        return range(self.start, self.start + self.count)

    @property
    def eventfds(self) -> tuple[int, ...]:
        """The fds of a DATA_EVENTFD call; negative values remove."""
        return struct.unpack(f"={self.count}i", self.data)

    @property
    def selected(self) -> list[int]:
        """The vectors that a DATA_NONE or DATA_BOOL call means."""
        if self.data_type == VFIO_IRQ_SET_DATA_BOOL:
            return [vector for vector, on in zip(self.vectors, self.data, strict=True) if on]
        return list(self.vectors)

    def is_data(self, data_type: int) -> bool:
        """True when the call carries that VFIO_IRQ_SET_DATA_* type."""
        return self.data_type == data_type


def load_irq_request(
    user: UserArg, num_indexes: int, vectors_of: Callable[[int], int]
) -> IrqRequest:
    """Read a SET_IRQS call (``vfio_main.c:vfio_set_irqs_validate_and_prepare``).

    Args:
        user: The caller's memory.
        num_indexes: How many irq indexes the device has.
        vectors_of: The number of vectors of one index.

    Raises:
        OSError: EINVAL for a header that is not in order; EFAULT for unreadable data.
    """
    minsz = ctypes.sizeof(vfio_irq_set)
    header = user.struct(vfio_irq_set, minsz)
    known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK
    if (
        header.index >= num_indexes
        or header.count >= _U32_MAX - header.start
        or header.flags & ~known
    ):
        fail(errno.EINVAL)
    available = vectors_of(header.index)
    if header.start >= available or header.start + header.count > available:
        fail(errno.EINVAL)
    data_type = header.flags & VFIO_IRQ_SET_DATA_TYPE_MASK
    element = _ELEMENT_SIZE.get(data_type)
    if element is None or header.argsz - minsz < header.count * element:
        fail(errno.EINVAL)
    return IrqRequest(
        index=header.index,
        start=header.start,
        count=header.count,
        data_type=data_type,
        action=header.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK,
        data=user.read(header.count * element, minsz),
    )
