from __future__ import annotations

import pytest

from vfiocore_ccw.request import build_orb


def test_a_plain_start_is_format_1_with_prefetching_on_all_paths() -> None:
    assert build_orb(0x1000) == bytes.fromhex("00000000 00c0 ff 00 00001000")


def test_every_option_has_its_place() -> None:
    orb = build_orb(
        0x2008, key=5, format1=False, prefetch=False, intparm=0xCAFE, lpm=0x80, idaw64=True
    )
    assert orb == bytes.fromhex("0000cafe 5002 80 00 00002008")


@pytest.mark.parametrize("iova", [0x1004, 1 << 31, -8])
def test_a_program_that_the_channel_cannot_address_is_refused(iova: int) -> None:
    with pytest.raises(ValueError, match="has to lie below"):
        build_orb(iova)


def test_a_format_0_program_lies_below_16_mib() -> None:
    with pytest.raises(ValueError, match="below 0x1000000"):
        build_orb(1 << 24, format1=False)


def test_an_option_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="key has 4 bits"):
        build_orb(0x1000, key=16)
