from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi import s390_cio as cio
from vfiocore_ccw.subchannel import ChannelReport, Subchannel, SubchannelId


def test_a_subchannel_is_named_by_image_set_and_number() -> None:
    assert SubchannelId.parse("0.1.0313") == SubchannelId(cssid=0, ssid=1, number=0x313)


@given(st.builds(SubchannelId, st.integers(0, 0xFF), st.integers(0, 3), st.integers(0, 0xFFFF)))
def test_a_subchannel_id_reads_back_its_own_name(subchannel: SubchannelId) -> None:
    assert SubchannelId.parse(str(subchannel)) == subchannel


@pytest.mark.parametrize("name", ["", "0.0", "0.4.0001", "0.0.12345", "matrix", "0.0.000g"])
def test_another_name_is_no_subchannel(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a subchannel"):
        SubchannelId.parse(name)


def test_the_information_block_is_decoded() -> None:
    raw = bytes.fromhex(
        "01020304 1881 1234 c0 01 80 c0 0000 ff 40 4041000000000000 00000001"  # PMCW
        "00804007 00001008 0c000000"  # SCSW
        "0000000000000000 00000000"  # measurement, model-dependent
    )
    found = Subchannel.from_bytes(raw)
    assert found.enabled
    assert found.device_number == 0x1234
    assert found.interruption_parameter == 0x01020304
    assert found.isc == 3
    assert found.concurrent_sense
    assert found.logical_paths == found.installed_paths == 0xC0
    assert (found.operational_paths, found.available_paths) == (0xFF, 0x40)
    assert (found.not_operational_paths, found.last_used_paths) == (0x01, 0x80)
    assert found.chpids == (0x40, 0x41, None, None, None, None, None, None)
    assert found.scsw == bytes.fromhex("00804007 00001008 0c000000")
    assert found.raw == raw


def test_a_device_number_that_is_not_valid_is_none() -> None:
    schib = cio.SCHIB(pmcw=cio.PMCW(devno=0x1234))
    assert Subchannel.from_bytes(bytes(schib)).device_number is None


def test_a_report_says_what_happened_to_which_path() -> None:
    report = ChannelReport.from_bytes(bytes.fromhex("5486 0021"))
    assert report.source == cio.CRW_RSC_CHP
    assert report.source_id == 0x21
    assert report.code == cio.CRW_ERC_PERRN
    assert (report.solicited, report.overflow, report.chained, report.ancillary) == (
        True,
        False,
        True,
        True,
    )
