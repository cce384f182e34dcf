"""Every hint that the code can give, read from its sources; ``…`` stands for what is known then."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TypeAlias

from attrs import define, field, frozen

from _ext import kinds
from _ext.tables import code, table
from vfiocore import errors

UNKNOWN = "…"
HINT_POSITION = 4
"""Of the arguments of an error: errno, operation, subject, detail, hint."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.KernelError)
}


@frozen(order=True)
class Hint:
    """One hint.

    Attributes:
        package: Who gives it.
        operation: What was asked.
        exception: What is raised; empty where the errno decides.
        text: What the user is told.
    """

    package: str
    operation: str
    exception: str
    text: str


def hints() -> str:
    """A table for each package that gives hints."""
    found = sorted({hint for module in kinds.modules() for hint in hints_of(module)})
    parts = []
    for package in kinds.PACKAGES:
        rows = [_cells(hint) for hint in found if hint.package == package]
        if rows:
            name = package.replace("_", "-")
            parts.append(f"### {name}\n\n{table(('operation', 'exception', 'hint'), rows)}")
    return "\n\n".join(parts)


def hints_of(module: ModuleType) -> Iterator[Hint]:
    """The hints that are given in one module."""
    package = module.__name__.partition(".")[0]
    tree = ast.parse(inspect.getsource(module))
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    positions = {item.name: place for item in functions if (place := _hint_position(item))}
    for function in functions:
        scope = _Scope(module, function)
        for call in _calls(function):
            hint = _hint_argument(call, positions)
            if hint is None:
                continue
            exception = _name(call.func) if _name(call.func) in ERRORS else ""
            operations = scope.texts(_operation(call)) or [UNKNOWN]
            for text, operation in itertools.product(_whole(scope.texts(hint)), operations):
                yield Hint(package, operation, exception, text)
    for call in _calls(tree):
        for item in call.keywords:
            # The core makes one hint of this and of what is missing (plan.py).
            if _name(call.func) == "Backend" and item.arg == "advice":
                yield Hint(package, "open", "HostUnsupportedError", ast.literal_eval(item.value))


def _whole(texts: Sequence[str]) -> list[str]:
    """Without those that are only the beginning of another: it was put together in steps."""
    return [
        text
        for text in texts
        if not any(other != text and other.startswith(text) for other in texts)
    ]


def _cells(hint: Hint) -> Sequence[str]:
    operation = "" if hint.operation == UNKNOWN else code(hint.operation)
    return operation, code(hint.exception) or "by errno", hint.text


# -- calls -----------------------------------------------------------------------------------------
def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    return [item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _hint_position(function: Function) -> int | None:
    """Where a function takes a hint that it passes on."""
    names = _parameters(function)
    return names.index("hint") if "hint" in names else None


def _hint_argument(call: ast.Call, positions: Mapping[str, int]) -> ast.expr | None:
    named = next((item.value for item in call.keywords if item.arg == "hint"), None)
    if named is not None:
        return named
    # What is called by no name makes an error of a table: KINDS.get(number, DmaError)(...).
    name = _name(call.func)
    makes_error = name in ERRORS | {"kind"} or isinstance(call.func, ast.Call)
    position = HINT_POSITION if makes_error else positions.get(name, len(call.args))
    return call.args[position] if len(call.args) > position else None


def _operation(call: ast.Call) -> ast.expr:
    named = next((item.value for item in call.keywords if item.arg == "operation"), None)
    return named or (call.args[1] if len(call.args) > 1 else ast.Constant(None))


# -- what an expression can be ---------------------------------------------------------------------
@define
class _Scope:
    """The texts that an expression of a function can be."""

    module: ModuleType
    function: Function
    _seen: set[str] = field(factory=set)

    def texts(self, node: ast.expr) -> list[str]:
        """None of them for None; ``…`` for what only a run can tell."""
        match node:
            case ast.Constant(value=str() as text):
                return [text]
            case ast.Constant(value=None):
                return []
            case ast.JoinedStr(values=parts):
                return self._joined(parts)
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                pairs = itertools.product(self.texts(left), self.texts(right))
                return [first + second for first, second in pairs]
            case ast.IfExp(body=body, orelse=other):
                return [*self.texts(body), *self.texts(other)]
            case ast.Name(id=name):
                return self._named(name)
            case ast.Call():
                return self._called(node)
        return [UNKNOWN]

    def _joined(self, parts: Sequence[ast.expr]) -> list[str]:
        choices = [
            self.texts(part.value)[:1] or [UNKNOWN]
            if isinstance(part, ast.FormattedValue)
            else self.texts(part)
            for part in parts
        ]
        return ["".join(choice) for choice in itertools.product(*choices)]

    def _named(self, name: str) -> list[str]:
        if name == "hint" and name in _parameters(self.function):
            return []  # who calls it has one
        assigned = list(self._assigned(name))
        if name in self._seen:  # hint = f"{hint} or ...": what it was before
            assigned = [value for value in assigned if not _mentions(value, name)]
        if assigned:
            added = {name} - self._seen
            self._seen |= added
            found = [text for value in assigned for text in self.texts(value)]
            self._seen -= added
            return found
        value = vars(self.module).get(name)
        if isinstance(value, Mapping):
            return list(value.values())
        return [value] if isinstance(value, str) else [UNKNOWN]

    def _assigned(self, name: str) -> Iterator[ast.expr]:
        for node in ast.walk(self.function):
            if not isinstance(node, ast.Assign):
                continue
            for target in node.targets:
                if _name(target) == name:
                    yield node.value
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=True)
                    yield from (value for each, value in pairs if _name(each) == name)

    def _called(self, call: ast.Call) -> list[str]:
        match call.func:
            case ast.Attribute(value=ast.Name(id=name), attr="get"):
                return self._named(name)  # a table, by errno
            case ast.Attribute(value=ast.Constant(value=str() as glue), attr="join"):
                return [glue.join(self._listed(call.args[0]))]
            case ast.Name(id=name):
                return self._returned(name)
        return [UNKNOWN]

    def _listed(self, node: ast.expr) -> list[str]:
        """The elements of a list that is made step by step."""
        if isinstance(node, ast.Call):  # filter(None, ways)
            return self._listed(node.args[-1])
        values = [value for value in self._assigned(_name(node)) if isinstance(value, ast.List)]
        items = [item for value in values for item in value.elts]
        for call in _calls(self.function):
            match call.func:
                case ast.Attribute(value=ast.Name(id=name), attr="append" | "insert"):
                    items += call.args[-1:] if name == _name(node) else []
        return [text for item in items for text in self.texts(item)]

    def _returned(self, name: str) -> list[str]:
        value = vars(self.module).get(name)
        if not inspect.isfunction(value):
            return [UNKNOWN]
        module = inspect.getmodule(value)
        assert module is not None
        tree = ast.parse(inspect.getsource(value)).body[0]
        assert isinstance(tree, Function)
        scope = _Scope(module, tree)
        returns = (node for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value)
        return [text for node in returns if node.value for text in scope.texts(node.value)]


def _mentions(node: ast.expr, name: str) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id == name for inner in ast.walk(node))
