"""What is known of a subchannel: its id, its information block, and channel reports.

Source: z/Architecture Principles of Operation, chapter "I/O Support Functions".
"""

from __future__ import annotations

import re
from typing import Self

from attrs import field, frozen

from vfiocore.uapi import s390_cio

_ID = re.compile(r"([0-9a-f]{1,2})\.([0-3])\.([0-9a-f]{1,4})")


@frozen(order=True)
class SubchannelId:
    """Where a subchannel is in the channel subsystem; ``str`` is its name on the css bus.

    Attributes:
        cssid: The channel subsystem image.
        ssid: The subchannel set, 0 to 3.
        number: The subchannel's number in the set. The device behind it has a number of its own,
            `Subchannel.device_number`.
    """

    cssid: int
    ssid: int
    number: int

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read ``0.0.0313``.

        Raises:
            ValueError: It is not of this form.
        """
        match = _ID.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is not the name of a subchannel, such as 0.0.0313")
        cssid, ssid, number = (int(part, 16) for part in match.groups())
        return cls(cssid, ssid, number)

    def __str__(self) -> str:
        return f"{self.cssid:x}.{self.ssid:x}.{self.number:04x}"


@frozen
class Subchannel:
    """A subchannel information block (SCHIB), decoded.

    A path mask has bit 0x80 for path 0 and 0x01 for path 7.

    Attributes:
        enabled: True if the subchannel accepts programs.
        device_number: The number of the device behind it, or None if that is not valid.
        interruption_parameter: That of the last start, as the host's kernel gave it: vfio-ccw does
            not pass on the one of `vfiocore_ccw.request.build_orb`.
        isc: The interruption subclass, 0 to 7.
        concurrent_sense: True if sense data comes with a unit check.
        logical_paths: The paths that may be used (LPM).
        installed_paths: The paths that exist (PIM).
        operational_paths: The paths that worked when they were last used (POM).
        available_paths: The paths that are configured (PAM).
        not_operational_paths: The paths that did not answer (PNOM).
        last_used_paths: The path of the last transfer (LPUM).
        chpids: The channel path id of each of the 8 paths; for those not installed, None.
        scsw: The subchannel status word, 12 bytes as the channel subsystem made them.
        raw: The whole block, 52 bytes.
    """

    enabled: bool
    device_number: int | None
    interruption_parameter: int
    isc: int
    concurrent_sense: bool
    logical_paths: int
    installed_paths: int
    operational_paths: int
    available_paths: int
    not_operational_paths: int
    last_used_paths: int
    chpids: tuple[int | None, ...]
    scsw: bytes = field(repr=False)
    raw: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode the 52 bytes of a SCHIB."""
        schib = s390_cio.SCHIB.from_buffer_copy(data)
        pmcw = schib.pmcw
        return cls(
            enabled=bool(pmcw.flags & s390_cio.PMCW_FLAGS_MASK_ENA),
            device_number=pmcw.devno if pmcw.flags & s390_cio.PMCW_FLAGS_MASK_DNV else None,
            interruption_parameter=pmcw.intparm,
            isc=field_of(pmcw.flags, s390_cio.PMCW_FLAGS_MASK_ISC),
            concurrent_sense=bool(pmcw.chars & s390_cio.PMCW_CHARS_MASK_CSENSE),
            logical_paths=pmcw.lpm,
            installed_paths=pmcw.pim,
            operational_paths=pmcw.pom,
            available_paths=pmcw.pam,
            not_operational_paths=pmcw.pnom,
            last_used_paths=pmcw.lpum,
            chpids=tuple(
                chpid if pmcw.pim & 0x80 >> path else None for path, chpid in enumerate(pmcw.chpid)
            ),
            scsw=bytes(schib.scsw),
            raw=bytes(schib),
        )


@frozen
class ChannelReport:
    """A channel report word (CRW), decoded.

    Attributes:
        source: What reports: ``CRW_RSC_*``, such as ``CRW_RSC_CHP`` for a channel path.
        source_id: Which of them: a channel path id.
        code: What happened: ``CRW_ERC_*``, such as ``CRW_ERC_PERRN`` for "gone".
        solicited: True if an instruction asked for it.
        overflow: True if reports were lost.
        chained: True if the next report belongs to this one.
        ancillary: True if it adds to another report.
        raw: The word, 4 bytes.
    """

    source: int
    source_id: int
    code: int
    solicited: bool
    overflow: bool
    chained: bool
    ancillary: bool
    raw: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode the 4 bytes of a CRW."""
        crw = s390_cio.CRW.from_buffer_copy(data)
        return cls(
            source=field_of(crw.flags, s390_cio.CRW_FLAGS_MASK_RSC),
            source_id=crw.rsid,
            code=crw.flags & s390_cio.CRW_FLAGS_MASK_ERC,
            solicited=bool(crw.flags & s390_cio.CRW_FLAGS_MASK_S),
            overflow=bool(crw.flags & s390_cio.CRW_FLAGS_MASK_R),
            chained=bool(crw.flags & s390_cio.CRW_FLAGS_MASK_C),
            ancillary=bool(crw.flags & s390_cio.CRW_FLAGS_MASK_A),
            raw=bytes(crw),
        )


def field_of(value: int, mask: int) -> int:
    """The bits of `value` under `mask`, moved down to bit 0."""
    return (value & mask) // (mask & -mask)
