"""Channel subsystem structures against z/Architecture: no header declares them, so by hand."""

from __future__ import annotations

import ctypes
import inspect
from typing import Any

import pytest

from vfiocore.uapi import s390_cio, vfio_ccw

SIZES = {"CCW0": 8, "CCW1": 8, "ORB": 12, "SCSW": 12, "IRB": 96, "PMCW": 28, "SCHIB": 52, "CRW": 4}

# Bits of a halfword from the most significant: name and width; None is unused or not named here.
SCSW_FLAGS = [
    ("KEY", 4), ("SCTL", 1), ("ESWF", 1), ("CC", 2), ("FMT", 1), ("PFCH", 1), ("ISIC", 1),
    ("ALCC", 1), ("SSI", 1), ("ZCC", 1), ("ECTL", 1), ("PNO", 1),
]  # fmt: skip
SCSW_CTRL = [(None, 1), ("FCTL", 3), ("ACTL", 7), ("STCTL", 5)]
ORB_CTRL0 = [
    ("KEY", 4), ("SPND", 1), ("STR", 1), ("MOD", 1), ("SYNC", 1), ("FMT", 1), ("PFCH", 1),
    ("ISIC", 1), ("ALCC", 1), ("SSIC", 1), (None, 1), ("C64", 1), ("I2K", 1),
]  # fmt: skip
CRW_FLAGS = [
    (None, 1), ("S", 1), ("R", 1), ("C", 1), ("RSC", 4), ("A", 1), (None, 1), ("ERC", 6),
]  # fmt: skip
PMCW_FLAGS = [
    ("QF", 1), ("W", 1), ("ISC", 3), (None, 3), ("ENA", 1), ("LM", 2), ("MME", 2), ("MP", 1),
    ("TF", 1), ("DNV", 1),
]  # fmt: skip


def declared_structs() -> dict[str, Any]:
    return {
        name: value
        for name, value in inspect.getmembers(s390_cio, inspect.isclass)
        if issubclass(value, ctypes.Structure)
    }


def test_every_structure_has_the_size_of_the_architecture() -> None:
    assert {name: ctypes.sizeof(kind) for name, kind in declared_structs().items()} == SIZES


def test_structures_fill_the_areas_of_the_vfio_regions() -> None:
    assert ctypes.sizeof(s390_cio.ORB) == vfio_ccw.ORB_AREA_SIZE
    assert ctypes.sizeof(s390_cio.SCSW) == vfio_ccw.SCSW_AREA_SIZE
    assert ctypes.sizeof(s390_cio.IRB) == vfio_ccw.IRB_AREA_SIZE
    assert ctypes.sizeof(s390_cio.SCHIB) == vfio_ccw.SCHIB_AREA_SIZE


@pytest.mark.parametrize(
    ("value", "image"),
    [
        (s390_cio.CCW0(0x02, 0x12, 0x3456, 0x40, 0, 0x0102), "02123456 40000102"),
        (s390_cio.CCW1(0x02, 0x40, 0x0102, 0x12345678), "02400102 12345678"),
        (s390_cio.ORB(0x01020304, 0x00C0, 0xFF, 0x80, 0x1000), "01020304 00c0ff80 00001000"),
        (s390_cio.SCSW(0x0080, 0x4007, 0x1008, 0x0C, 0x40, 7), "00804007 00001008 0c400007"),
        (s390_cio.CRW(0x0402, 0x0021), "04020021"),
        (
            s390_cio.PMCW(1, 0x0081, 0x1234, 0x80, 0x01, 0x02, 0x03, 0x0405, 0x06, 0x07),
            "00000001 00811234 80010203 04050607 00000000 00000000 00000000",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "image",
)
def test_structures_are_big_endian_in_memory(value: ctypes.Structure, image: str) -> None:
    assert bytes(value) == bytes.fromhex(image)


def test_an_irb_is_scsw_esw_ecw_emw() -> None:
    irb = s390_cio.IRB
    assert [getattr(irb, name).offset for name, *_ in irb._fields_] == [0, 12, 32, 64]


def test_a_schib_is_pmcw_scsw_mba_mda() -> None:
    schib = s390_cio.SCHIB
    assert [getattr(schib, name).offset for name, *_ in schib._fields_] == [0, 28, 40, 48]


@pytest.mark.parametrize(
    ("prefix", "layout"),
    [
        ("SCSW_FLAGS_MASK_", SCSW_FLAGS),
        ("SCSW_CTRL_MASK_", SCSW_CTRL),
        ("ORB_CTRL0_MASK_", ORB_CTRL0),
        ("CRW_FLAGS_MASK_", CRW_FLAGS),
        ("PMCW_FLAGS_MASK_", PMCW_FLAGS),
    ],
)
def test_masks_lie_where_the_architecture_puts_the_bits(
    prefix: str, layout: list[tuple[str | None, int]]
) -> None:
    expected = {}
    left = 16
    for name, width in layout:
        left -= width
        if name is not None:
            expected[prefix + name] = ((1 << width) - 1) << left
    assert left == 0
    assert {n: v for n, v in vars(s390_cio).items() if n.startswith(prefix)} == expected


@pytest.mark.parametrize(
    ("prefix", "mask", "names"),
    [
        ("SCSW_FCTL_", 0x7000, "START_FUNC HALT_FUNC CLEAR_FUNC"),
        (
            "SCSW_ACTL_",
            0x0FE0,
            "RESUME_PEND START_PEND HALT_PEND CLEAR_PEND SUBCH_ACTIVE DEVICE_ACTIVE SUSP",
        ),
        ("SCSW_STCTL_", 0x001F, "ALERT INTERMEDIATE PRIMARY SECONDARY STATUS_PEND"),
        (
            "SCSW_DSTAT_",
            0xFF,
            "ATTENTION STAT_MOD CU_END BUSY CHANNEL_END DEVICE_END UNIT_CHECK UNIT_EXCEP",
        ),
        (
            "SCSW_CSTAT_",
            0xFF,
            "PCI INCORR_LEN PROG_CHECK PROT_CHECK DATA_CHECK CHN_CTRL_CHK INTF_CTRL_CHK CHAIN_CHECK",
        ),
    ],
)
def test_control_and_status_bits_fill_their_field_from_the_left(
    prefix: str, mask: int, names: str
) -> None:
    bits = [1 << bit for bit in reversed(range(16)) if mask >> bit & 1]
    expected = {prefix + name: bit for name, bit in zip(names.split(), bits, strict=True)}
    assert {n: v for n, v in vars(s390_cio).items() if n.startswith(prefix)} == expected
