"""An AP matrix: crypto queues passed through as a mediated device (vfio-ap)."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from attrs import define, field

from vfiocore.uapi.vfio import (
    VFIO_AP_CFG_CHG_IRQ_INDEX,
    VFIO_AP_NUM_IRQS,
    VFIO_AP_REQ_IRQ_INDEX,
    VFIO_DEVICE_FLAGS_AP,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_EVENTFD,
)
from vfiocore_sim.device import SysfsEntry, SysfsFile
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.base import IrqDescription, VfioDevice
from vfiocore_sim.vfio.irqset import IrqRequest
from vfiocore_sim.vfio.trigger import Trigger

NOTIFIED = 0x01
"""What a queue stores into its notification indicator byte."""

_MASK_BITS = 256
_MASK = re.compile(r"0x[0-9a-fA-F]{1,64}")
_NUMBER = re.compile(r"[+]?(0[xX][0-9a-fA-F]+|\d+)")


@define
class ApHost:
    """The crypto adapters of a machine, shared by the matrix devices made of them.

    Attributes:
        max_adapter: The highest adapter number.
        max_domain: The highest domain number.
        host_queues: Queues that the host's own drivers keep: ``(adapter, domain)``.
    """

    max_adapter: int = 255
    max_domain: int = 255
    host_queues: frozenset[tuple[int, int]] = frozenset()
    matrices: list[ApMatrixDevice] = field(factory=list)


class ApMatrixDevice(VfioDevice):
    """A matrix of adapters and domains, with the request and configuration-changed interrupts.

    The sysfs attributes of its mdev directory change the matrix, opened or not; each change
    signals the CFG_CHG irq. It cannot be opened without a KVM, nor twice on the same one.

    Args:
        adapters: Adapters assigned at first, 0 to 255.
        domains: Usage domains assigned at first.
        control_domains: Control domains assigned at first.
        host: The machine's adapters; a machine of its own by default.
        reset_fails: Queues do not come back from a reset: RESET answers EIO.
    """

    bus = "mdev"
    emulated = True
    device_flags: ClassVar[int] = VFIO_DEVICE_FLAGS_AP
    unknown_ioctl: ClassVar[int] = errno.EOPNOTSUPP
    num_irqs = VFIO_AP_NUM_IRQS

    def __init__(
        self,
        *,
        adapters: Iterable[int] = (0x05,),
        domains: Iterable[int] = (0x04,),
        control_domains: Iterable[int] = (),
        host: ApHost | None = None,
        reset_fails: bool = False,
    ) -> None:
        self._host = host or ApHost()
        self._host.matrices.append(self)
        self._reset_fails = reset_fails
        self.adapters: set[int] = set(adapters)
        self.domains: set[int] = set(domains)
        self.control_domains: set[int] = set(control_domains)
        self._machine: object | None = None
        self._notified: dict[tuple[int, int], int] = {}
        self._triggers = {
            VFIO_AP_REQ_IRQ_INDEX: Trigger(),
            VFIO_AP_CFG_CHG_IRQ_INDEX: Trigger(),
        }

    def needs_kvm(self) -> bool:
        """Always: queues are handed to a guest's SIE control block."""
        return True

    def open_device(self) -> None:
        """``vfio_ap_ops.c:vfio_ap_mdev_open_device``: EINVAL without a KVM, EPERM with a shared one."""
        machine = self.kernel.kvm()
        if machine is None:
            fail(errno.EINVAL)
        if any(other._machine is machine for other in self._host.matrices if other is not self):
            fail(errno.EPERM)
        self._machine = machine

    def close_device(self) -> None:
        """``vfio_ap_ops.c:vfio_ap_mdev_close_device``."""
        self._machine = None
        self._forget_notifications()
        for trigger in self._triggers.values():
            trigger.clear()
        super().close_device()

    def describe_irq(self, index: int) -> IrqDescription:
        """``vfio_ap_ops.c:vfio_ap_get_irq_info``."""
        return IrqDescription(VFIO_IRQ_INFO_EVENTFD, 1)

    def set_irqs(self, request: IrqRequest) -> int:
        """``vfio_ap_ops.c:vfio_ap_set_irqs``: only eventfds, only to trigger."""
        if request.action != VFIO_IRQ_SET_ACTION_TRIGGER:
            fail(errno.EINVAL)
        if not request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            fail(errno.EINVAL)
        if not request.count:
            fail(errno.EFAULT)
        self._triggers[request.index].set_from_fd(request.eventfds[0])
        return 0

    def reset(self) -> None:
        """``vfio_ap_ops.c:vfio_ap_mdev_reset_queues``; EIO when a queue does not come back."""
        if self._reset_fails:
            fail(errno.EIO)
        self._forget_notifications()

    def request(self, count: int) -> None:
        """``vfio_ap_ops.c:vfio_ap_mdev_request``."""
        self._triggers[VFIO_AP_REQ_IRQ_INDEX].signal()

    # -- what the guest does --------------------------------------------------------------------
    def enable_notification(self, queue: tuple[int, int], indicator: int) -> None:
        """The guest asks a queue for interrupts: PQAP(AQIC) with the IOVA of its indicator byte.

        ``vfio_ap_ops.c:vfio_ap_irq_enable`` pins the byte's page. KeyError for a queue that is not
        assigned; OSError as the pinning fails.
        """
        if queue not in self.queues:
            raise KeyError(queue)
        self._forget_notification(queue)
        self.dma.pin(indicator, 1, write=True)
        self._notified[queue] = indicator

    def complete(self, queue: tuple[int, int]) -> None:
        """A queue has a reply: it sets its indicator byte, if the guest asked for that."""
        indicator = self._notified.get(queue)
        if indicator is not None:
            self.dma.write(indicator, bytes([NOTIFIED]))

    def dma_unmapped(self, iova: int, size: int) -> None:
        """``vfio_ap_ops.c:vfio_ap_mdev_dma_unmap``: interrupts of the queues in the range end."""
        for queue, indicator in list(self._notified.items()):
            if iova <= indicator < iova + size:
                self._forget_notification(queue)

    def _forget_notification(self, queue: tuple[int, int]) -> None:
        indicator = self._notified.pop(queue, None)
        if indicator is not None:
            self.dma.unpin(indicator, 1)

    def _forget_notifications(self) -> None:
        for queue in list(self._notified):
            self._forget_notification(queue)

    # -- the matrix -----------------------------------------------------------------------------
    @property
    def queues(self) -> list[tuple[int, int]]:
        """The assigned queues: ``(adapter, domain)``, sorted."""
        return [(apid, apqi) for apid in sorted(self.adapters) for apqi in sorted(self.domains)]

    def sysfs_files(self) -> Mapping[str, SysfsEntry]:
        """The attributes of the mdev directory (``vfio_ap_ops.c``)."""
        files: dict[str, SysfsEntry] = {
            "matrix": SysfsFile(read=self._show_matrix),
            # Every assigned queue is bound to vfio-ap here, so nothing is filtered.
            "guest_matrix": SysfsFile(read=self._show_matrix),
            "control_domains": SysfsFile(read=self._show_control_domains),
            "ap_config": SysfsFile(read=self._show_config, write=self._store_config),
        }
        for name, numbers, limit in (
            ("adapter", self.adapters, self._host.max_adapter),
            ("domain", self.domains, self._host.max_domain),
            ("control_domain", self.control_domains, self._host.max_domain),
        ):
            files[f"assign_{name}"] = SysfsFile(write=self._assigner(numbers, limit))
            files[f"unassign_{name}"] = SysfsFile(write=self._unassigner(numbers, limit))
        return files

    def _assigner(self, numbers: set[int], limit: int) -> Callable[[bytes], None]:
        def store(data: bytes) -> None:
            number = _parse(data, limit)
            if number in numbers:
                return
            numbers.add(number)
            try:
                self._validate()
            except OSError:
                numbers.discard(number)
                raise
            self._changed()

        return store

    def _unassigner(self, numbers: set[int], limit: int) -> Callable[[bytes], None]:
        def store(data: bytes) -> None:
            number = _parse(data, limit)
            if number in numbers:
                numbers.discard(number)
                self._changed()

        return store

    def _validate(self) -> None:
        """``vfio_ap_mdev_validate_masks``: not the host's queues, not another matrix's."""
        mine = set(self.queues)
        if mine & self._host.host_queues:
            fail(errno.EADDRNOTAVAIL)
        others = (other for other in self._host.matrices if other is not self)
        if any(mine & set(other.queues) for other in others):
            fail(errno.EADDRINUSE)

    def _changed(self) -> None:
        self._triggers[VFIO_AP_CFG_CHG_IRQ_INDEX].signal()

    def _show_matrix(self) -> bytes:
        """``vfio_ap_mdev_matrix_show``."""
        if self.adapters and self.domains:
            lines = [f"{apid:02x}.{apqi:04x}\n" for apid, apqi in self.queues]
        elif self.adapters:
            lines = [f"{apid:02x}.\n" for apid in sorted(self.adapters)]
        else:
            lines = [f".{apqi:04x}\n" for apqi in sorted(self.domains)]
        return "".join(lines).encode()

    def _show_control_domains(self) -> bytes:
        return "".join(f"{number:04x}\n" for number in sorted(self.control_domains)).encode()

    def _show_config(self) -> bytes:
        """``ap_config_show``: three masks, whose leftmost bit is number 0."""
        masks = (self.adapters, self.domains, self.control_domains)
        return (",".join(_to_mask(numbers) for numbers in masks) + "\n").encode()

    def _store_config(self, data: bytes) -> None:
        """``ap_config_store``: all three masks at once, or none."""
        fields = data.decode(errors="replace").strip().split(",")
        if len(fields) != 3 or not all(_MASK.fullmatch(text) for text in fields):
            fail(errno.EINVAL)
        wanted = [_from_mask(text) for text in fields]
        limits = (self._host.max_adapter, self._host.max_domain, self._host.max_domain)
        if any(max(new, default=0) > limit for new, limit in zip(wanted, limits, strict=True)):
            fail(errno.ENODEV)
        current = (self.adapters, self.domains, self.control_domains)
        before = [set(numbers) for numbers in current]
        if before == wanted:
            return
        _replace(current, wanted)
        try:
            self._validate()
        except OSError:
            _replace(current, before)
            raise
        self._changed()


def _replace(numbers: Iterable[set[int]], values: Iterable[set[int]]) -> None:
    for target, value in zip(numbers, values, strict=True):
        target.clear()
        target.update(value)


def _parse(data: bytes, limit: int) -> int:
    """``kstrtoul(buf, 0, ...)``: EINVAL for no number, ENODEV above `limit`."""
    text = data.decode(errors="replace").removesuffix("\n")
    if not _NUMBER.fullmatch(text):
        fail(errno.EINVAL)
    digits = text.removeprefix("+").lower()
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    try:
        number = int(digits, base)
    except ValueError:
        fail(errno.EINVAL)
    if number > limit:
        fail(errno.ENODEV)
    return number


def _to_mask(numbers: set[int]) -> str:
    value = sum(1 << (_MASK_BITS - 1 - number) for number in numbers)
    return f"0x{value:064x}"


def _from_mask(text: str) -> set[int]:
    # ap_hex2bitmap fills from the left: a short mask means the low numbers.
    value = int(text.removeprefix("0x").ljust(_MASK_BITS // 4, "0"), 16)
    return {number for number in range(_MASK_BITS) if value >> (_MASK_BITS - 1 - number) & 1}
