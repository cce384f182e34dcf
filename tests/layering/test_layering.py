from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest

from .source import Import, Source, core, everything, plugins

LAYERS = (
    {"uapi", "_errnos"},
    {"host"},
    {"errors", "config", "sysfs", "undo", "log"},
    {"memory"},
    {
        "_eventfd",
        "access",
        "address_space",
        "bulk",
        "capabilities",
        "container",
        "device",
        "dmabuf",
        "fds",
        "feature",
        "irq",
        "kvm",
        "loop",
        "migration",
        "peer",
        "region",
        "reset",
    },
    {"hookspecs", "plugins", "registration"},
    {"framework", "plan", "session", ""},  # and the package itself, which names the front door
    {"cli", "testing"},
)
"""What may use what: each layer those before it, and itself."""

SYSTEM = {"fcntl", "mmap", "select"}
"""Modules that call the system; only a host does."""

PAGE_SIZES = {4095, 4096, 16384, 65536}
"""What would be somebody's page size, or its mask."""

NOT_PAGE_SIZES = {
    (
        "vfiocore/cli/demo/nvme.py",
        4096,
    ): "the page of an NVMe controller (CC.MPS 0), not the host's",
}
"""Numbers that look like a page size and are none, with the reason. (Those in uapi/ are the kernel's
and the hardware's own, and are compared with the kernel's headers.)"""

LITTLE_ENDIAN = ("plugins/sim/vfiocore_sim/devices/nvme/", "vfiocore/cli/demo/nvme.py")
"""Structures that are little-endian by definition (NVMe), whatever the machine."""


def layer_of(module: str) -> int:
    part = module.removeprefix("vfiocore").lstrip(".").partition(".")[0]
    for rank, names in enumerate(LAYERS):
        if part in names:
            return rank
    raise AssertionError(f"{module} has no layer: put it into LAYERS")


def ours(imports: Iterable[Import]) -> Iterator[str]:
    """The modules of the core that are imported; ``from vfiocore import log`` is vfiocore.log."""
    modules = {source.name for source in core()}
    for item in imports:
        if item.module.partition(".")[0] != "vfiocore":
            continue
        inner = f"{item.module}.{item.name}"
        yield inner if inner in modules else item.module


def offences(found: Iterable[str]) -> None:
    listed = sorted(set(found))
    assert not listed, "\n".join(listed)


# -- direction -------------------------------------------------------------------------------------
def test_every_module_of_the_core_has_a_layer() -> None:
    for source in core():
        layer_of(source.name)


def test_the_kernels_layouts_import_nothing_of_ours() -> None:
    offences(
        f"{source.where} imports {module}"
        for source in core()
        if source.name.startswith("vfiocore.uapi")
        for module in ours(source.imports)
        if not module.startswith("vfiocore.uapi")
    )


def test_a_module_uses_only_its_own_layer_and_those_below() -> None:
    offences(
        f"{source.where} imports {module}"
        for source in core()
        for module in ours(source.running_imports)
        if layer_of(module) > layer_of(source.name)
    )


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {
        source.name: {
            module
            for module in ours(item for item in source.running_imports if not item.lazy)
            if module != source.name
        }
        for source in core()
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module in done:
            return
        for other in graph[module]:
            visit(other, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


# -- the system ------------------------------------------------------------------------------------
def is_host(source: Source) -> bool:
    return source.name.startswith(("vfiocore.host", "vfiocore_sim"))


def test_only_hosts_import_what_calls_the_system() -> None:
    offences(
        f"{source.where} imports {item.module}"
        for source in everything()
        if not is_host(source)
        for item in source.running_imports
        if item.module.partition(".")[0] in SYSTEM
    )


def test_only_hosts_open_devices_and_attributes() -> None:
    offences(
        f"{source.where}:{call.lineno} opens {path}"
        for source in everything()
        if not is_host(source)
        for call in source.calls()
        if opens_a_file(call)
        for path in [beginning(call.args[0]) if call.args else ""]
        if path.startswith(("/dev", "/sys", "/proc"))
    )


def opens_a_file(call: ast.Call) -> bool:
    """``open``, ``Path``, and everything in os: what takes a path without asking a host."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in {"open", "Path"}
    root = function
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in {"os", "io", "pathlib"}


def beginning(node: ast.expr) -> str:
    """The literal text that an expression begins with."""
    if isinstance(node, ast.JoinedStr):
        return beginning(node.values[0]) if node.values else ""
    if isinstance(node, ast.BinOp):
        return beginning(node.left)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


# -- plugins ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("package", plugins())
def test_a_plugin_imports_only_public_names_of_the_core(package: str) -> None:
    offences(
        f"{source.where} imports {item.module}.{item.name}"
        for source in plugins()[package]
        for item in source.imports
        if item.module.partition(".")[0] == "vfiocore"
        if any(part.startswith("_") for part in (*item.module.split("."), item.name or ""))
    )


@pytest.mark.parametrize("package", plugins())
def test_a_plugin_imports_no_other_plugin(package: str) -> None:
    offences(
        f"{source.where} imports {item.module}"
        for source in plugins()[package]
        for item in source.imports
        if item.module.startswith("vfiocore_") and item.module.partition(".")[0] != package
    )


def test_the_core_imports_no_plugin() -> None:
    offences(
        f"{source.where} imports {item.module}"
        for source in core()
        if not source.name.startswith(("vfiocore.cli", "vfiocore.testing"))
        for item in source.imports
        if item.module.startswith("vfiocore_")
    )


# -- dependencies ----------------------------------------------------------------------------------
def test_the_core_depends_on_pluggy_and_attrs_alone() -> None:
    allowed = {"vfiocore", "pluggy", "attrs", *sys.stdlib_module_names}
    offences(
        f"{source.where} imports {item.module}"
        for source in core()
        if not source.name.startswith(("vfiocore.cli", "vfiocore.testing"))
        for item in source.running_imports
        if item.module.partition(".")[0] not in allowed
    )


def imported_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


HEAVY = {"asyncio", "click", "rich", "structlog", "numpy", "pytest"}


def test_importing_the_package_imports_nothing_heavy_and_no_plugin() -> None:
    modules = imported_by("import vfiocore")
    assert not modules & HEAVY
    assert not {name for name in modules if name.startswith("vfiocore_")}


def test_importing_all_of_the_core_imports_nothing_heavy() -> None:
    names = [
        source.name
        for source in core()
        if not source.name.startswith(("vfiocore.cli", "vfiocore.testing"))
    ]
    assert not imported_by(f"import {', '.join(names)}") & HEAVY


@pytest.mark.parametrize("package", plugins())
def test_importing_a_plugin_imports_nothing_heavy(package: str) -> None:
    modules = imported_by(f"import {package}.plugin")
    assert not modules & HEAVY


# -- machines of every kind ------------------------------------------------------------------------
def test_no_page_size_is_written_down() -> None:
    """x86-64 has pages of 4 KiB, arm64 of 4, 16 or 64: ask the host, or the IOMMU."""
    offences(
        f"{source.where}:{node.lineno}: {node.value}"
        for source in everything()
        if not source.name.startswith(("vfiocore_sim", "vfiocore.uapi"))
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant)
        if isinstance(node.value, int)
        if node.value in PAGE_SIZES
        if (source.where, node.value) not in NOT_PAGE_SIZES
    )


def test_every_exception_from_that_is_needed() -> None:
    there = {
        (source.where, node.value)
        for source in everything()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, int)
    }
    assert set(NOT_PAGE_SIZES) <= there


def test_no_struct_of_the_kernel_is_read_as_little_endian() -> None:
    """The kernel's structs have the machine's byte order, and s390x is big-endian."""
    functions = {"pack", "unpack", "pack_into", "unpack_from", "iter_unpack", "calcsize", "Struct"}
    offences(
        f"{source.where}:{call.lineno}"
        for source in everything()
        if not source.where.startswith(LITTLE_ENDIAN)
        for call in source.calls()
        if isinstance(call.func, ast.Attribute | ast.Name)
        if (call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id) in functions
        if call.args and beginning(call.args[0]).startswith("<")
    )


# -- documentation ---------------------------------------------------------------------------------
def undocumented(source: Source) -> Iterator[str]:
    if ast.get_docstring(source.tree) is None:
        yield source.where
    for node in source.tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{source.where}: {node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented_methods(source, node)


def undocumented_methods(source: Source, node: ast.ClassDef) -> Iterator[str]:
    for method in node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if method.name.startswith("_") or decorated_as_setter(method):
            continue
        if ast.get_docstring(method) is None:
            yield f"{source.where}: {node.name}.{method.name}"


def decorated_as_setter(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(
        isinstance(decorator, ast.Attribute) and decorator.attr in {"setter", "validator"}
        for decorator in method.decorator_list
    )


def test_everything_public_is_documented() -> None:
    documented_elsewhere = {
        "vfiocore/host/linux.py",  # by the protocol
        "vfiocore/host/trace.py",
        "plugins/sim/vfiocore_sim/host.py",
    }
    offences(
        name
        for source in everything()
        if not source.name.startswith("vfiocore.uapi")  # by the kernel
        if source.where not in documented_elsewhere
        for name in undocumented(source)
    )
