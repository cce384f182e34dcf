"""A platform timer: one register region, one level and one edge interrupt."""

from __future__ import annotations

import struct
import threading
import time

from vfiocore_sim.device import DmaFault
from vfiocore_sim.vfio.platform import MmioRegion, PlatformDevice, PlatformIrq

#: Registers, 4 bytes each, in the byte order of the machine.
REG_ID = 0x00
REG_VERSION = 0x04
REG_LOAD = 0x08
REG_CONTROL = 0x0C
REG_COUNT = 0x10
REG_STATUS = 0x14
REG_ACK = 0x18
REG_RECORD_LOW = 0x1C
REG_RECORD_HIGH = 0x20

IDENTIFICATION = 0x54494D52
VERSION = 1
CONTROL_START = 0x1
CONTROL_PERIODIC = 0x2
STATUS_EXPIRED = 0x1
STATUS_FAULT = 0x2

#: Level-triggered: asserted from an expiry until STATUS_EXPIRED is acknowledged.
IRQ_EXPIRED = 0
#: Edge-triggered: one pulse per expiry.
IRQ_TICK = 1

_REGION_SIZE = 0x100
_MICROSECONDS = 1_000_000
_U32 = 0xFFFF_FFFF


class TimerDevice(PlatformDevice):
    """Counts `load` microseconds down and interrupts.

    A start with a load of 0 expires before the register write returns, so a test needs no clock
    (PERIODIC is ignored then); otherwise expiry is real time. Expiry sets STATUS_EXPIRED, asserts
    `IRQ_EXPIRED` until a write of STATUS_EXPIRED to ACK, and pulses `IRQ_TICK`. A stop (CONTROL
    written without START), a reset and the last close cancel a running count.

    With an address in RECORD_LOW and RECORD_HIGH, each expiry first writes a record there by DMA:
    how many expiries there were, and the load, as two 64-bit numbers in the byte order of the
    machine. A DMA fault sets STATUS_FAULT instead.

    Args:
        compatible: The compatible string of the device tree node.
    """

    compatible: tuple[str, ...] = ("vfiocore,sim-timer",)
    regions: tuple[MmioRegion, ...] = (MmioRegion(size=_REGION_SIZE),)
    irqs: tuple[PlatformIrq, ...] = (PlatformIrq(level=True), PlatformIrq(level=False))

    def __init__(self, *, compatible: str = "vfiocore,sim-timer") -> None:
        super().__init__()
        self.compatible = (compatible,)
        self._thread: threading.Timer | None = None
        self.power_on_reset()

    def power_on_reset(self) -> None:
        """Stopped, all registers zero."""
        self._stop()
        self._load_us = 0
        self._control = 0
        self._status = 0
        self._record = 0
        self._expiries = 0
        self._deadline = 0.0

    def read(self, region: int, offset: int, size: int) -> int:
        """A register; zero where there is none."""
        registers = {
            REG_ID: IDENTIFICATION,
            REG_VERSION: VERSION,
            REG_LOAD: self._load_us,
            REG_CONTROL: self._control,
            REG_COUNT: self._remaining(),
            REG_STATUS: self._status,
            REG_RECORD_LOW: self._record & _U32,
            REG_RECORD_HIGH: self._record >> 32,
        }
        return registers.get(offset, 0)

    def write(self, region: int, offset: int, value: int, size: int) -> None:
        """Store to a register; the others are read-only."""
        if offset == REG_LOAD:
            self._load_us = value
        elif offset == REG_CONTROL:
            self._set_control(value & (CONTROL_START | CONTROL_PERIODIC))
        elif offset == REG_ACK:
            self._acknowledge(value)
        elif offset == REG_RECORD_LOW:
            self._record = self._record & ~_U32 | value
        elif offset == REG_RECORD_HIGH:
            self._record = self._record & _U32 | value << 32

    def _set_control(self, control: int) -> None:
        self._stop()
        self._control = control
        if control & CONTROL_START:
            self._start()

    def _start(self) -> None:
        if not self._load_us:
            self._expire()
            return
        seconds = self._load_us / _MICROSECONDS
        self._deadline = time.monotonic() + seconds
        self._thread = threading.Timer(seconds, self._expire_in_thread)
        self._thread.daemon = True
        self._thread.start()

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.cancel()

    def _expire_in_thread(self) -> None:
        with self.kernel.lock:
            # A stop or a reset that came first has put something else here.
            if self._thread is threading.current_thread():
                self._thread = None
                self._expire()

    def _expire(self) -> None:
        self._status |= STATUS_EXPIRED
        self._write_record()
        if self._control & CONTROL_PERIODIC and self._load_us:
            self._start()
        else:
            self._control &= ~CONTROL_START
        self.set_line(IRQ_EXPIRED, asserted=True)
        self.pulse(IRQ_TICK)

    def _write_record(self) -> None:
        self._expiries += 1
        if not self._record:
            return
        try:
            self.dma.write(self._record, struct.pack("=QQ", self._expiries, self._load_us))
        except DmaFault:
            self._status |= STATUS_FAULT

    def _acknowledge(self, value: int) -> None:
        self._status &= ~value
        if not self._status & STATUS_EXPIRED:
            self.set_line(IRQ_EXPIRED, asserted=False)

    def _remaining(self) -> int:
        if self._thread is None:
            return 0
        return max(0, round((self._deadline - time.monotonic()) * _MICROSECONDS))
