from __future__ import annotations

import pytest

from vfiocore.uapi import s390_cio as cio
from vfiocore_ccw.completion import Completion

CE, DE, UC = cio.SCSW_DSTAT_CHANNEL_END, cio.SCSW_DSTAT_DEVICE_END, cio.SCSW_DSTAT_UNIT_CHECK
PENDING = cio.SCSW_STCTL_STATUS_PEND
PRIMARY, SECONDARY = cio.SCSW_STCTL_PRIMARY, cio.SCSW_STCTL_SECONDARY
ENDED = cio.SCSW_FCTL_START_FUNC | PENDING | PRIMARY | SECONDARY


def completion(
    ctrl: int = ENDED,
    *,
    dstat: int = CE | DE,
    cstat: int = 0,
    count: int = 0,
    cpa: int = 0x1008,
    flags: int = 0,
    lost: int = 0,
) -> Completion:
    scsw = cio.SCSW(flags=flags, ctrl=ctrl, cpa=cpa, dstat=dstat, cstat=cstat, count=count)
    return Completion.from_irb(bytes(cio.IRB(scsw=scsw)), lost)


def test_the_status_word_is_decoded() -> None:
    scsw = bytes.fromhex("00804007 00001010 0c40000d")
    found = Completion.from_irb(scsw + bytes(84))
    assert found.device_status == CE | DE
    assert found.subchannel_status == cio.SCSW_CSTAT_INCORR_LEN
    assert found.residual == 13
    assert found.cpa == 0x1010
    assert found.scsw == scsw
    assert found.irb == scsw + bytes(84)


def test_channel_end_and_device_end_are_fine() -> None:
    assert completion().ok
    assert completion().problems == ()


def test_a_program_controlled_interruption_is_no_problem() -> None:
    assert completion(cstat=cio.SCSW_CSTAT_PCI).ok


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({"dstat": CE | DE | UC}, "unit check"),
        ({"dstat": CE | DE | cio.SCSW_DSTAT_UNIT_EXCEP}, "unit exception"),
        ({"dstat": cio.SCSW_DSTAT_BUSY}, "busy"),
        ({"cstat": cio.SCSW_CSTAT_PROG_CHECK}, "program check"),
        ({"cstat": cio.SCSW_CSTAT_INCORR_LEN}, "incorrect length"),
        ({"flags": 0x0300}, "it was not started: no path is operational"),
    ],
)
def test_what_went_wrong_has_a_name(status: dict[str, int], problem: str) -> None:
    found = completion(**status)
    assert not found.ok
    assert found.problems == (problem,)


def test_sense_data_comes_as_long_as_the_report_word_says() -> None:
    irb = cio.IRB(scsw=cio.SCSW(ctrl=ENDED, dstat=CE | DE | UC))
    irb.esw[1] = 0x0102_0000  # concurrent sense, 2 bytes
    irb.ecw[:3] = b"\x80\x40\x20"
    assert Completion.from_irb(bytes(irb)).sense == b"\x80\x40"


def test_sense_data_of_no_known_length_comes_whole() -> None:
    irb = cio.IRB(scsw=cio.SCSW(ctrl=ENDED, dstat=CE | DE | UC))
    irb.esw[1] = 0x0100_0000  # concurrent sense
    irb.ecw[:1] = b"\x80"
    assert Completion.from_irb(bytes(irb)).sense == b"\x80" + bytes(31)


def test_without_concurrent_sense_there_is_no_sense_data() -> None:
    irb = cio.IRB(scsw=cio.SCSW(ctrl=ENDED, dstat=CE | DE | UC))
    irb.esw[1] = 0x0002_0000
    irb.ecw[:2] = b"\x80\x40"
    assert Completion.from_irb(bytes(irb)).sense == b""


def test_attention_is_unsolicited() -> None:
    alert = completion(PENDING | cio.SCSW_STCTL_ALERT, dstat=cio.SCSW_DSTAT_ATTENTION)
    assert not alert.solicited


def test_status_with_a_deferred_condition_is_of_the_program() -> None:
    assert completion(PENDING | cio.SCSW_STCTL_ALERT, flags=0x0100).solicited


@pytest.mark.parametrize("active", [cio.SCSW_ACTL_SUBCH_ACTIVE, cio.SCSW_ACTL_DEVICE_ACTIVE])
def test_a_program_that_is_still_active_has_not_ended(active: int) -> None:
    assert not completion(ENDED | active).final


def test_a_cleared_subchannel_is_done() -> None:
    cleared = completion(cio.SCSW_FCTL_CLEAR_FUNC | PENDING, dstat=0)
    assert cleared.final
    assert cleared.solicited
    assert cleared.ok


def test_channel_end_then_device_end_make_one_account() -> None:
    first = completion(
        PENDING | PRIMARY | cio.SCSW_ACTL_DEVICE_ACTIVE, dstat=CE, count=7, cpa=0x2000
    )
    second = completion(PENDING | SECONDARY, dstat=DE, count=0, cpa=0, lost=1)
    whole = first.followed_by(second)
    assert whole.device_status == CE | DE
    assert (whole.residual, whole.cpa) == (7, 0x2000)
    assert whole.final
    assert whole.lost == 1


def test_an_intermediate_status_is_replaced_by_the_primary_one() -> None:
    step = completion(PENDING | cio.SCSW_STCTL_INTERMEDIATE | cio.SCSW_ACTL_SUBCH_ACTIVE, dstat=0)
    end = completion(count=3)
    assert step.followed_by(end) == end
