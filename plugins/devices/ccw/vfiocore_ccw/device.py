"""A channel-attached device: channel programs are started, end with an interrupt, and tell how.

Source: ``linux/vfio_ccw.h`` (Linux 4.12; halt and clear 5.2; schib and crw 5.8).
"""

from __future__ import annotations

import ctypes
import errno
import os.path
import sys
import time
from collections.abc import Iterator
from typing import ClassVar, Unpack

from vfiocore.access import IrqInfo
from vfiocore.container import Capability
from vfiocore.device import Device
from vfiocore.errors import (
    BusyError,
    DeviceAccessError,
    KernelError,
    MalformedReplyError,
    UnsupportedError,
    kernel_error,
)
from vfiocore.irq import Irq, SignalIrq, Vector
from vfiocore.region import ByteOrder, Region
from vfiocore.registration import DeviceSetup
from vfiocore.uapi import s390_cio, vfio, vfio_ccw
from vfiocore_ccw.completion import Completion
from vfiocore_ccw.request import (
    DETAILS,
    KINDS,
    UNPINNABLE,
    UNPINNABLE_HINT,
    OrbOptions,
    build_orb,
    io_region_to_start,
)
from vfiocore_ccw.subchannel import ChannelReport, Subchannel, SubchannelId

IRQ_NAMES = {
    vfio.VFIO_CCW_IO_IRQ_INDEX: "I/O",
    vfio.VFIO_CCW_CRW_IRQ_INDEX: "channel report",
    vfio.VFIO_CCW_REQ_IRQ_INDEX: "request",
}
REGIONS: dict[int, type[ctypes.Structure]] = {
    vfio.VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD: vfio_ccw.ccw_cmd_region,
    vfio.VFIO_REGION_SUBTYPE_CCW_SCHIB: vfio_ccw.ccw_schib_region,
    vfio.VFIO_REGION_SUBTYPE_CCW_CRW: vfio_ccw.ccw_crw_region,
}
CRW_SIZE = ctypes.sizeof(s390_cio.CRW)

REPORT_LIMIT = 1 << 16
"""More channel reports than can be queued: each channel path makes a few."""

RETRY_SECONDS = 1.0
"""How long an access that the kernel is too busy for is tried again."""


class CcwDevice(Device):
    """A live subchannel with the device behind it.

    One channel program runs at a time. Its status lies in the I/O region until the next start
    overwrites it, so read every completion (`wait`) before starting again; a start that would
    destroy one is refused.

    Attributes:
        subchannel_id: Where it is in the host's channel subsystem, from sysfs.
        io: Signalled when a program ends or the device has something to tell.
        crw: Signalled when a channel report is there: `crws` (Linux 5.8; None before).
        request: Signalled, again and again, while the host wants the device back: close it
            (Linux 5.11; None before).
        strays: Completions that came while `run` was at work and were not its program's, oldest
            first; take them out.
    """

    subchannel_id: SubchannelId
    io: Irq
    crw: Irq | None
    request: Irq | None
    strays: list[Completion]
    _io_region: Region
    _optional: dict[int, Region]
    _force_prefetch: bool
    _told_of_prefetch: bool

    # Commands and return codes; the areas are big-endian and taken as bytes.
    byteorder: ClassVar[ByteOrder] = sys.byteorder

    def __init__(self, setup: DeviceSetup) -> None:
        """Wrap an open device; nothing of it changes.

        Raises:
            UnsupportedError: EINVAL, it is not a subchannel.
            DeviceAccessError: EINVAL, sysfs does not tell its id.
            MalformedReplyError: A region does not have the size that it must have.
        """
        super().__init__(setup)
        if not self.info.flags & vfio.VFIO_DEVICE_FLAGS_CCW:
            raise UnsupportedError(
                errno.EINVAL,
                "VFIO_DEVICE_GET_INFO",
                self.name,
                f"this is not a subchannel: its flags are {self.info.flags:#x}",
                "another device type fits it, or sysfsdev= or fd= is of another device",
            )
        self.subchannel_id = self._read_subchannel_id()
        self.strays = []
        self._force_prefetch = setup.config.properties["force-orb-pfch"]
        self._told_of_prefetch = False
        self._io_region = self.region(vfio.VFIO_CCW_CONFIG_REGION_INDEX)
        self._check_size(self._io_region, vfio_ccw.ccw_io_region)
        self._optional = dict(self._find_optional())
        self.io = self.irq(vfio.VFIO_CCW_IO_IRQ_INDEX)
        self.crw = self._irq_if_there(vfio.VFIO_CCW_CRW_IRQ_INDEX)
        self.request = self._irq_if_there(vfio.VFIO_CCW_REQ_IRQ_INDEX)

    # -- channel programs --------------------------------------------------------------------
    def start(self, program_iova: int, **options: Unpack[OrbOptions]) -> None:
        """Start the channel program at `program_iova`, and return while it runs.

        Args:
            program_iova: Where the first CCW is: 8-byte aligned, below 2 GiB. The kernel reads 2 KiB
                from there, however short the program is, so all of these have to be mapped.
            options: ``key``, ``format1``, ``prefetch``, ``intparm``, ``lpm``, ``idaw64`` of
                `vfiocore_ccw.request.build_orb`.

        Raises:
            ValueError: An argument does not fit its field.
            BusyError: EBUSY, a program is running, or a completion has not been read; EAGAIN, the
                kernel did not get to it within a second.
            DeviceAccessError: EINVAL, ENOENT or EPERM, the program or its data is not mapped; EIO, the
                subchannel is not operational; ENODEV or EACCES, the path to the device is gone;
                EACCES, type1 version 1 pins no data.
            UnsupportedError: EOPNOTSUPP, the kernel does not know this kind of program.
        """
        self.start_orb(build_orb(program_iova, **options))

    def start_orb(self, orb: bytes) -> None:
        """Start with an operation request block as it is, such as a guest's; 12 bytes.

        Raises:
            As `start`.
        """
        request = s390_cio.ORB.from_buffer_copy(orb)
        self._allow_prefetch(request)
        if self._signalled():
            raise BusyError(
                errno.EBUSY, "start", self.name, "a completion is there already: wait() for it"
            )
        self._write(self._io_region, io_region_to_start(request), "start")

    def wait(self, timeout: float | None = None) -> Completion:
        """Wait for an interrupt of the subchannel, and read what it has to tell.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            InterruptTimeout: None came in time; a program may still be running.
            DeviceAccessError: The status cannot be read.
        """
        return self._completion(self._vector().wait(timeout))

    async def wait_async(self) -> Completion:
        """As `wait`, in an asyncio event loop; ``asyncio.timeout`` limits it."""
        return self._completion(await self._vector())

    def run(
        self, program_iova: int, *, timeout: float | None = None, **options: Unpack[OrbOptions]
    ) -> Completion:
        """Start a channel program and wait until it has ended.

        Args:
            program_iova: As for `start`.
            timeout: Seconds between interrupts; None waits for ever.
            options: As for `start`.

        Returns:
            How it ended, well or not: see `Completion.ok`. Steps on the way are merged, and what
            is not of this program is added to `strays`.

        Raises:
            InterruptTimeout: It has not ended; `halt` or `clear` it.
            BusyError, DeviceAccessError, UnsupportedError: As `start`.
        """
        self._begin(program_iova, options)
        ending: Completion | None = None
        while ending is None or not ending.final:
            ending = self._merged(ending, self.wait(timeout))
        return ending

    async def run_async(self, program_iova: int, **options: Unpack[OrbOptions]) -> Completion:
        """As `run`, in an asyncio event loop; ``asyncio.timeout`` limits it.

        The start itself does not wait for the loop: it takes a second at worst, see `RETRY_SECONDS`.
        """
        self._begin(program_iova, options)
        ending: Completion | None = None
        while ending is None or not ending.final:
            ending = self._merged(ending, await self.wait_async())
        return ending

    def halt(self) -> None:
        """End the running program at the next point where the device allows it; then `wait`.

        Raises:
            UnsupportedError: ENOTTY, before Linux 5.2.
            BusyError: EBUSY, status is pending or a halt or clear is under way.
            DeviceAccessError: EIO, ENODEV, the subchannel or the device is gone.
        """
        self._command("halt", vfio_ccw.VFIO_CCW_ASYNC_CMD_HSCH)

    def clear(self) -> None:
        """End the running program at once, and forget any status; then `wait`.

        Raises:
            As `halt`.
        """
        self._command("clear", vfio_ccw.VFIO_CCW_ASYNC_CMD_CSCH)

    # -- the subchannel ----------------------------------------------------------------------
    def schib(self) -> Subchannel:
        """Ask for the subchannel's information block, as it is now.

        Raises:
            UnsupportedError: ENOTTY, before Linux 5.8.
            DeviceAccessError: ENODEV, the subchannel is gone.
        """
        region = self._region("schib", vfio.VFIO_REGION_SUBTYPE_CCW_SCHIB)
        try:
            return Subchannel.from_bytes(region.read(0, vfio_ccw.SCHIB_AREA_SIZE))
        except KernelError as error:
            raise self._refused(error, "schib") from error

    def crws(self) -> list[ChannelReport]:
        """Take all channel reports out of the queue, oldest first.

        Raises:
            UnsupportedError: ENOTTY, before Linux 5.8.
        """
        region = self._region("crws", vfio.VFIO_REGION_SUBTYPE_CCW_CRW)
        reports: list[ChannelReport] = []
        # One read takes one report, also a read of a part; zeros come when none is left
        # (vfio_ccw_chp.c:vfio_ccw_crw_region_read).
        while any(word := region.read(0, region.size)[:CRW_SIZE]):
            if len(reports) == REPORT_LIMIT:
                raise MalformedReplyError(f"{region.name} gives more than {REPORT_LIMIT} reports")
            reports.append(ChannelReport.from_bytes(word))
        return reports

    def reset(self) -> None:
        """Stop whatever runs and start the subchannel afresh; a completion not yet read is gone.

        Raises:
            DeviceAccessError: EINVAL, the subchannel is not operational.
        """
        super().reset()
        for vector in self.io.vectors:
            vector.take()

    # -- overridden --------------------------------------------------------------------------
    def make_irq(self, info: IrqInfo, name: str) -> Irq:
        """An index that is turned off by taking its eventfd away."""
        return SignalIrq(self.access, info, name)

    def request_irq(self) -> Irq | None:
        """The same as `request`."""
        return self.request

    def irq_name(self, index: int) -> str:
        """What messages call an interrupt index."""
        return IRQ_NAMES.get(index) or super().irq_name(index)

    def region_name(self, index: int) -> str:
        """What messages call a region."""
        if index == vfio.VFIO_CCW_CONFIG_REGION_INDEX:
            return "I/O region"
        return super().region_name(index)

    # -- making ------------------------------------------------------------------------------
    def _read_subchannel_id(self) -> SubchannelId:
        device = self.target.device
        if device is None:
            raise DeviceAccessError(
                errno.EINVAL,
                "open",
                self.name,
                "without its directory in sysfs the subchannel is not known",
                "give sysfsdev= beside fd=",
            )
        parent = os.path.dirname(device.path)
        try:
            return SubchannelId.parse(os.path.basename(parent))
        except ValueError as error:
            raise DeviceAccessError(errno.EINVAL, "open", device.path, f"{error}") from error

    def _find_optional(self) -> Iterator[tuple[int, Region]]:
        for subtype, layout in REGIONS.items():
            region = self.find_region(vfio.VFIO_REGION_TYPE_CCW, subtype)
            if region is not None:
                self._check_size(region, layout)
                yield subtype, region

    def _check_size(self, region: Region, layout: type[ctypes.Structure]) -> None:
        if region.size != ctypes.sizeof(layout):
            raise MalformedReplyError(
                f"{region.name} has {region.size} bytes, not the {ctypes.sizeof(layout)} of"
                f" struct {layout.__name__}"
            )

    def _irq_if_there(self, index: int) -> Irq | None:
        return self.irq(index) if index < self.info.num_irqs else None

    # -- running -----------------------------------------------------------------------------
    def _vector(self) -> Vector:
        """The I/O vector, enabled on first use: without one, completions come unnoticed."""
        return (self.io.vectors or self.io.enable())[0]

    def _signalled(self) -> bool:
        """True if a completion is there that nobody has read."""
        return self._vector().pending

    def _completion(self, count: int) -> Completion:
        data = self._io_region.read(0, self._io_region.size)
        region = vfio_ccw.ccw_io_region.from_buffer_copy(data)
        return Completion.from_irb(bytes(region.irb_area), lost=count - 1)

    def _begin(self, program_iova: int, options: OrbOptions) -> None:
        while self._signalled():
            self.strays.append(self.wait(0))
        self.start(program_iova, **options)

    def _merged(self, sofar: Completion | None, step: Completion) -> Completion | None:
        if not step.solicited:
            self.strays.append(step)
            return sofar
        return step if sofar is None else sofar.followed_by(step)

    def _allow_prefetch(self, orb: s390_cio.ORB) -> None:
        if orb.ctrl0 & s390_cio.ORB_CTRL0_MASK_PFCH or not self._force_prefetch:
            return
        orb.ctrl0 |= s390_cio.ORB_CTRL0_MASK_PFCH
        if self._told_of_prefetch:
            return
        self._told_of_prefetch = True
        self.access.log.warn_of(
            "ccw.prefetch_forced",
            f"{self.name}: force-orb-pfch=on: prefetching is allowed for a channel program that"
            " did not ask for it; a program that changes itself may go wrong",
            device=self.name,
        )

    def _command(self, operation: str, command: int) -> None:
        region = self._region(operation, vfio.VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD)
        self._vector()  # the end of a halt or clear is signalled too
        self._write(region, bytes(vfio_ccw.ccw_cmd_region(command, 0)), operation)

    def _region(self, operation: str, subtype: int) -> Region:
        region = self._optional.get(subtype)
        if region is None:
            raise UnsupportedError(
                errno.ENOTTY,
                operation,
                self.name,
                "this kernel has no region for it",
                "halt and clear need Linux 5.2, schib and channel reports 5.8",
            )
        return region

    def _write(self, region: Region, data: bytes, operation: str) -> None:
        """Write a whole region, which makes the kernel act; again while it is too busy to."""
        deadline = time.monotonic() + RETRY_SECONDS
        delay = 0.0
        while True:
            try:
                region.write(0, data)
            except KernelError as error:
                if error.errno != errno.EAGAIN or time.monotonic() >= deadline:
                    raise self._refused(error, operation) from error
            else:
                return
            time.sleep(delay)
            delay = min(delay * 2 or 0.0001, 0.02)

    def _refused(self, error: KernelError, operation: str) -> KernelError:
        detail, hint = DETAILS.get(error.errno or 0, ""), None
        pinning = Capability.NO_DRIVER_PINS not in self.container.capabilities
        if error.errno == errno.EACCES and not pinning:
            detail, hint = UNPINNABLE, UNPINNABLE_HINT
        return kernel_error(error, operation, self.name, kinds=KINDS, detail=detail, hint=hint)
