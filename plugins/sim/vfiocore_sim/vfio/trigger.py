"""The eventfds that SET_IRQS attaches to single-vector irqs (ERR, REQ, and all of ap and ccw)."""

from __future__ import annotations

import errno

from vfiocore.uapi.vfio import (
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_NONE,
)
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.eventfd import EventFd
from vfiocore_sim.vfio.irqset import IrqRequest


class Trigger:
    """One optional eventfd."""

    def __init__(self) -> None:
        self._event: EventFd | None = None

    def __bool__(self) -> bool:
        return self._event is not None

    def signal(self) -> None:
        """Signal the eventfd; nobody listening is fine."""
        if self._event is not None:
            self._event.signal()

    def attach(self, fd: int) -> None:
        """Replace the eventfd; any negative fd removes it.

        Raises:
            OSError: EBADF, EINVAL as `EventFd`; the old eventfd stays then.
        """
        event = EventFd(fd) if fd >= 0 else None
        self.clear()
        self._event = event

    def clear(self) -> None:
        """Remove the eventfd."""
        event, self._event = self._event, None
        if event is not None:
            event.close()

    def set_from_fd(self, fd: int) -> None:
        """`attach`, where -1 is the only negative fd that is allowed."""
        if fd < -1:
            fail(errno.EINVAL)
        self.attach(fd)

    def set_single(self, request: IrqRequest) -> None:
        """``vfio_pci_intrs.c:vfio_pci_set_ctx_trigger_single``.

        Raises:
            OSError: EINVAL for DATA_NONE without an eventfd, and for a count of 0 with data.
        """
        if request.is_data(VFIO_IRQ_SET_DATA_NONE):
            if not self:
                fail(errno.EINVAL)
            if request.count:
                self.signal()
            else:
                self.clear()
            return
        if not request.count:
            fail(errno.EINVAL)
        if request.is_data(VFIO_IRQ_SET_DATA_BOOL):
            if request.selected:
                self.signal()
            return
        self.set_from_fd(request.eventfds[0])
