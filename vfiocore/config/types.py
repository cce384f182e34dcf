"""What the value of a property may be, and how it is read.

A type reads what option strings (always text), TOML and Python give, and leaves its own results
as they are, so that a validated configuration can be validated again. A plugin may bring its own:
a `ValueType` around a function, or any object that is a `PropertyType`.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from enum import StrEnum
from fractions import Fraction
from typing import Any, Protocol

from attrs import field, frozen

from vfiocore.config._words import near_miss, shown

UINT64_MAX = 2**64 - 1
INT_MAX = 2**31 - 1

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0|[1-9][0-9]*")
_LEADING_ZERO = re.compile(r"0[0-9]+")  # QEMU reads 010 as octal, nearly everybody else not
_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<suffix>[BKMGTPE]?)", re.IGNORECASE)
_PCI_ADDRESS = re.compile(
    r"(?:(?P<domain>[0-9a-f]{1,8}):)?(?P<bus>[0-9a-f]{1,2}):(?P<slot>[0-9a-f]{1,2})\.(?P<fn>[0-9a-f])",
    re.IGNORECASE,
)


class PropertyType(Protocol):
    """What a property needs from its type."""

    @property
    def name(self) -> str:
        """The type in tables: ``size``, ``PCI address``."""

    def parse(self, value: object) -> Any:
        """The typed value; a value that is typed already comes back equal.

        Raises:
            ValueError: The value is not of this type; the text says why.
        """

    def describe(self) -> str:
        """What is allowed, to follow "expected" in a message."""


@frozen
class ValueType:
    """A type made from a function.

    Attributes:
        name: The type in tables.
        allowed: What is allowed, to follow "expected" in a message.
        parse: Reads a value, or raises ValueError with the reason.
    """

    name: str
    allowed: str
    parse: Callable[[object], Any]

    def describe(self) -> str:
        """What is allowed, to follow "expected" in a message."""
        return self.allowed


@frozen
class Link:
    """The id of an object of one type.

    Attributes:
        object_type: ``iommufd``.
    """

    object_type: str

    @property
    def name(self) -> str:
        """``link to iommufd``."""
        return f"link to {self.object_type}"

    def parse(self, value: object) -> str:
        """The id. Whether there is such an object is for validation to see."""
        return _text(value)

    def describe(self) -> str:
        """What is allowed, to follow "expected" in a message."""
        return f"the id of an object of type {self.object_type}"


@frozen(init=False)
class Choice:
    """One of a few words: ``Choice("off", "auto")``."""

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        self.__attrs_init__(values)

    @property
    def name(self) -> str:
        """``off|auto``."""
        return "|".join(self.values)

    def parse(self, value: object) -> str:
        """The word.

        Raises:
            ValueError: It is none of the words.
        """
        text = _text(value)
        if text in self.values:
            return text
        meant = near_miss(text, self.values)
        reason = f"{shown(text)} is not among the choices"
        raise ValueError(reason if meant is None else f'{reason}; did you mean "{meant}"?')

    def describe(self) -> str:
        """What is allowed, to follow "expected" in a message."""
        return "one of " + ", ".join(self.values)


@frozen
class UInt:
    """An unsigned integer, decimal or with ``0x``.

    Attributes:
        maximum: The largest allowed.
    """

    maximum: int = UINT64_MAX

    @property
    def name(self) -> str:
        """``uint16`` for a maximum of 0xffff."""
        bits = self.maximum.bit_length()
        return f"uint{bits}" if self.maximum == 2**bits - 1 else f"uint up to {self.maximum}"

    def parse(self, value: object) -> int:
        """The number.

        Raises:
            ValueError: It is no unsigned integer, or too large.
        """
        return _in_range(_integer(value), self.maximum)

    def describe(self) -> str:
        """What is allowed, to follow "expected" in a message."""
        return f"an integer from 0 to {self.maximum:#x}, decimal or with 0x"


class OnOffAuto(StrEnum):
    """A switch that may be left to the program."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"


@frozen
class FdRef:
    """A file descriptor that somebody else opened: by number, or by the name it was passed under.

    Attributes:
        number: The fd, at least 0.
        name: A name from LISTEN_FDNAMES, from a Unix socket, or registered by the embedder.
    """

    number: int | None = None
    name: str | None = field(default=None)

    @name.validator
    def _check_exactly_one(self, _attribute: object, name: str | None) -> None:
        if (self.number is None) == (name is None):
            raise ValueError("an fd has either a number or a name")

    def __str__(self) -> str:
        return str(self.number) if self.name is None else self.name


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{shown(value)} is not a string")


def _switch(value: object) -> bool:
    """QEMU's words for a boolean (qapi/qapi-util.c:qapi_bool_parse)."""
    if isinstance(value, bool):
        return value
    if value in ("on", "yes", "true", "y"):
        return True
    if value in ("off", "no", "false", "n"):
        return False
    raise ValueError(f"{shown(value)} is not a switch")


def _on_off_auto(value: object) -> OnOffAuto:
    if isinstance(value, bool):
        return OnOffAuto.ON if value else OnOffAuto.OFF
    if isinstance(value, str) and value in tuple(OnOffAuto):
        return OnOffAuto(value)
    raise ValueError(f"{shown(value)} is not a switch")


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value, 16 if value[:2] in ("0x", "0X") else 10)
    if isinstance(value, str) and _LEADING_ZERO.fullmatch(value):
        raise ValueError(f"{shown(value)} is ambiguous: leave out the leading zeros")
    raise ValueError(f"{shown(value)} is not an integer")


def _in_range(number: int, maximum: int) -> int:
    if number < 0:
        raise ValueError(f"{shown(number)} is negative")
    if number > maximum:
        raise ValueError(f"{shown(number)} is over {maximum:#x}")
    return number


def _size(value: object) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not match["suffix"]:
        return _in_range(_integer(value), UINT64_MAX)
    scale = 1024 ** "BKMGTPE".index(match["suffix"].upper())
    size = Fraction(match["number"]) * scale
    if size.denominator != 1:
        raise ValueError(f"{shown(value)} is not a whole number of bytes")
    return _in_range(int(size), UINT64_MAX)


def _uuid(value: object) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    text = _text(value)
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a UUID") from None


def _fd(value: object) -> FdRef:
    """QEMU's rule: a first digit makes it a number, anything else a name."""
    if isinstance(value, FdRef):
        return value
    if isinstance(value, int):
        return FdRef(number=_in_range(_integer(value), INT_MAX))
    text = _text(value)
    if text[:1].isdigit():
        return FdRef(number=_in_range(_integer(text), INT_MAX))
    if not text:
        raise ValueError("it is empty")
    if text.startswith("-"):
        raise ValueError(f"{shown(text)} is neither a number nor a name")
    return FdRef(name=text)


def _pci_address(value: object) -> str:
    text = _text(value)
    match = _PCI_ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is not a PCI address")
    domain, bus, slot, function = (int(part or "0", 16) for part in match.groups())
    if slot > 0x1F:
        raise ValueError(f"{shown(text)}: slot {slot:#x} is over 0x1f")
    if function > 7:
        raise ValueError(f"{shown(text)}: function {function} is over 7")
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function}"


def _device_name(value: object) -> str:
    text = _text(value)
    if "/" in text:
        raise ValueError(f'{shown(text)} has a "/": a path goes into sysfsdev')
    if text in ("", ".", "..") or "\0" in text:
        raise ValueError(f"{shown(text)} cannot be the name of a device")
    return text


def _path(value: object) -> str:
    text = _text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} does not start with /")
    if "\0" in text:
        raise ValueError(f"{shown(text)} has a NUL in it")
    return text


STRING = ValueType("string", "a string", _text)
"""Any text -> str."""

BOOL = ValueType("bool", "on or off, or yes, no, true, false, y, n", _switch)
"""QEMU's words for a boolean, or a real one -> bool."""

ON_OFF_AUTO = ValueType("on|off|auto", "on, off or auto", _on_off_auto)
"""on, off, auto, or a real boolean -> `OnOffAuto`."""

UINT = UInt()
"""A decimal or 0x number up to 64 bits -> int."""

SIZE = ValueType("size", "bytes, or a number with a binary suffix B, K, M, G, T, P or E", _size)
"""``2M``, ``1.5G``, ``0x1000`` -> int, in bytes."""

UUID = ValueType("UUID", "a UUID such as 2f1b7a9c-0b1e-4c57-9a3f-0d5c6d1e2f30", _uuid)
"""A UUID -> `uuid.UUID`."""

FD = ValueType("fd", "the number of an open file descriptor, or the name it was passed under", _fd)
"""``23`` or ``nic-cdev`` -> `FdRef`."""

PCI_ADDRESS = ValueType(
    "PCI address",
    "[domain:]bus:slot.function in hex, slot up to 1f, function up to 7",
    _pci_address,
)
"""``2:0.0`` -> ``0000:02:00.0``, as sysfs spells it."""

DEVICE_NAME = ValueType("device name", 'the name of a device on its bus, without "/"', _device_name)
"""``fff51000.ethernet`` -> str."""

PATH = ValueType("path", "an absolute path", _path)
"""``/sys/bus/mdev/devices/...`` -> str."""

LINK = Link
"""``LINK("iommufd")``: the id of an object of that type -> str."""

CHOICE = Choice
"""``CHOICE("off", "auto")``: one of the words -> str."""
