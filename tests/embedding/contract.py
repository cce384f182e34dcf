"""What others may rely on: the public names of the core and of each plugin, with their signatures.

It is kept in ``contract/PACKAGE.txt``, so that a change shows as a change of that file. To accept one:

    python tests/embedding/contract.py
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).with_name("contract")

MODULES: Mapping[str, tuple[str, ...]] = {
    "vfiocore": (
        "", "access", "address_space", "bulk", "capabilities", "config", "config.model", "config.options",
        "config.schema", "config.selectors", "config.toml", "config.types", "config.validate",
        "container", "device", "dmabuf", "errors", "fds", "feature", "framework", "hookspecs", "host",
        "host.linux", "host.protocol", "host.trace", "irq", "kvm", "log", "loop", "memory",
        "memory.allocator", "memory.backends", "memory.backing", "memory.batch", "memory.buffer",
        "memory.discard", "memory.flatview", "memory.hugepages", "memory.listener",
        "memory.mapping", "memory.populate", "memory.ranges", "memory.region", "memory.space",
        "memory.table", "memory.viommu", "migration", "peer",
        "plan", "plugins", "region", "registration", "session", "sysfs", "testing", "undo",
    ),
    "vfiocore_legacy": ("", "plugin"),
    "vfiocore_iommufd": ("", "plugin"),
    "vfiocore_pci": ("", "config_space", "device", "msix", "plugin"),
    "vfiocore_platform": ("", "device", "irq", "plugin"),
    "vfiocore_ap": ("", "device", "matrix", "plugin"),
    "vfiocore_ccw": (
        "", "channel", "completion", "device", "plugin", "request", "subchannel",
    ),
    "vfiocore_sim": (
        "", "device", "devices", "host", "plugin", "topology", "vfio.base", "vfio.bench",
        "vfio.pci", "vfio.platform",
    ),
}  # fmt: skip
"""The modules that authors of plugins and embedders import. (Those of ``vfiocore.uapi`` have the
kernel's names, and are compared with its headers.)"""

PLAIN = (bool, int, str, types.NoneType)


def file_of(package: str) -> Path:
    return FOLDER / f"{package}.txt"


def installed() -> list[str]:
    return [package for package in MODULES if find_spec(package)]


def contract(package: str) -> str:
    """All modules of a package, a paragraph each."""
    names = [f"{package}.{name}" if name else package for name in MODULES[package]]
    return "\n\n".join("\n".join([name, *described(name)]) for name in names) + "\n"


def described(name: str) -> Iterator[str]:
    """A module's names; of what it has from elsewhere, the name alone."""
    module = import_module(name)
    for public in public_names(module):
        thing = getattr(module, public)
        home = getattr(thing, "__module__", name)
        if isinstance(thing, type | types.FunctionType) and home != name:
            yield f"    {public} from {home}"
        elif isinstance(thing, type):
            yield from class_(thing, set_on_self(module, public))
        elif isinstance(thing, types.FunctionType):
            yield f"    def {public}{signature(thing)}"
        else:
            yield f"    {public}: {type(thing).__name__}"


def public_names(module: types.ModuleType) -> list[str]:
    """``__all__``, or what a module itself defines; sorted."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    found = {name for statement in syntax(module).body for name in defined(statement)}
    return sorted(name for name in found if not name.startswith("_") and hasattr(module, name))


def syntax(module: types.ModuleType) -> ast.Module:
    return ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))


def defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def set_on_self(module: types.ModuleType, class_name: str) -> dict[str, str]:
    """The attributes that a class's methods declare: ``self.size: int = …``."""
    return {
        node.target.attr: ast.unparse(node.annotation)
        for found in ast.walk(syntax(module))
        if isinstance(found, ast.ClassDef) and found.name == class_name
        for node in ast.walk(found)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute)
    }


def class_(thing: type, attributes: Mapping[str, str]) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
    yield f"    class {thing.__name__}({bases})" if bases else f"    class {thing.__name__}"
    if issubclass(thing, enum.Enum):
        yield from (f"        {item.name} = {item.value!r}" for item in thing)
    members = vars(thing)
    for name, text in sorted({**attributes, **inspect.get_annotations(thing)}.items()):
        if not name.startswith("_") and not isinstance(members.get(name), property):
            # A TypedDict and a NamedTuple wrap what was written.
            yield f"        {name}: {getattr(text, '__forward_arg__', text)}"
    for name, member in sorted(members.items()):
        if name == "__init__" or not name.startswith("_"):
            yield from (f"        {line}" for line in method(name, member))


def method(name: str, member: object) -> Iterator[str]:
    if isinstance(member, property) and member.fget is not None:
        yield f"{name} -> {returned(member.fget)}" + (" (may be set)" if member.fset else "")
    elif isinstance(member, cached_property):
        yield f"{name} -> {returned(member.func)}"
    elif isinstance(member, staticmethod | classmethod):
        yield f"{type(member).__name__} {name}{signature(member.__func__)}"
    elif isinstance(member, types.FunctionType) and member.__module__ != "typing":
        yield f"def {name}{signature(member)}"


def returned(function: Callable[..., object]) -> str:
    return str(inspect.get_annotations(function)["return"])


def signature(function: Callable[..., object]) -> str:
    """Names, annotations as they are written, and defaults that say the same on every Python."""
    wanted = inspect.signature(function)
    parameters = [
        parameter
        if parameter.default is parameter.empty or isinstance(parameter.default, PLAIN)
        else parameter.replace(default=...)
        for parameter in wanted.parameters.values()
    ]
    text = str(wanted.replace(parameters=parameters)).replace("Ellipsis", "...")
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def accept() -> None:
    FOLDER.mkdir(exist_ok=True)
    for package in installed():
        file_of(package).write_text(contract(package), encoding="utf-8")


if __name__ == "__main__":
    accept()
