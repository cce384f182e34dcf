"""The source of the core and of every plugin, as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[2]
CORE = ROOT / "vfiocore"


@frozen
class Import:
    """One imported name: ``from vfiocore.host import POLLIN`` is module vfiocore.host, name POLLIN.

    Attributes:
        module: What is imported, absolute.
        name: What is taken from it, or None.
        typing: Only for type checkers.
        lazy: Inside a function.
    """

    module: str
    name: str | None
    typing: bool
    lazy: bool


@frozen
class Source:
    """One module."""

    path: Path
    name: str

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.path)

    @property
    def imports(self) -> tuple[Import, ...]:
        return _imports(self)

    @property
    def running_imports(self) -> list[Import]:
        return [item for item in self.imports if not item.typing]

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(source: Source) -> tuple[Import, ...]:
    return tuple(_walk(source.tree, source, typing=False, lazy=False))


def _walk(node: ast.AST, source: Source, *, typing: bool, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, None, typing, lazy)
        elif isinstance(child, ast.ImportFrom):
            module = _absolute(child, source)
            for alias in child.names:
                yield Import(module, alias.name, typing, lazy)
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for part in child.body:
                wrapped = ast.Module([part], [])
                yield from _walk(wrapped, source, typing=True, lazy=lazy)
            for part in child.orelse:
                yield from _walk(ast.Module([part], []), source, typing=typing, lazy=lazy)
        else:
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _walk(child, source, typing=typing, lazy=inside)


def _absolute(node: ast.ImportFrom, source: Source) -> str:
    if not node.level:
        return node.module or ""
    package = source.name if source.path.name == "__init__.py" else source.name.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _sources(base: Path, package: Path) -> list[Source]:
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(path, name))
    return found


def core() -> list[Source]:
    """Every module of the core."""
    return _sources(ROOT, CORE)


def plugins() -> dict[str, list[Source]]:
    """The modules of every plugin in this repository, by its package."""
    packages = [*ROOT.glob("plugins/*/vfiocore_*"), *ROOT.glob("plugins/devices/*/vfiocore_*")]
    return {
        package.name: _sources(package.parent, package)
        for package in sorted(packages)
        if (package / "__init__.py").exists()
    }


def everything() -> list[Source]:
    """Core and plugins."""
    return [*core(), *(source for sources in plugins().values() for source in sources)]
