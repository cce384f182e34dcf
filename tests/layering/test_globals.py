"""No global state: what a module has at its top is made when it is imported, and then only read."""

from __future__ import annotations

import ast
import enum
import importlib
import importlib.util
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from .source import Source, everything

CHANGES = {
    "add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "reverse",
    "setdefault", "sort", "update",
}  # fmt: skip
"""The methods by which a dict, a list or a set changes."""

CONSTANT = (
    bool, bytes, float, frozenset, int, range, str, enum.Enum, re.Pattern, type, typing.TypeVar,
    types.BuiltinFunctionType, types.FunctionType, types.GenericAlias, types.MappingProxyType,
    types.NoneType, types.UnionType,
)  # fmt: skip

MARKERS = ("HookspecMarker", "HookimplMarker")
"""pluggy's decorators: they have a project's name and nothing else."""


def is_constant(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(is_constant, value))
    if type(value).__module__ in {"typing", "_struct", "operator"}:
        return True
    return isinstance(value, CONSTANT) or type(value).__name__ in MARKERS or is_frozen(value)


def is_memo(value: object) -> bool:
    """A function that remembers its results, and has nothing but numbers and texts to go by."""
    if not hasattr(value, "cache_info"):
        return False
    parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]  # a function
    return all(parameter.annotation in {"bytes", "int", "str"} for parameter in parameters)


def is_frozen(value: object) -> bool:
    return hasattr(value, "__attrs_attrs__") and "frozen" in type(value).__setattr__.__name__


def is_table(value: object) -> bool:
    """A container that could be changed, of things that could not."""
    if isinstance(value, Mapping):
        return all(is_constant(item) or is_table(item) for item in value.values())
    return isinstance(value, list | set) and all(map(is_constant, value))


# -- what there is ---------------------------------------------------------------------------------
def assigned(source: Source) -> Iterator[str]:
    """The names that the statements of a module give a value, but not those it imports."""
    for statement in source.tree.body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def globals_of(source: Source) -> Iterator[tuple[str, Any]]:
    """What a module and the classes in it have, each with its name."""
    try:
        module = importlib.import_module(source.name)
    except ModuleNotFoundError as error:
        if importlib.util.find_spec(str(error.name).partition(".")[0]):
            raise
        return  # it needs an extra, or a plugin, that is not installed
    for name in assigned(source):
        if not name.startswith("__") and name in vars(module):
            yield name, vars(module)[name]
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != source.name:
            continue
        if hasattr(value, "cache_info"):
            yield name, value
        if isinstance(value, type) and "_fields_" not in vars(value):  # ctypes' own
            yield from attributes_of(value)


def attributes_of(class_: type) -> Iterator[tuple[str, Any]]:
    """The containers and caches that all objects of a class share."""
    for name, value in vars(class_).items():
        if name.startswith("_"):
            continue
        if isinstance(value, dict | list | set | bytearray) or hasattr(value, "cache_info"):
            yield f"{class_.__name__}.{name}", value


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Every global that is no constant, by its full name."""
    return {
        f"{source.name}.{name}": value
        for source in everything()
        for name, value in globals_of(source)
        if not is_constant(value) and not is_memo(value)
    }


# -- the rules -------------------------------------------------------------------------------------
def test_a_global_is_a_constant_or_a_table_of_constants(found: dict[str, Any]) -> None:
    others = {name: value for name, value in found.items() if not is_table(value)}
    assert sorted(others) == []


def test_nothing_writes_to_a_table(found: dict[str, Any]) -> None:
    tables = {name.rpartition(".")[2] for name in found}
    written = [
        f"{source.where}:{line} changes {name}"
        for source in everything()
        for name, line in writes(source.tree)
        if name in tables
    ]
    assert written == []


def test_no_function_declares_a_global() -> None:
    assert [
        f"{source.where}:{node.lineno}"
        for source in everything()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Global)
    ] == []


def writes(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Where something is changed in place, with the last part of its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield last_part(node.value), node.lineno
        elif isinstance(node, ast.AugAssign):
            yield last_part(node.target), node.lineno
        elif isinstance(node, ast.Call) and isinstance(method := node.func, ast.Attribute):
            if method.attr not in CHANGES:
                continue
            yield last_part(method.value), node.lineno


def last_part(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
