"""Interrupt lines of a platform device, edge- or level-triggered."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define

from vfiocore.errors import DeviceAccessError
from vfiocore.irq import Irq


@define(eq=False)
class PlatformIrq(Irq):
    """One line; it has one vector.

    A level-triggered line is `automasked`: the kernel masks it with each interrupt, and signals
    again after `unmask` if the device still asserts it. The mask stays through `disable` and
    `enable`. An edge-triggered line cannot be masked.
    """

    @contextmanager
    def handling(self, timeout: float | None = None) -> Iterator[int]:
        """Wait for an interrupt, serve it in a ``with`` block, then let the next one through.

        The block has to make the device stop asserting the line. When it ends, also with an
        error, a level-triggered line is unmasked; an edge-triggered one needs nothing.

        Args:
            timeout: Seconds; None waits for ever.

        Yields:
            How many interrupts came since the last look (at least 1).

        Raises:
            InterruptTimeout: none came in time.
            DeviceAccessError: EINVAL, the line is not enabled.

        Example::

            line.enable()
            with line.handling(timeout=1):
                registers.write32(ACKNOWLEDGE, 1)
        """
        if not self.vectors:
            raise DeviceAccessError(
                errno.EINVAL, "wait", self.name, "the line is not enabled", "call enable() first"
            )
        count = self.vectors[0].wait(timeout)
        try:
            yield count
        finally:
            # vfio_platform_irq.c:vfio_set_trigger: a mask outlives the eventfd, so a line that was
            # disabled in the block is unmasked too, or it would be dead when enabled again.
            if self.automasked and not self.access.closed:
                self.unmask()
