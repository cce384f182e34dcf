"""A configuration as TOML.

::

    host = "sim"

    [plugins]
    block = ["some-plugin"]

    [[object]]
    type = "iommufd"
    id = "iommufd0"

    [[device]]
    type = "vfio-pci"
    host = "0000:02:00.0"
    iommufd = "iommufd0"

``qom-type`` and ``driver`` are understood for ``type`` too.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from vfiocore.config._words import shown, suggestion
from vfiocore.config.model import Config, Device, Item, Object, PluginFilter
from vfiocore.errors import ConfigError, Problem

TOP_LEVEL = ("host", "plugins", "object", "device")
FILTER_KEYS = ("allow", "block")

_POSITION = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


def load_toml(text: str, where: str = "config.toml") -> Config:
    """Read a configuration from text.

    Args:
        text: The document.
        where: What messages call it.

    Raises:
        ConfigError: It is not TOML (with line and column), or not shaped as a configuration.
    """
    config, problems = read_toml(text, where)
    if problems:
        raise ConfigError(problems)
    return config


def load_file(path: str | os.PathLike[str]) -> Config:
    """Read a configuration from a file.

    Raises:
        ConfigError: As for `load_toml`, or the file cannot be read.
    """
    config, problems = read_file(path)
    if problems:
        raise ConfigError(problems)
    return config


def read_file(path: str | os.PathLike[str]) -> tuple[Config, tuple[Problem, ...]]:
    """As `read_toml`, for a file."""
    where = os.fspath(path)
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        return Config(), (Problem(where, f"it cannot be read: {error.strerror}"),)
    except UnicodeDecodeError as error:
        return Config(), (Problem(where, f"it is not UTF-8, at byte {error.start}"),)
    except ValueError as error:  # a NUL in the path
        return Config(), (Problem(where, f"it cannot be read: {error}"),)
    return read_toml(text, where)


def read_toml(text: str, where: str = "config.toml") -> tuple[Config, tuple[Problem, ...]]:
    """Read as much as can be read, and what is wrong with the rest.

    For whoever has more to read and wants all problems at once: see `vfiocore.config.validate`.
    """
    try:
        document = tomllib.loads(text)
    except RecursionError:
        return Config(), (Problem(where, "it is nested too deeply"),)
    except ValueError as error:  # TOMLDecodeError, or an integer too long for int()
        return Config(), (_syntax_problem(str(error), text, where),)
    reader = _Reader(where)
    return reader.config(document), tuple(reader.problems)


def _syntax_problem(message: str, text: str, where: str) -> Problem:
    found = _POSITION.search(message)
    if found is None:
        return Problem(where, f"not TOML: {message}")
    line, column = found["line"], found["column"]
    if line is None:
        last = text.rpartition("\n")[2]
        line, column = str(text.count("\n") + 1), str(len(last) + 1)
    return Problem(f"{where}:{line}:{column}", f"not TOML: {message[: found.start()]}")


@define
class _Reader:
    """Makes the model from a document and remembers what did not fit."""

    where: str
    problems: list[Problem] = field(factory=list)

    def config(self, document: Mapping[str, Any]) -> Config:
        self._report_unknown("", document, TOP_LEVEL)
        return Config(
            tuple(
                Object(type_name, id_ or "", properties, where)
                for type_name, id_, properties, where in self._items(document, Object)
            ),
            tuple(
                Device(type_name, id_, properties, where)
                for type_name, id_, properties, where in self._items(document, Device)
            ),
            self._string(document, "host", "host"),
            self._plugins(document.get("plugins", {})),
        )

    def _items(
        self, document: Mapping[str, Any], kind: type[Item[Any]]
    ) -> Iterator[tuple[str, str | None, dict[str, Any], str]]:
        tables = document.get(kind.kind, [])
        if not isinstance(tables, list):
            self._report(kind.kind, "it is not an array of tables", f"write [[{kind.kind}]]")
            return
        for index, table in enumerate(tables):
            path = f"{kind.kind}[{index}]"
            if isinstance(table, dict):
                yield self._item(table, path, kind)
            else:
                self._report(path, f"{shown(table)} is not a table", f"write [[{kind.kind}]]")

    def _item(
        self, table: Mapping[str, Any], path: str, kind: type[Item[Any]]
    ) -> tuple[str, str | None, dict[str, Any], str]:
        type_keys = [key for key in kind.type_keys if key in table]
        if len(type_keys) > 1:
            self._report(path, f"it has both {' and '.join(type_keys)}", "they mean the same")
        type_name = self._string(table, type_keys[0], f"{path}.{type_keys[0]}") if type_keys else ""
        id_ = self._string(table, "id", f"{path}.id")
        properties = {key: table[key] for key in table if key not in ("id", *type_keys)}
        return type_name or "", id_, properties, f"{self.where}: {path}"

    def _plugins(self, table: object) -> PluginFilter:
        if not isinstance(table, dict):
            self._report("plugins", f"{shown(table)} is not a table", "write [plugins]")
            return PluginFilter()
        self._report_unknown("plugins.", table, FILTER_KEYS)
        allow = self._names(table["allow"], "plugins.allow") if "allow" in table else None
        return PluginFilter(allow, self._names(table.get("block", []), "plugins.block"))

    def _names(self, value: object, path: str) -> tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return tuple(value)
        self._report(path, f"{shown(value)} is not a list of names")
        return ()

    def _string(self, table: Mapping[str, Any], key: str, path: str) -> str | None:
        value = table.get(key)
        if value is None or isinstance(value, str):
            return value
        self._report(path, f"{shown(value)} is not a string")
        return None

    def _report_unknown(self, prefix: str, keys: Iterable[str], known: Iterable[str]) -> None:
        for key in keys:
            if key not in known:
                self._report(prefix + key, "unknown key", suggestion(key, known, "known"))

    def _report(self, path: str, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(f"{self.where}: {path}", message, hint))
