from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi.s390_cio import (
    CCW_CMD_NOOP,
    CCW_CMD_SENSE_ID,
    CCW_CMD_TIC,
    CCW_FLAG_CC,
    CCW_FLAG_DC,
    CCW_FLAG_SLI,
)
from vfiocore_ccw.channel import CHAIN_LIMIT, Ccw, ChannelProgram, pack_idaws

CCWS = st.builds(
    Ccw,
    st.integers(0, 0xFF),
    st.integers(0, 0x7FFF_FFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFF),
)


def test_a_ccw_is_eight_big_endian_bytes() -> None:
    ccw = Ccw(CCW_CMD_SENSE_ID, 0x0012_3456, 20, CCW_FLAG_SLI)
    assert ccw.to_bytes() == bytes.fromhex("e4 20 0014 00123456")


@given(CCWS)
def test_a_ccw_is_read_back_as_it_was(ccw: Ccw) -> None:
    assert Ccw.from_bytes(ccw.to_bytes()) == ccw


@pytest.mark.parametrize(
    "fields",
    [
        {"command": 0x100},
        {"command": -1},
        {"command": 2, "address": 1 << 31},
        {"command": 2, "count": 0x1_0000},
        {"command": 2, "flags": 0x100},
    ],
)
def test_a_value_that_does_not_fit_its_field_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is below"):
        Ccw(**fields)


def test_a_piece_of_a_ccw_is_refused() -> None:
    with pytest.raises(ValueError, match="has 8 bytes, not 7"):
        Ccw.from_bytes(bytes(7))


def test_commands_are_chained_up_to_the_last() -> None:
    program = ChannelProgram().command(CCW_CMD_NOOP).command(CCW_CMD_NOOP).command(0x02, 0x1000, 8)
    flags = [ccw.flags for ccw in ChannelProgram.from_bytes(program.to_bytes())]
    assert flags == [CCW_FLAG_CC, CCW_FLAG_CC, 0]


def test_data_that_goes_on_elsewhere_is_chained_as_data() -> None:
    program = ChannelProgram().command(0x02, 0x1000, 8).data(0x5000, 16).command(CCW_CMD_NOOP)
    first, second, _ = ChannelProgram.from_bytes(program.to_bytes())
    assert first == Ccw(0x02, 0x1000, 8, CCW_FLAG_DC)
    assert second == Ccw(0x02, 0x5000, 16, CCW_FLAG_CC)


def test_data_without_a_command_before_it_is_refused() -> None:
    with pytest.raises(ValueError, match="follows a command"):
        ChannelProgram().data(0x1000, 8)


def test_data_after_a_jump_is_refused() -> None:
    with pytest.raises(ValueError, match="follows a command"):
        ChannelProgram().command(CCW_CMD_NOOP).jump(0x1000).data(0x1000, 8)


def test_a_jump_has_no_flags_and_what_is_before_it_chains_to_it() -> None:
    program = ChannelProgram().command(CCW_CMD_NOOP).jump(0x2000).command(CCW_CMD_NOOP)
    before, jump, _ = ChannelProgram.from_bytes(program.to_bytes())
    assert before.flags == CCW_FLAG_CC
    assert jump == Ccw(CCW_CMD_TIC, 0x2000)


def test_length_indication_is_suppressed_on_request() -> None:
    (ccw,) = ChannelProgram().command(0x02, 0x1000, 8, sli=True)
    assert ccw.flags == CCW_FLAG_SLI


def test_an_empty_program_is_refused() -> None:
    with pytest.raises(ValueError, match="not 0"):
        ChannelProgram().to_bytes()


def test_a_program_may_be_as_long_as_the_kernel_takes() -> None:
    program = ChannelProgram.of(*[Ccw(CCW_CMD_NOOP)] * CHAIN_LIMIT)
    assert len(program.to_bytes()) == CHAIN_LIMIT * 8


def test_a_longer_program_is_refused() -> None:
    program = ChannelProgram.of(*[Ccw(CCW_CMD_NOOP)] * (CHAIN_LIMIT + 1))
    with pytest.raises(ValueError, match="not 257"):
        program.to_bytes()


def test_a_last_ccw_that_chains_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="there is none"):
        ChannelProgram.of(Ccw(CCW_CMD_NOOP, flags=CCW_FLAG_CC)).to_bytes()


def test_indirect_addresses_are_big_endian_doublewords() -> None:
    assert pack_idaws([0x1_0000_0010, 0x2000]) == bytes.fromhex("0000000100000010 0000000000002000")
