"""vfio-ccw: an I/O subchannel behind a mediated device."""

from __future__ import annotations

import ctypes
import errno
import threading
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import ClassVar

from vfiocore.uapi.s390_cio import (
    CRW,
    CRW_ERC_INIT,
    CRW_ERC_PERRN,
    CRW_FLAGS_SHIFT_RSC,
    CRW_RSC_CHP,
    IRB,
    ORB,
    PMCW,
    PMCW_FLAGS_MASK_DNV,
    PMCW_FLAGS_MASK_ENA,
    SCHIB,
    SCSW,
    SCSW_ACTL_START_PEND,
    SCSW_CSTAT_PCI,
    SCSW_CTRL_MASK_FCTL,
    SCSW_DSTAT_CHANNEL_END,
    SCSW_DSTAT_DEVICE_END,
    SCSW_FCTL_CLEAR_FUNC,
    SCSW_FCTL_HALT_FUNC,
    SCSW_FCTL_START_FUNC,
    SCSW_STCTL_ALERT,
    SCSW_STCTL_INTERMEDIATE,
    SCSW_STCTL_PRIMARY,
    SCSW_STCTL_SECONDARY,
    SCSW_STCTL_STATUS_PEND,
)
from vfiocore.uapi.vfio import (
    VFIO_CCW_CONFIG_REGION_INDEX,
    VFIO_CCW_CRW_IRQ_INDEX,
    VFIO_CCW_IO_IRQ_INDEX,
    VFIO_CCW_NUM_IRQS,
    VFIO_CCW_REQ_IRQ_INDEX,
    VFIO_DEVICE_FLAGS_CCW,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_REGION_INFO_CAP_TYPE,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
    VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD,
    VFIO_REGION_SUBTYPE_CCW_CRW,
    VFIO_REGION_SUBTYPE_CCW_SCHIB,
    VFIO_REGION_TYPE_CCW,
    vfio_info_cap_header,
    vfio_region_info_cap_type,
)
from vfiocore.uapi.vfio_ccw import (
    VFIO_CCW_ASYNC_CMD_CSCH,
    VFIO_CCW_ASYNC_CMD_HSCH,
    ccw_cmd_region,
    ccw_crw_region,
    ccw_io_region,
    ccw_schib_region,
)
from vfiocore_sim.capchain import Capability
from vfiocore_sim.refusal import fail
from vfiocore_sim.vfio.base import IrqDescription, RegionDescription, VfioDevice
from vfiocore_sim.vfio.channel import (
    ChannelData,
    Completion,
    Ending,
    Program,
    fetch,
    orb_from,
    release,
    run,
)
from vfiocore_sim.vfio.irqset import IrqRequest
from vfiocore_sim.vfio.trigger import Trigger

_OFFSET_SHIFT = 10
ASYNC_REGION = VFIO_CCW_CONFIG_REGION_INDEX + 1
SCHIB_REGION = ASYNC_REGION + 1
CRW_REGION = SCHIB_REGION + 1
#: Bit "b" of a transport-mode ORB, in ctrl0.
_ORB_TRANSPORT_MODE = 0x0004
#: What the SCSW repeats of the ORB: key, suspend, format, prefetch, and the interruption controls.
_ORB_IN_SCSW = 0xF8F8
_KERNEL_IRB = 64
_READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE


class State(Enum):
    """States of the driver (``vfio_ccw_fsm.c``), as far as a caller can meet them."""

    NOT_OPER = auto()
    STANDBY = auto()
    IDLE = auto()
    #: A start function was accepted and has not ended.
    CP_PENDING = auto()


class CcwSubchannel(VfioDevice):
    """Base of simulated channel devices: a subclass implements `execute` for its commands.

    A program runs to its end when the I/O region is written, or `latency` seconds later in a
    thread, so that busy states, halt and clear can be met. Accesses come one at a time, under the
    simulated kernel's lock, so the EAGAIN of two accesses that meet does not occur.

    Args:
        device_number: The number of the device, ``0x1234`` for ``0.0.1234``.
        chpids: The channel paths to it, up to eight.
        latency: Seconds that a channel program takes; 0 for at once.
    """

    bus = "mdev"
    emulated = True
    device_flags: ClassVar[int] = VFIO_DEVICE_FLAGS_CCW
    num_regions = CRW_REGION + 1
    num_irqs = VFIO_CCW_NUM_IRQS

    def __init__(
        self, *, device_number: int = 0x1234, chpids: Sequence[int] = (0x40,), latency: float = 0.0
    ) -> None:
        self._device_number = device_number
        self._chpids = tuple(chpids)
        self._latency = latency
        self._available = _path_mask(len(self._chpids))
        self.state: State = State.STANDBY
        self._operational = True
        self._io = ccw_io_region()
        self._command = ccw_cmd_region()
        self._scsw = SCSW()
        self._crws: deque[CRW] = deque()
        self._program: Program | None = None
        self._timer: threading.Timer | None = None
        self._triggers = {
            VFIO_CCW_IO_IRQ_INDEX: Trigger(),
            VFIO_CCW_CRW_IRQ_INDEX: Trigger(),
            VFIO_CCW_REQ_IRQ_INDEX: Trigger(),
        }

    def execute(self, command: int, data: ChannelData) -> Ending:
        """Carry out one command of a channel program."""
        raise NotImplementedError

    def device_reset(self) -> None:
        """Forget what commands set up: the device was cleared or reset."""

    # -- open, close, reset ---------------------------------------------------------------------
    def open_device(self) -> None:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_open_device``; EINVAL for a subchannel that is gone."""
        if not self._operational:
            fail(errno.EINVAL)
        self._io = ccw_io_region()
        self._command = ccw_cmd_region()
        self._crws.clear()
        self.state = State.IDLE

    def close_device(self) -> None:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_close_device``."""
        self._quiesce()
        self.state = State.STANDBY if self._operational else State.NOT_OPER
        for trigger in self._triggers.values():
            trigger.clear()
        super().close_device()

    def reset(self) -> None:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_reset``: close and open the subchannel."""
        if self.state is State.NOT_OPER:
            fail(errno.EINVAL)
        self._quiesce()
        self.state = State.IDLE

    def dma_unmapped(self, iova: int, size: int) -> None:
        """``vfio_ccw_ops.c:vfio_ccw_dma_unmap``: a program whose pages go is reset away."""
        if self._program is None:
            return
        if any(pin.iova < iova + size and iova < pin.iova + pin.size for pin in self._program.pins):
            self.reset()

    def request(self, count: int) -> None:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_request``."""
        self._triggers[VFIO_CCW_REQ_IRQ_INDEX].signal()

    def _quiesce(self) -> None:
        self._drop_program()
        self._scsw = SCSW()
        self.device_reset()

    def _drop_program(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        program, self._program = self._program, None
        if program is not None:
            release(program.pins, self.dma)

    # -- what happens to the hardware -----------------------------------------------------------
    def detach(self) -> None:
        """The device is gone for good (``vfio_ccw_fsm.c:fsm_notoper``)."""
        self._operational = False
        self._drop_program()
        self.state = State.NOT_OPER

    def path_offline(self, chpid: int) -> None:
        """A channel path fails (``vfio_ccw_drv.c:vfio_ccw_chp_event``)."""
        self._set_path(chpid, available=False)
        self._queue_crw(chpid, CRW_ERC_PERRN)

    def path_online(self, chpid: int) -> None:
        """A channel path comes back."""
        self._set_path(chpid, available=True)
        self._queue_crw(chpid, CRW_ERC_INIT)

    def _set_path(self, chpid: int, *, available: bool) -> None:
        mask = 0x80 >> self._chpids.index(chpid)
        self._available = self._available | mask if available else self._available & ~mask

    def _queue_crw(self, chpid: int, recovery_code: int) -> None:
        flags = CRW_RSC_CHP << CRW_FLAGS_SHIFT_RSC | recovery_code
        self._crws.append(CRW(flags=flags, rsid=chpid))
        self._triggers[VFIO_CCW_CRW_IRQ_INDEX].signal()

    # -- description ----------------------------------------------------------------------------
    def describe_region(self, index: int) -> RegionDescription:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_get_region_info``."""
        size, flags, subtype = _REGIONS[index]
        caps = []
        if subtype is not None:
            cap = vfio_region_info_cap_type(type=VFIO_REGION_TYPE_CCW, subtype=subtype)
            body = bytes(cap)[ctypes.sizeof(vfio_info_cap_header) :]
            caps.append(Capability(VFIO_REGION_INFO_CAP_TYPE, body))
        return RegionDescription(flags, size, index << _OFFSET_SHIFT, caps)

    def describe_irq(self, index: int) -> IrqDescription:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_get_irq_info``."""
        return IrqDescription(VFIO_IRQ_INFO_EVENTFD, 1)

    def set_irqs(self, request: IrqRequest) -> int:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_set_irqs``; DATA_NONE signals whatever the count."""
        if request.action != VFIO_IRQ_SET_ACTION_TRIGGER:
            fail(errno.EINVAL)
        trigger = self._triggers[request.index]
        if request.is_data(VFIO_IRQ_SET_DATA_EVENTFD):
            trigger.set_from_fd(_first(request.eventfds))
        elif not request.is_data(VFIO_IRQ_SET_DATA_BOOL) or _first(request.data):
            trigger.signal()
        return 0

    # -- read and write -------------------------------------------------------------------------
    def pread(self, size: int, offset: int) -> bytes:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_read``."""
        index, position = self._locate(offset, size)
        if index == CRW_REGION:
            return self._pop_crw()[position : position + size]
        content = {
            VFIO_CCW_CONFIG_REGION_INDEX: lambda: bytes(self._io),
            ASYNC_REGION: lambda: bytes(self._command),
            SCHIB_REGION: self._store_subchannel,
        }[index]()
        return content[position : position + size]

    def pwrite(self, data: bytes, offset: int) -> int:
        """``vfio_ccw_ops.c:vfio_ccw_mdev_write``: the driver acts on every write.

        Returns what the region's ret_code says: `len(data)` for 0.
        """
        index, position = self._locate(offset, len(data))
        if index == VFIO_CCW_CONFIG_REGION_INDEX:
            region: ccw_io_region | ccw_cmd_region = self._io
            act = self._io_request
        elif index == ASYNC_REGION:
            region = self._command
            act = self._async_request
        else:
            fail(errno.EINVAL)
        memory = memoryview(region).cast("B")
        memory[position : position + len(data)] = data
        act()
        code: int = ctypes.c_int32(region.ret_code).value
        if code < 0:
            fail(-code)
        return code or len(data)

    def _locate(self, offset: int, size: int) -> tuple[int, int]:
        index, position = offset >> _OFFSET_SHIFT, offset & ((1 << _OFFSET_SHIFT) - 1)
        if index >= self.num_regions or position + size > _REGIONS[index][0]:
            fail(errno.EINVAL)
        return index, position

    def _pop_crw(self) -> bytes:
        """``vfio_ccw_chp.c:vfio_ccw_crw_region_read``: each read takes one, even a partial read."""
        crw = self._crws.popleft() if self._crws else CRW()
        if self._crws:
            self._triggers[VFIO_CCW_CRW_IRQ_INDEX].signal()
        return bytes(crw).ljust(ctypes.sizeof(ccw_crw_region), b"\0")

    def _store_subchannel(self) -> bytes:
        """``vfio_ccw_chp.c:vfio_ccw_schib_region_read``; ENODEV for a device that is gone."""
        if not self._operational:
            fail(errno.ENODEV)
        installed = _path_mask(len(self._chpids))
        chpids = (ctypes.c_uint8 * 8)(*self._chpids)
        pmcw = PMCW(
            flags=PMCW_FLAGS_MASK_DNV | PMCW_FLAGS_MASK_ENA,
            devno=self._device_number,
            lpm=self._available,
            pim=installed,
            pom=0xFF,
            pam=self._available,
            chpid=chpids,
        )
        return bytes(SCHIB(pmcw=pmcw, scsw=self._scsw))

    # -- start ----------------------------------------------------------------------------------
    def _io_request(self) -> None:
        """``VFIO_CCW_EVENT_IO_REQ`` in ``vfio_ccw_fsm.c``."""
        refusals = {
            State.NOT_OPER: errno.EIO,
            State.STANDBY: errno.EIO,
            State.CP_PENDING: errno.EBUSY,
        }
        refusal = refusals.get(self.state)
        if refusal is not None:
            self._io.ret_code = -refusal & 0xFFFFFFFF
            return
        function = SCSW.from_buffer_copy(self._io.scsw_area).ctrl & SCSW_CTRL_MASK_FCTL
        if function & SCSW_FCTL_START_FUNC:
            self._io.ret_code = -self._start() & 0xFFFFFFFF
        elif function:
            # Halt and clear have a region of their own.
            self._io.ret_code = -errno.EOPNOTSUPP & 0xFFFFFFFF

    def _start(self) -> int:
        """``fsm_io_request``: the errno, or 0 when the subchannel took the program."""
        orb = orb_from(bytes(self._io.orb_area))
        if orb.ctrl0 & _ORB_TRANSPORT_MODE:
            return errno.EOPNOTSUPP
        try:
            program = fetch(orb, self.dma)
        except OSError as error:
            return error.errno or errno.EIO
        refusal = self._start_subchannel(orb)
        if refusal:
            release(program.pins, self.dma)
            return refusal
        self._program = program
        self.state = State.CP_PENDING
        self._scsw = SCSW(ctrl=SCSW_FCTL_START_FUNC | SCSW_ACTL_START_PEND, cpa=orb.cpa)
        self._io.ret_code = 0
        if self._latency:
            self._timer = threading.Timer(self._latency, self._complete_in_thread, (orb,))
            self._timer.daemon = True
            self._timer.start()
        else:
            self._complete(orb)
        return 0

    def _start_subchannel(self, orb: ORB) -> int:
        """``fsm_io_helper``: condition code 3 is EACCES while another path is left, else ENODEV."""
        if not self._operational or not self._available:
            return errno.ENODEV
        if orb.lpm and not orb.lpm & self._available:
            return errno.EACCES
        return 0

    def _complete_in_thread(self, orb: ORB) -> None:
        with self.kernel.lock:
            # A halt, a clear or a reset that came first has put something else here.
            if self._timer is threading.current_thread():
                self._timer = None
                self._complete(orb)

    def _complete(self, orb: ORB) -> None:
        assert self._program is not None, "a program is running"
        ending = run(self._program, orb, self.dma, self)
        status = SCSW_STCTL_STATUS_PEND | SCSW_STCTL_PRIMARY | SCSW_STCTL_SECONDARY
        if ending.cstat & ~SCSW_CSTAT_PCI or ending.dstat != _DONE:
            status |= SCSW_STCTL_ALERT
        if ending.cstat & SCSW_CSTAT_PCI:
            status |= SCSW_STCTL_INTERMEDIATE
        self._interrupt(_scsw(orb, SCSW_FCTL_START_FUNC | status, ending))

    def _interrupt(self, scsw: SCSW) -> None:
        """``vfio_ccw_drv.c:vfio_ccw_sch_io_todo``: hand the IRB over, free the program, signal."""
        self._drop_program()
        irb = bytes(IRB(scsw=scsw))[:_KERNEL_IRB]
        ctypes.memmove(self._io.irb_area, irb, len(irb))
        # The interruption is cleared by the test subchannel that got the IRB.
        self._scsw = SCSW()
        self.state = State.IDLE
        self._triggers[VFIO_CCW_IO_IRQ_INDEX].signal()

    # -- halt and clear -------------------------------------------------------------------------
    def _async_request(self) -> None:
        """``VFIO_CCW_EVENT_ASYNC_REQ`` in ``vfio_ccw_fsm.c``."""
        if self.state in (State.NOT_OPER, State.STANDBY):
            self._command.ret_code = -errno.EIO & 0xFFFFFFFF
            return
        command = self._command.command
        if command not in (VFIO_CCW_ASYNC_CMD_HSCH, VFIO_CCW_ASYNC_CMD_CSCH):
            self._command.ret_code = -errno.EINVAL & 0xFFFFFFFF
            return
        self._command.ret_code = 0
        if command == VFIO_CCW_ASYNC_CMD_HSCH:
            self._halt()
        else:
            self._clear()

    def _halt(self) -> None:
        """``fsm_do_halt``: a running program ends where it is."""
        function = SCSW_FCTL_HALT_FUNC
        status = SCSW_STCTL_STATUS_PEND
        dstat = 0
        if self.state is State.CP_PENDING:
            function |= SCSW_FCTL_START_FUNC
            status |= SCSW_STCTL_PRIMARY | SCSW_STCTL_SECONDARY
            dstat = _DONE
        self._interrupt(SCSW(ctrl=function | status, dstat=dstat))

    def _clear(self) -> None:
        """``fsm_do_clear``."""
        self.device_reset()
        self._interrupt(SCSW(ctrl=SCSW_FCTL_CLEAR_FUNC | SCSW_STCTL_STATUS_PEND))


_DONE = SCSW_DSTAT_CHANNEL_END | SCSW_DSTAT_DEVICE_END
_REGIONS: Sequence[tuple[int, int, int | None]] = (
    (ctypes.sizeof(ccw_io_region), _READ_WRITE, None),
    (ctypes.sizeof(ccw_cmd_region), _READ_WRITE, VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD),
    (
        ctypes.sizeof(ccw_schib_region),
        VFIO_REGION_INFO_FLAG_READ,
        VFIO_REGION_SUBTYPE_CCW_SCHIB,
    ),
    (ctypes.sizeof(ccw_crw_region), VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_SUBTYPE_CCW_CRW),
)


def _scsw(orb: ORB, ctrl: int, ending: Completion) -> SCSW:
    return SCSW(
        flags=orb.ctrl0 & _ORB_IN_SCSW,
        ctrl=ctrl,
        cpa=ending.cpa,
        dstat=ending.dstat,
        cstat=ending.cstat,
        count=ending.residual,
    )


def _path_mask(paths: int) -> int:
    return 0xFF << (8 - paths) & 0xFF


def _first(values: Sequence[int]) -> int:
    """What ``get_user`` reads behind the header; with a count of 0 there is nothing to read."""
    if not values:
        fail(errno.EFAULT)
    return values[0]
