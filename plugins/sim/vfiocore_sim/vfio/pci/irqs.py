"""The interrupts of a PCI function: INTx, MSI, MSI-X, ERR, REQ (``vfio_pci_intrs.c``)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from attrs import frozen

from vfiocore.uapi.vfio import (
    VFIO_IRQ_INFO_AUTOMASKED,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_MASKABLE,
    VFIO_IRQ_INFO_NORESIZE,
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_REQ_IRQ_INDEX,
)
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.base import IrqDescription
from vfiocore_sim.vfio.eventfd import EventFd, EventHook, EventWatcher
from vfiocore_sim.vfio.irqset import IrqRequest
from vfiocore_sim.vfio.trigger import Trigger


@frozen
class IrqWiring:
    """What interrupts a function has."""

    intx: bool
    #: Vectors of the MSI and MSI-X capabilities; 0 without the capability.
    msi: int
    msix: int
    #: A PCI Express function reports errors.
    express: bool
    #: The host's interrupt domain can add MSI-X vectors later, so there is no NORESIZE.
    dynamic_msix: bool
    #: How many vectors the host can hand out; None for as many as there are.
    available: int | None


class PciIrqs:
    """State of a function's interrupts; every call comes under the kernel's lock."""

    def __init__(
        self, wiring: IrqWiring, watcher: EventWatcher, on_mode: Callable[[int | None], None]
    ) -> None:
        """`on_mode` is told the active index (INTX, MSI, MSIX or None) whenever it changes."""
        self._wiring = wiring
        self._on_mode = on_mode
        self.mode: int | None = None
        self.intx: _Intx = _Intx(watcher)
        self._messages = _Messages()
        self.error: Trigger = Trigger()
        self.request: Trigger = Trigger()

    # -- description ----------------------------------------------------------------------------
    def count(self, index: int) -> int:
        """``vfio_pci_core.c:vfio_pci_get_irq_count``."""
        wiring = self._wiring
        return {
            VFIO_PCI_INTX_IRQ_INDEX: int(wiring.intx),
            VFIO_PCI_MSI_IRQ_INDEX: wiring.msi,
            VFIO_PCI_MSIX_IRQ_INDEX: wiring.msix,
            VFIO_PCI_ERR_IRQ_INDEX: int(wiring.express),
            VFIO_PCI_REQ_IRQ_INDEX: 1,
        }[index]

    def describe(self, index: int) -> IrqDescription:
        """``vfio_pci_core.c:vfio_pci_ioctl_get_irq_info``; EINVAL for ERR without PCI Express."""
        if index == VFIO_PCI_ERR_IRQ_INDEX and not self._wiring.express:
            fail(errno.EINVAL)
        flags = VFIO_IRQ_INFO_EVENTFD
        if index == VFIO_PCI_INTX_IRQ_INDEX:
            flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED
        elif index != VFIO_PCI_MSIX_IRQ_INDEX or not self._wiring.dynamic_msix:
            flags |= VFIO_IRQ_INFO_NORESIZE
        return IrqDescription(flags, self.count(index))

    # -- SET_IRQS -------------------------------------------------------------------------------
    def set(self, request: IrqRequest) -> int:
        """``vfio_pci_set_irqs_ioctl``; the number of vectors available when it is too low."""
        handler = self._handlers().get((request.index, request.action))
        if handler is None:
            fail(errno.ENOTTY)
        return handler(request)

    def _handlers(self) -> dict[tuple[int, int], Callable[[IrqRequest], int]]:
        trigger = VFIO_IRQ_SET_ACTION_TRIGGER
        return {
            (VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_MASK): self._mask_intx,
            (VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK): self._unmask_intx,
            (VFIO_PCI_INTX_IRQ_INDEX, trigger): self._trigger_intx,
            (VFIO_PCI_MSI_IRQ_INDEX, trigger): self._trigger_messages,
            (VFIO_PCI_MSIX_IRQ_INDEX, trigger): self._trigger_messages,
            (VFIO_PCI_REQ_IRQ_INDEX, trigger): lambda r: self._trigger_single(self.request, r),
            (VFIO_PCI_ERR_IRQ_INDEX, trigger): lambda r: self._trigger_single(self.error, r),
        }

    def _trigger_single(self, trigger: Trigger, request: IrqRequest) -> int:
        if request.start != 0 or request.count > 1:
            fail(errno.EINVAL)
        trigger.set_single(request)
        return 0

    def _set_mode(self, mode: int | None) -> None:
        self.mode = mode
        self._on_mode(mode)

    def _check_intx(self, request: IrqRequest) -> None:
        if self.mode != VFIO_PCI_INTX_IRQ_INDEX or (request.start, request.count) != (0, 1):
            fail(errno.EINVAL)

    def _mask_intx(self, request: IrqRequest) -> int:
        """``vfio_pci_set_intx_mask``."""
        self._check_intx(request)
        if request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            fail(errno.ENOTTY)
        if request.selected:
            self.intx.mask()
        return 0

    def _unmask_intx(self, request: IrqRequest) -> int:
        """``vfio_pci_set_intx_unmask``."""
        self._check_intx(request)
        if request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            self.intx.set_resample(request.eventfds[0])
        elif request.selected:
            self.intx.unmask()
        return 0

    def _trigger_intx(self, request: IrqRequest) -> int:
        """``vfio_pci_set_intx_trigger``."""
        active = self.mode == VFIO_PCI_INTX_IRQ_INDEX
        if active and not request.count and request.is_data(VFIO_IRQ_SET_DATA_NONE):
            self._disable_intx()
            return 0
        if not (active or self.mode is None) or (request.start, request.count) != (0, 1):
            fail(errno.EINVAL)
        if request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            self.intx.attach(request.eventfds[0], enable=not active)
            if not active:
                self._set_mode(VFIO_PCI_INTX_IRQ_INDEX)
            self.intx.deliver()
            return 0
        if not active:
            fail(errno.EINVAL)
        if request.selected:
            self.intx.trigger.signal()
        return 0

    def _disable_intx(self) -> None:
        self.intx.disable()
        self._set_mode(None)

    def _trigger_messages(self, request: IrqRequest) -> int:
        """``vfio_pci_set_msi_trigger``."""
        active = self.mode == request.index
        if active and not request.count and request.is_data(VFIO_IRQ_SET_DATA_NONE):
            self._disable_messages()
            return 0
        if not (active or self.mode is None):
            fail(errno.EINVAL)
        if request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            return self._attach_messages(request, active=active)
        if not active:
            fail(errno.EINVAL)
        for vector in request.selected:
            self._messages.loopback(vector)
        return 0

    def _attach_messages(self, request: IrqRequest, *, active: bool) -> int:
        msix = request.index == VFIO_PCI_MSIX_IRQ_INDEX
        limit = self.count(request.index)
        if self._wiring.available is not None:
            limit = min(limit, self._wiring.available)
        if active:
            growable = limit if msix and self._wiring.dynamic_msix else None
            self._messages.attach(request.start, request.eventfds, growable)
            return 0
        wanted = request.start + request.count
        if not wanted:  # pci_alloc_irq_vectors: a maximum below the minimum of 1
            fail(errno.ERANGE)
        if not limit:
            fail(errno.ENOSPC)
        if wanted > limit:
            # vfio_msi_enable gives back what it got and returns how many there were.
            return limit
        self._messages.enable(wanted, keep_pending=msix)
        try:
            self._messages.attach(request.start, request.eventfds, None)
        except OSError:
            self._messages.disable()
            raise
        self._set_mode(request.index)
        return 0

    def _disable_messages(self) -> None:
        self._messages.disable()
        self._set_mode(None)

    # -- the device's side ----------------------------------------------------------------------
    def message(self, vector: int) -> None:
        """The function sends the message of `vector`."""
        self._messages.send(vector)

    def reset(self) -> None:
        """The function was reset: nothing is asserted; what SET_IRQS attached stays."""
        self.intx.set_level(asserted=False)
        self._messages.forget_pending()

    def close(self) -> None:
        """Last close: ``vfio_pci_core_disable`` takes every trigger away."""
        if self.mode == VFIO_PCI_INTX_IRQ_INDEX:
            self._disable_intx()
        elif self.mode is not None:
            self._disable_messages()
        self.error.clear()
        self.request.clear()


class _Intx:
    """The level-triggered line: masked by each delivery until the user unmasks it."""

    def __init__(self, watcher: EventWatcher) -> None:
        self._watcher = watcher
        self._resample: EventHook | None = None
        self._enabled = False
        #: The line as the function drives it.
        self.asserted: bool = False
        self.masked: bool = False
        #: DisINTx of the COMMAND register as the user sees it.
        self.disabled: bool = False
        self.trigger: Trigger = Trigger()

    def attach(self, fd: int, *, enable: bool) -> None:
        """``vfio_intx_enable``, ``vfio_intx_set_signal``."""
        self.trigger.attach(fd)
        if enable:
            self.masked = self.disabled
            self._enabled = True

    def disable(self) -> None:
        """``vfio_intx_disable``."""
        self._drop_resample()
        self.trigger.clear()
        self._enabled = False

    def set_level(self, *, asserted: bool) -> None:
        """The function drives the line."""
        self.asserted = asserted
        self.deliver()

    def deliver(self) -> None:
        """``vfio_intx_handler``: signal and mask, while the line is up and nothing masks it."""
        if not (self._enabled and self.asserted) or self.masked or self.disabled:
            return
        self.masked = True
        self.trigger.signal()

    def mask(self) -> None:
        """``vfio_pci_intx_mask``."""
        self.masked = True

    def unmask(self) -> None:
        """``vfio_pci_intx_unmask_handler``: a line that is still up is signalled again."""
        if self.disabled:
            return
        self.masked = False
        self.deliver()

    def set_disabled(self, *, disabled: bool) -> None:
        """DisINTx was written (``vfio_pci_config.c:vfio_basic_config_write``)."""
        if disabled == self.disabled:
            return
        self.disabled = disabled
        if not self._enabled:
            return
        if disabled:
            self.mask()
        else:
            self.unmask()

    def set_resample(self, fd: int) -> None:
        """UNMASK with an eventfd: each signal of it unmasks; EBUSY when there is one already."""
        if fd < 0:
            self._drop_resample()
            return
        if self._resample is not None:
            # vfio_virqfd_enable takes the reference before it looks at the slot.
            EventFd(fd).close()
            fail(errno.EBUSY)
        self._resample = self._watcher.add(fd, self.unmask)

    def _drop_resample(self) -> None:
        hook, self._resample = self._resample, None
        if hook is not None:
            self._watcher.remove(hook)


class _Messages:
    """The vectors of MSI or MSI-X, whichever is enabled."""

    def __init__(self) -> None:
        self._events: dict[int, EventFd] = {}
        self._pending: set[int] = set()
        self._allocated = 0
        self._enabled = False
        self._keep_pending = False

    def enable(self, vectors: int, *, keep_pending: bool) -> None:
        """``vfio_msi_enable``; MSI-X keeps what arrives for a vector without a listener."""
        self._allocated = vectors
        self._keep_pending = keep_pending
        self._enabled = True

    def disable(self) -> None:
        """``vfio_msi_disable``."""
        for vector in list(self._events):
            self._remove(vector)
        self._allocated = 0
        self._enabled = False
        self._pending.clear()

    def attach(self, start: int, fds: tuple[int, ...], growable: int | None) -> None:
        """``vfio_msi_set_block``: a failure clears the entries it had set.

        Raises:
            OSError: EINVAL past the allocation when it cannot grow; ENOSPC when the host has no
                more; EBADF, EINVAL as `EventFd`.
        """
        for done, fd in enumerate(fds):
            try:
                self._attach_one(start + done, fd, growable)
            except OSError:
                for vector in range(start, start + done):
                    self._remove(vector)
                raise

    def _attach_one(self, vector: int, fd: int, growable: int | None) -> None:
        """``vfio_msi_set_vector_signal``: the old eventfd goes before the new one is looked at."""
        self._remove(vector)
        if fd < 0:
            return
        if vector >= self._allocated:
            if growable is None:
                fail(errno.EINVAL)
            if vector >= growable:
                fail(errno.ENOSPC)
            self._allocated = vector + 1
        self._events[vector] = EventFd(fd)
        if vector in self._pending:
            self._pending.discard(vector)
            self._events[vector].signal()

    def _remove(self, vector: int) -> None:
        event = self._events.pop(vector, None)
        if event is not None:
            event.close()

    def send(self, vector: int) -> None:
        """The function sends a message."""
        if not self._enabled:
            return
        event = self._events.get(vector)
        if event is not None:
            event.signal()
        elif self._keep_pending:
            self._pending.add(vector)

    def loopback(self, vector: int) -> None:
        """The user asks for a vector to be signalled; one without an eventfd is passed over."""
        event = self._events.get(vector)
        if event is not None:
            event.signal()

    def forget_pending(self) -> None:
        """A reset clears the pending bits."""
        self._pending.clear()
