from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.config import (
    BOOL,
    CHOICE,
    DEVICE_NAME,
    FD,
    LINK,
    ON_OFF_AUTO,
    PATH,
    PCI_ADDRESS,
    SIZE,
    STRING,
    UINT,
    UUID,
    FdRef,
    OnOffAuto,
    PropertyType,
    UInt,
    ValueType,
)

ALL_TYPES: list[PropertyType] = [
    BOOL, CHOICE("off", "auto"), DEVICE_NAME, FD, LINK("iommufd"), ON_OFF_AUTO, PATH, PCI_ADDRESS,
    SIZE, STRING, UINT, UInt(0xFFFF), UUID,
]  # fmt: skip

TOKEN = "2f1b7a9c-0b1e-4c57-9a3f-0d5c6d1e2f30"

ACCEPTED: list[tuple[PropertyType, object, Any]] = [
    (STRING, "", ""),
    (BOOL, "on", True),
    (BOOL, "yes", True),
    (BOOL, "true", True),
    (BOOL, "y", True),
    (BOOL, True, True),
    (BOOL, "off", False),
    (BOOL, "no", False),
    (BOOL, "false", False),
    (BOOL, "n", False),
    (BOOL, False, False),
    (ON_OFF_AUTO, "auto", OnOffAuto.AUTO),
    (ON_OFF_AUTO, "on", OnOffAuto.ON),
    (ON_OFF_AUTO, True, OnOffAuto.ON),
    (ON_OFF_AUTO, False, OnOffAuto.OFF),
    (UINT, "0", 0),
    (UINT, "1100", 1100),
    (UINT, "0x10", 16),
    (UINT, "0XfF", 255),
    (UINT, 7, 7),
    (UINT, "18446744073709551615", 2**64 - 1),
    (UInt(0xFFFF), "0xffff", 0xFFFF),
    (SIZE, "4096", 4096),
    (SIZE, "0x1000", 4096),
    (SIZE, "12B", 12),
    (SIZE, "4k", 4096),
    (SIZE, "2M", 2 * 2**20),
    (SIZE, "1.5G", 3 * 2**29),
    (SIZE, "1T", 2**40),
    (SIZE, "1P", 2**50),
    (SIZE, "15E", 15 * 2**60),
    (SIZE, 65536, 65536),
    (UUID, TOKEN, uuid.UUID(TOKEN)),
    (UUID, TOKEN.upper(), uuid.UUID(TOKEN)),
    (FD, "23", FdRef(number=23)),
    (FD, 0, FdRef(number=0)),
    (FD, "nic-cdev", FdRef(name="nic-cdev")),
    (PCI_ADDRESS, "0000:02:00.0", "0000:02:00.0"),
    (PCI_ADDRESS, "02:00.0", "0000:02:00.0"),
    (PCI_ADDRESS, "2:1f.7", "0000:02:1f.7"),
    (PCI_ADDRESS, "ABCD:EF:1A.3", "abcd:ef:1a.3"),
    (PCI_ADDRESS, "10000:E1:00.0", "10000:e1:00.0"),  # a domain behind Intel VMD has five digits
    (DEVICE_NAME, "fff51000.ethernet", "fff51000.ethernet"),
    (PATH, "/sys/bus/mdev/devices/x", "/sys/bus/mdev/devices/x"),
    (PATH, Path("/sys/x"), "/sys/x"),
    (LINK("iommufd"), "iommufd0", "iommufd0"),
    (CHOICE("off", "auto"), "auto", "auto"),
]

REFUSED: list[tuple[PropertyType, object, str]] = [
    (STRING, 5, "5 is not a string"),
    (BOOL, "ON", '"ON" is not a switch'),
    (BOOL, 1, "1 is not a switch"),
    (ON_OFF_AUTO, "yes", '"yes" is not a switch'),
    (ON_OFF_AUTO, 1, "1 is not a switch"),
    (UINT, "-1", '"-1" is not an integer'),
    (UINT, -1, "-1 is negative"),
    (UINT, "010", '"010" is ambiguous: leave out the leading zeros'),
    (UINT, True, "True is not an integer"),
    (UINT, 1.0, "1.0 is not an integer"),
    (UINT, "", '"" is not an integer'),
    (UINT, "0x", '"0x" is not an integer'),
    (UINT, "1_000", '"1_000" is not an integer'),
    (UINT, "\u0661", '"\u0661" is not an integer'),
    (UINT, 2**64, "18446744073709551616 is over 0xffffffffffffffff"),
    (UInt(0xFFFF), 0x10000, "65536 is over 0xffff"),
    (SIZE, "1.5", '"1.5" is not an integer'),
    (SIZE, "0.3B", '"0.3B" is not a whole number of bytes'),
    (SIZE, "16E", "18446744073709551616 is over 0xffffffffffffffff"),
    (SIZE, "4KiB", '"4KiB" is not an integer'),
    (SIZE, -4096, "-4096 is negative"),
    (UUID, "2f1b7a9c", '"2f1b7a9c" is not a UUID'),
    (FD, "22x", '"22x" is not an integer'),
    (FD, "-1", '"-1" is neither a number nor a name'),
    (FD, -1, "-1 is negative"),
    (FD, True, "True is not an integer"),
    (FD, 2**31, "2147483648 is over 0x7fffffff"),
    (FD, "", "it is empty"),
    (PCI_ADDRESS, "0000:02:20.0", '"0000:02:20.0": slot 0x20 is over 0x1f'),
    (PCI_ADDRESS, "0000:02:00.8", '"0000:02:00.8": function 8 is over 7'),
    (PCI_ADDRESS, "0000:02:00", '"0000:02:00" is not a PCI address'),
    (PCI_ADDRESS, "0000:02:00.0 ", '"0000:02:00.0 " is not a PCI address'),
    (PCI_ADDRESS, "0000:102:00.0", '"0000:102:00.0" is not a PCI address'),
    (DEVICE_NAME, "a/b", '"a/b" has a "/": a path goes into sysfsdev'),
    (DEVICE_NAME, "..", '".." cannot be the name of a device'),
    (DEVICE_NAME, "", '"" cannot be the name of a device'),
    (PATH, "sys/x", '"sys/x" does not start with /'),
    (PATH, "/sys/\0", r'"/sys/\x00" has a NUL in it'),
    (LINK("iommufd"), 0, "0 is not a string"),
    (CHOICE("off", "auto"), "autp", '"autp" is not among the choices; did you mean "auto"?'),
    (CHOICE("off", "auto"), "zzz", '"zzz" is not among the choices'),
]  # fmt: skip

ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.integers())
    | st.from_regex(r"[0-9a-fx:.]{0,14}[BKMGTPE]?")
)


@pytest.mark.parametrize(("kind", "written", "typed"), ACCEPTED)
def test_a_value_is_read(kind: PropertyType, written: object, typed: object) -> None:
    parsed = kind.parse(written)

    assert parsed == typed
    assert type(parsed) is type(typed)


@pytest.mark.parametrize(("kind", "written", "reason"), REFUSED)
def test_a_value_is_refused_with_the_reason(
    kind: PropertyType, written: object, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        kind.parse(written)


@pytest.mark.parametrize("kind", ALL_TYPES, ids=lambda kind: kind.name)
@given(written=ANYTHING)
def test_any_value_is_read_or_is_a_value_error_and_reads_the_same_again(
    kind: PropertyType, written: object
) -> None:
    try:
        typed = kind.parse(written)
    except ValueError:
        return
    assert kind.parse(typed) == typed


@pytest.mark.parametrize("kind", ALL_TYPES, ids=lambda kind: kind.name)
def test_a_type_says_what_it_allows(kind: PropertyType) -> None:
    assert kind.name
    assert kind.describe()


@given(
    domain=st.integers(0, 0xFFFFFFFF),
    bus=st.integers(0, 0xFF),
    slot=st.integers(0, 0x1F),
    function=st.integers(0, 7),
)
def test_every_pci_address_reads_as_sysfs_spells_it(
    domain: int, bus: int, slot: int, function: int
) -> None:
    canonical = f"{domain:04x}:{bus:02x}:{slot:02x}.{function}"

    assert PCI_ADDRESS.parse(f"{domain:X}:{bus:X}:{slot:X}.{function}") == canonical


@given(size=st.integers(0, 15), suffix=st.sampled_from("BKMGTPE"))
def test_size_suffixes_are_binary_in_either_case(size: int, suffix: str) -> None:
    expected = size * 2 ** (10 * "BKMGTPE".index(suffix))

    assert SIZE.parse(f"{size}{suffix}") == SIZE.parse(f"{size}{suffix.lower()}") == expected


def test_a_value_too_long_to_print_is_still_refused_in_words() -> None:
    with pytest.raises(ValueError, match="a huge int is over"):
        UINT.parse(10**5000)


def test_an_fd_reference_has_either_a_number_or_a_name() -> None:
    with pytest.raises(ValueError, match="either a number or a name"):
        FdRef()
    with pytest.raises(ValueError, match="either a number or a name"):
        FdRef(number=3, name="x")


def test_a_third_party_makes_its_own_type_from_a_function() -> None:
    def even(value: object) -> int:
        number = int(str(value))
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number

    kind: PropertyType = ValueType("even", "an even number", even)

    assert kind.parse("4") == 4
    assert kind.describe() == "an even number"


def test_an_unsigned_type_is_named_after_its_width() -> None:
    assert UINT.name == "uint64"
    assert UInt(0xFFFF).name == "uint16"
    assert UInt(100).name == "uint up to 100"
