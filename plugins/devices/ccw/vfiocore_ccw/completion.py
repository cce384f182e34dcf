"""How a channel program ended: the interruption response block, decoded.

Source: z/Architecture Principles of Operation, chapter "I/O Interruptions"; ``irb_area`` of
``struct ccw_io_region`` (Linux 4.12).
"""

from __future__ import annotations

from typing import Self

from attrs import evolve, field, frozen

from vfiocore.uapi import s390_cio as cio
from vfiocore_ccw.subchannel import field_of

# The extended report word is the second word of the ESW, whatever the ESW's format
# (arch/s390/include/asm/cio.h: struct erw).
ERW = 1
ERW_CONCURRENT_SENSE = 0x0100_0000
ERW_SENSE_COUNT = 0x003F_0000

ACTIVE = cio.SCSW_ACTL_SUBCH_ACTIVE | cio.SCSW_ACTL_DEVICE_ACTIVE
UNSOLICITED = cio.SCSW_STCTL_STATUS_PEND | cio.SCSW_STCTL_ALERT

DEVICE_PROBLEMS = {
    cio.SCSW_DSTAT_ATTENTION: "attention",
    cio.SCSW_DSTAT_BUSY: "busy",
    cio.SCSW_DSTAT_UNIT_CHECK: "unit check",
    cio.SCSW_DSTAT_UNIT_EXCEP: "unit exception",
}
SUBCHANNEL_PROBLEMS = {
    cio.SCSW_CSTAT_INCORR_LEN: "incorrect length",
    cio.SCSW_CSTAT_PROG_CHECK: "program check",
    cio.SCSW_CSTAT_PROT_CHECK: "protection check",
    cio.SCSW_CSTAT_DATA_CHECK: "channel data check",
    cio.SCSW_CSTAT_CHN_CTRL_CHK: "channel control check",
    cio.SCSW_CSTAT_INTF_CTRL_CHK: "interface control check",
    cio.SCSW_CSTAT_CHAIN_CHECK: "chaining check",
}
CONDITIONS = {
    1: "it was not started: other status was pending",
    2: "it was not started: busy",
    3: "it was not started: no path is operational",
}


@frozen
class Completion:
    """The status that an interrupt of a subchannel brought.

    Attributes:
        device_status: ``SCSW_DSTAT_*`` bits.
        subchannel_status: ``SCSW_CSTAT_*`` bits.
        residual: How many bytes of the last CCW used were not transferred.
        cpa: The iova 8 bytes past the last CCW used.
        condition_code: Not 0 if the program could not be started after all.
        control: Function, activity and status control: ``SCSW_FCTL_*``, ``SCSW_ACTL_*`` and
            ``SCSW_STCTL_*`` bits.
        sense: The device's account of a unit check, if it came along; else the program
            ``CCW_CMD_BASIC_SENSE`` gets it.
        scsw: The subchannel status word, 12 bytes.
        irb: The whole block, 96 bytes.
        lost: How many interrupts came before this one whose status nobody read in time: the kernel
            keeps that of the last one only.
    """

    device_status: int
    subchannel_status: int
    residual: int
    cpa: int
    condition_code: int
    control: int
    sense: bytes
    scsw: bytes = field(repr=False)
    irb: bytes = field(repr=False)
    lost: int = 0

    @classmethod
    def from_irb(cls, irb: bytes, lost: int = 0) -> Self:
        """Decode the 96 bytes of an IRB."""
        block = cio.IRB.from_buffer_copy(irb)
        scsw = block.scsw
        return cls(
            device_status=scsw.dstat,
            subchannel_status=scsw.cstat,
            residual=scsw.count,
            cpa=scsw.cpa,
            condition_code=field_of(scsw.flags, cio.SCSW_FLAGS_MASK_CC),
            control=scsw.ctrl,
            sense=_sense(block),
            scsw=bytes(scsw),
            irb=bytes(block),
            lost=lost,
        )

    @property
    def solicited(self) -> bool:
        """False for what the device tells on its own, such as attention."""
        status = self.control & cio.SCSW_CTRL_MASK_STCTL
        return self.condition_code != 0 or status != UNSOLICITED

    @property
    def final(self) -> bool:
        """True if the subchannel is done: no other interrupt of the same program will come."""
        return not self.control & ACTIVE

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong, in the architecture's words; empty if nothing did."""
        found = [CONDITIONS[self.condition_code]] if self.condition_code else []
        found += _names(self.device_status, DEVICE_PROBLEMS)
        found += _names(self.subchannel_status, SUBCHANNEL_PROBLEMS)
        return tuple(found)

    @property
    def ok(self) -> bool:
        """True if nothing went wrong."""
        return not self.problems

    def followed_by(self, later: Completion) -> Completion:
        """One account of a program that two interrupts reported.

        A device may end in two steps, channel end and then device end: the residual and the
        address come with the first (primary) status, the rest with the second.
        """
        primary = self.control & cio.SCSW_STCTL_PRIMARY
        if not primary or later.control & cio.SCSW_STCTL_PRIMARY:
            return evolve(later, lost=self.lost + later.lost)
        return evolve(
            later,
            device_status=self.device_status | later.device_status,
            subchannel_status=self.subchannel_status | later.subchannel_status,
            residual=self.residual,
            cpa=self.cpa,
            lost=self.lost + later.lost,
        )


def _sense(block: cio.IRB) -> bytes:
    word = block.esw[ERW]
    if not word & ERW_CONCURRENT_SENSE:
        return b""
    # QEMU's emulated devices give no count, and the device has forgotten what it told.
    count = field_of(word, ERW_SENSE_COUNT) or len(block.ecw)
    return bytes(block.ecw[:count])


def _names(status: int, names: dict[int, str]) -> list[str]:
    return [name for bit, name in names.items() if status & bit]
