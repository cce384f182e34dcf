"""QEMU's option strings: ``-object iommufd,id=iommufd0 -device vfio-pci,host=0000:02:00.0``.

The grammar::

    options = [type-key "="] type *( "," key [ "=" value ] )

A comma within a value is doubled. A key without ``=`` is on. The type comes first and without its
key (``qom-type`` for objects, ``driver`` for devices), or anywhere with it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vfiocore.config._words import shown, suggestion
from vfiocore.config.model import Config, Device, Item, Object
from vfiocore.errors import ConfigError, Problem

_KEY = re.compile(r"[^=,]*")
_VALUE = re.compile(r"(?:[^,]|,,)*")
_SWITCHES = {"-object": "object", "--object": "object", "-device": "device", "--device": "device"}


class _Option(NamedTuple):
    """One ``key=value``; `value` is None for a key alone, `position` counts characters from 1."""

    key: str
    value: str | None
    position: int


def parse_object(text: str, where: str = "-object") -> Object:
    """Read the option string of an object: ``iommufd,id=iommufd0,fd=22``.

    Args:
        text: What follows ``-object``.
        where: What messages call it.

    Raises:
        ConfigError: The text is not an option string; all that is wrong, with positions. An id
            or a type that is missing is for validation to report.
    """
    item, problems = _read_object(text, where)
    _raise(problems)
    return item


def parse_device(text: str, where: str = "-device") -> Device:
    """Read the option string of a device: ``vfio-pci,host=0000:02:00.0,iommufd=iommufd0``.

    Args:
        text: What follows ``-device``.
        where: What messages call it.

    Raises:
        ConfigError: As for `parse_object`.
    """
    item, problems = _read_device(text, where)
    _raise(problems)
    return item


def parse_options(objects: Iterable[str] = (), devices: Iterable[str] = ()) -> Config:
    """Read many option strings, which messages call ``-object #1``, ``-device #2``.

    Raises:
        ConfigError: All that is wrong in all of them.
    """
    config, problems = read_options(objects, devices)
    _raise(problems)
    return config


def read_options(
    objects: Iterable[str] = (), devices: Iterable[str] = ()
) -> tuple[Config, tuple[Problem, ...]]:
    """Read as much as can be read, and what is wrong with the rest.

    For whoever has more to read and wants all problems at once: see `vfiocore.config.validate`.
    """
    read_objects = [_read_object(text, f"-object #{n}") for n, text in enumerate(objects, 1)]
    read_devices = [_read_device(text, f"-device #{n}") for n, text in enumerate(devices, 1)]
    config = Config(
        tuple(item for item, _ in read_objects), tuple(item for item, _ in read_devices)
    )
    problems = [found for _, found in read_objects] + [found for _, found in read_devices]
    return config, tuple(problem for found in problems for problem in found)


def parse_command_line(line: str | Sequence[str]) -> Config:
    """Read ``-object`` and ``-device`` switches, from one line in shell quoting or from words.

    Raises:
        ConfigError: All that is wrong, other switches among it.
    """
    config, problems = read_command_line(line)
    _raise(problems)
    return config


def read_command_line(line: str | Sequence[str]) -> tuple[Config, tuple[Problem, ...]]:
    """As `read_options`, for a command line."""
    try:
        words = shlex.split(line) if isinstance(line, str) else list(line)
    except ValueError as error:
        return Config(), (Problem("command line", f"{error}".lower()),)
    texts: dict[str, list[str]] = {"object": [], "device": []}
    problems = []
    remaining = iter(words)
    for word in remaining:
        kind = _SWITCHES.get(word)
        if kind is None:
            hint = suggestion(word, _SWITCHES, "allowed")
            problems.append(Problem("command line", f"{shown(word)} is not known here", hint))
            continue
        text = next(remaining, None)
        if text is None:
            problems.append(Problem("command line", f"an option string has to follow {word}"))
            continue
        texts[kind].append(text)
    config, found = read_options(texts["object"], texts["device"])
    return config, (*problems, *found)


def to_options(item: Object | Device) -> str:
    """Write an item as the option string that reads back as it: the type, the id, the rest.

    Properties that are None are left out. Typed values are written as text, so that what reads
    back is equal after validation.

    Raises:
        ConfigError: A property has a name or a value that no option string can express.
    """
    problems = tuple(_inexpressible(item))
    _raise(problems)
    options = [_escaped(item.type)]
    if "=" in item.type or not item.type:
        options = [f"{item.type_keys[0]}={_escaped(item.type)}"]
    if item.id is not None:
        options.append(f"id={_escaped(item.id)}")
    for name, value in item.properties.items():
        if value is not None:
            options.append(f"{name}={_escaped(_as_text(value))}")
    return ",".join(options)


def _read_object(text: str, where: str) -> tuple[Object, list[Problem]]:
    type_name, id_, properties, problems = _read(text, where, Object)
    return Object(type_name, id_ or "", properties, where), problems


def _read_device(text: str, where: str) -> tuple[Device, list[Problem]]:
    type_name, id_, properties, problems = _read(text, where, Device)
    return Device(type_name, id_, properties, where), problems


def _read(
    text: str, where: str, kind: type[Item[Any]]
) -> tuple[str, str | None, dict[str, str], list[Problem]]:
    """Sort the options into type, id and properties; what is given twice counts once."""
    type_name, id_ = "", None
    properties: dict[str, str] = {}
    problems = []
    seen: dict[str, int] = {}
    for option in _split(text, kind.type_keys[0]):
        key = kind.type_keys[0] if option.key in kind.type_keys else option.key
        if not key:
            problems.append(_empty_key(where, option))
            continue
        if key in seen:
            message = f"{shown(option.key)} is given twice, at characters {seen[key]} and"
            problems.append(Problem(where, f"{message} {option.position}"))
            continue
        seen[key] = option.position
        if option.value is None and key in ("id", kind.type_keys[0]):
            problems.append(Problem(where, f"{key} at character {option.position} has no value"))
        elif key == "id":
            id_ = option.value
        elif key == kind.type_keys[0]:
            type_name = option.value or ""
        else:
            properties[key] = "on" if option.value is None else option.value
    return type_name, id_, properties, problems


def _split(text: str, implied_key: str) -> Iterator[_Option]:
    """Cut at single commas. A first option without ``=`` is the value of the implied key."""
    at = 0
    while True:
        start = at
        at = _end(_KEY, text, start)
        key = text[start:at]
        if text[at : at + 1] == "=":
            begin, at = at + 1, _end(_VALUE, text, at + 1)
            yield _Option(key, _unescaped(text[begin:at]), start + 1)
        elif start == 0:
            at = _end(_VALUE, text, 0)
            yield _Option(implied_key, _unescaped(text[:at]), 1)
        else:
            yield _Option(key, None, start + 1)
        if at == len(text):
            return
        at += 1


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where the pattern, which matches anywhere, stops matching."""
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _empty_key(where: str, option: _Option) -> Problem:
    hint = "a comma within a value is doubled" if option.value is None else None
    return Problem(where, f"a key is missing at character {option.position}", hint)


def _inexpressible(item: Object | Device) -> Iterator[Problem]:
    reserved = ("id", *item.type_keys)
    for name, value in item.properties.items():
        if not name or "=" in name or "," in name or name in reserved:
            yield Problem(item.label, f"{shown(name)} cannot be a key of an option string")
        if isinstance(value, Mapping | list | tuple | set | frozenset | bytes):
            kind = type(value).__name__
            yield Problem(item.at(name), f"a {kind} cannot be written in an option string")


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _unescaped(text: str) -> str:
    return text.replace(",,", ",")


def _escaped(text: str) -> str:
    return text.replace(",", ",,")


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise ConfigError(problems)
