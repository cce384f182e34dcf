"""Interrupts: an index of a device, and the vectors that signal eventfds.

Source: VFIO_DEVICE_GET_IRQ_INFO, VFIO_DEVICE_SET_IRQS (Linux 3.6).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from attrs import define, field

from vfiocore import _eventfd
from vfiocore.errors import ClosedError, DeviceAccessError, InterruptTimeout, KernelError
from vfiocore.uapi import vfio
from vfiocore.undo import UndoStack, run_all

if TYPE_CHECKING:
    import asyncio

    from vfiocore.access import DeviceAccess, IrqInfo

TRIGGER = vfio.VFIO_IRQ_SET_ACTION_TRIGGER
MASK = vfio.VFIO_IRQ_SET_ACTION_MASK
UNMASK = vfio.VFIO_IRQ_SET_ACTION_UNMASK
DATA_NONE = vfio.VFIO_IRQ_SET_DATA_NONE


@define(eq=False)
class Vector:
    """One interrupt vector: an eventfd that counts interrupts until somebody looks.

    Usable as a file (``fileno``) in anybody's event loop: wait until readable, then call `take`.
    Awaitable: ``count = await vector``.

    Attributes:
        irq: The index that it belongs to.
        number: Its number in the index.
        fd: The eventfd.
    """

    irq: Irq = field(repr=False)
    number: int
    fd: int
    closed: bool = False

    @property
    def name(self) -> str:
        """What messages call it: ``0000:02:00.0 MSI-X vector 3``."""
        return f"{self.irq.name} vector {self.number}"

    @property
    def pending(self) -> bool:
        """True if there is an interrupt that nobody has taken."""
        return bool(_eventfd.poll(self.irq.access.host, [self.fileno()], 0, self.name))

    def fileno(self) -> int:
        """The eventfd; ClosedError after `Irq.disable`."""
        if self.closed:
            raise ClosedError(f"{self.name} is disabled")
        return self.fd

    def take(self) -> int:
        """How many interrupts came since the last look; 0 if none. Never waits."""
        try:
            return _eventfd.take(self.irq.access.host, self.fileno(), self.name)
        except KernelError:
            self.fileno()  # if it was disabled meanwhile, that is what there is to say
            raise

    def wait(self, timeout: float | None = None) -> int:
        """Wait for an interrupt; how many came since the last look (at least 1).

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            InterruptTimeout: none came in time.
            ClosedError: the interrupt is disabled, or was while waiting.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # Looking first spares a poll for what is there already; another reader of the same
            # eventfd may have been quicker after a poll, so the look is what counts.
            count = self.take()
            if count:
                return count
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise InterruptTimeout(f"{self.name}: no interrupt within {timeout} s")
            _eventfd.poll(self.irq.access.host, [self.fileno()], left, self.name)

    def __await__(self) -> Generator[object, None, int]:
        return self._wait_in_asyncio().__await__()

    async def _wait_in_asyncio(self) -> int:
        import asyncio  # noqa: PLC0415 - slow to import, and only for those who use it

        loop, host = asyncio.get_running_loop(), self.irq.access.host
        while not (count := self.take()):
            # A duplicate: a loop has one reader an fd, so two that wait would displace each
            # other, and a number that `disable` has closed may be another file's by now.
            fd = _eventfd.duplicate(host, self.fileno(), self.name)
            ready = loop.create_future()
            loop.add_reader(fd, _set_once, ready)
            try:
                await ready
            finally:
                loop.remove_reader(fd)
                _eventfd.close(host, fd, self.name)
        return count

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        host = self.irq.access.host
        run_all(
            [
                lambda: _eventfd.signal(host, self.fd, self.name),  # who waits finds it closed
                lambda: _eventfd.close(host, self.fd, self.name),
            ]
        )


@define(eq=False)
class Irq:
    """One interrupt index of a device.

    Attributes:
        access: The device.
        info: The kernel's description.
        name: What messages call it: ``0000:02:00.0 MSI-X``.
        vectors: The enabled vectors, by number.
    """

    access: DeviceAccess = field(repr=False)
    info: IrqInfo
    name: str
    vectors: tuple[Vector, ...] = field(default=(), init=False)

    @property
    def index(self) -> int:
        """The irq index."""
        return self.info.index

    @property
    def count(self) -> int:
        """How many vectors the device has."""
        return self.info.count

    @property
    def maskable(self) -> bool:
        """True if `mask` and `unmask` work."""
        return bool(self.info.flags & vfio.VFIO_IRQ_INFO_MASKABLE)

    @property
    def automasked(self) -> bool:
        """True if each delivery masks the interrupt until `unmask` (level-triggered)."""
        return bool(self.info.flags & vfio.VFIO_IRQ_INFO_AUTOMASKED)

    @property
    def resizable(self) -> bool:
        """True if vectors can be added while others are enabled."""
        return not self.info.flags & vfio.VFIO_IRQ_INFO_NORESIZE

    def enable(self, vectors: int = 1, *, minimum: int | None = None) -> tuple[Vector, ...]:
        """Signal the first `vectors` vectors through new eventfds.

        Args:
            vectors: How many are wanted.
            minimum: How few will do when the host has not enough; as many as wanted if None.

        Returns:
            The vectors, which are also in `vectors`.

        Raises:
            DeviceAccessError: EINVAL, more vectors than the device has, or another index of a PCI
                device is enabled; ENOSPC, the host has fewer than `minimum`.
        """
        if self.vectors:
            raise DeviceAccessError(
                errno.EINVAL, "VFIO_DEVICE_SET_IRQS", self.name, "already enabled"
            )
        if not 1 <= vectors <= self.count:
            raise DeviceAccessError(
                errno.EINVAL,
                "VFIO_DEVICE_SET_IRQS",
                self.name,
                f"{vectors} vectors are wanted, the device has {self.count}",
            )
        made: list[Vector] = []
        with UndoStack() as undo:
            for number in range(vectors):
                made.append(Vector(self, number, _eventfd.make(self.access.host, self.name)))
                undo.push(made[-1]._close)
            count = self._arm(made, vectors if minimum is None else minimum)
        self.vectors = tuple(made[:count])
        run_all(vector._close for vector in made[count:])
        return self.vectors

    def disable(self) -> None:
        """Stop signalling and close the eventfds; who still waits gets a ClosedError. Idempotent."""
        if not self.vectors:
            return
        vectors, self.vectors = self.vectors, ()
        run_all([self._disarm, *(vector._close for vector in vectors)])

    def _disarm(self) -> None:
        self.access.set_irqs(self.index, DATA_NONE | TRIGGER, count=0)

    def mask(self, vector: int = 0) -> None:
        """Hold back a vector; DeviceAccessError if the index is not maskable."""
        self.access.set_irqs(self.index, DATA_NONE | MASK, start=vector)

    def unmask(self, vector: int = 0) -> None:
        """Let a vector through again; a line that is still asserted signals at once."""
        self.access.set_irqs(self.index, DATA_NONE | UNMASK, start=vector)

    def trigger(self, vector: int = 0) -> None:
        """Signal a vector as if the device had (loopback)."""
        self.access.set_irqs(self.index, DATA_NONE | TRIGGER, start=vector)

    # ----------------------------------------------------------------------------------------
    def _arm(self, vectors: list[Vector], minimum: int) -> int:
        """Attach the eventfds; how many of them the host could take."""
        count = len(vectors)
        while True:
            fds = [vector.fd for vector in vectors[:count]]
            available = self.access.set_eventfds(self.index, TRIGGER, 0, fds)
            # vfio_pci_intrs.c:vfio_msi_enable: a positive return is the number that there is.
            if available <= 0:
                return count
            if available < minimum or available >= count:
                raise DeviceAccessError(
                    errno.ENOSPC,
                    "VFIO_DEVICE_SET_IRQS",
                    self.name,
                    f"the host has {available} vectors, at least {minimum} are wanted",
                )
            count = available


@define(eq=False)
class SignalIrq(Irq):
    """An index of one vector whose driver only knows how to take its eventfd away.

    vfio_ap_ops.c:vfio_ap_set_irqs takes nothing but eventfds, and
    vfio_ccw_ops.c:vfio_ccw_mdev_set_irqs signals for DATA_NONE, whatever the count.
    """

    def _disarm(self) -> None:
        self.access.set_eventfds(self.index, TRIGGER, 0, [-1])


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
