"""The declarations of vfiocore.uapi against the kernel's own headers, read by a C compiler.

`VFIOCORE_UAPI_HEADERS` names a folder with `linux/vfio.h` and its neighbours of the kernel that the
declarations follow (7.2): there every declared name must exist and every struct be complete.
Without it, and for headers that the folder does not carry, the system's are used; these may be
older or newer, so only what both sides know is compared.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import vfiocore.uapi

FOLDER = os.environ.get("VFIOCORE_UAPI_HEADERS")
KERNEL_FOLDER = ("vfio", "iommufd", "vfio_ccw", "vfio_zdev")  # what FOLDER must carry
SYSTEM = ("kvm", "pci_regs")
HEADERS = KERNEL_FOLDER + SYSTEM
WITHOUT_HEADER = ("ioctl", "s390_cio")  # no uAPI header declares these; they have their own tests

PRELUDE = r"""
#include <stdio.h>
#include <stddef.h>
#include <linux/stddef.h>
#ifndef __counted_by /* newer than the stddef.h of some systems */
#define __counted_by(member)
#endif
#define SHOW(key, value, type) printf("%s\t%llu\t%zu\n", key, (unsigned long long)(value), sizeof(type))
"""
# Until 6.6 kvm.h knew the FILE names as GROUP only; the values are the same.
KVM_OLD_NAMES = """
#ifndef KVM_DEV_VFIO_FILE
#define KVM_DEV_VFIO_FILE KVM_DEV_VFIO_GROUP
#define KVM_DEV_VFIO_FILE_ADD KVM_DEV_VFIO_GROUP_ADD
#define KVM_DEV_VFIO_FILE_DEL KVM_DEV_VFIO_GROUP_DEL
#endif
"""


def is_strict(name: str) -> bool:
    """Whether the header must know every declared name, and every struct to its last member."""
    return bool(FOLDER) and name in KERNEL_FOLDER


class Number(NamedTuple):
    """An integer of C, modulo two to the power of its type's width in bits."""

    value: int
    bits: int

    def holds(self, declared: int) -> bool:
        fits = -(1 << (self.bits - 1)) <= declared < (1 << self.bits)
        return fits and declared % (1 << self.bits) == self.value


Facts = dict[str, Any]  # "sizeof(x)", "offsetof(x, y)", "VFIO_BASE"... to int or str; Number from C


# -------- what we declare --------


def structs(module: ModuleType) -> dict[str, type[ctypes.Structure]]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, ctypes.Structure)
        and value.__module__ == module.__name__
    }


def constants(module: ModuleType) -> dict[str, int | str]:
    return {
        name: value
        for name, value in vars(module).items()
        if name[0].isupper() and isinstance(value, int | str)
    }


def fields(struct: Any) -> Iterator[tuple[str, Any]]:
    """Field names and types, those of unnamed unions as C sees them: the struct's own."""
    for name, kind in struct._fields_:
        if name in getattr(struct, "_anonymous_", ()):
            yield from kind._fields_
        else:
            yield name, kind


def struct_facts(name: str, struct: type[ctypes.Structure]) -> Facts:
    facts: Facts = {f"sizeof({name})": ctypes.sizeof(struct)}
    for field, kind in fields(struct):
        facts[f"offsetof({name}, {field})"] = getattr(struct, field).offset
        facts[f"sizeof({name}.{field})"] = ctypes.sizeof(kind)
        if not issubclass(kind, ctypes.Structure | ctypes.Union | ctypes.Array):
            facts[f"signed({name}.{field})"] = int(kind(-1).value < 0)
    return facts


def declared_facts(module: ModuleType) -> Facts:
    facts: Facts = dict(constants(module))
    for name, struct in structs(module).items():
        facts |= struct_facts(name, struct)
    return facts


# -------- what a header says --------


class Header:
    """A kernel header as the compiler finds it: the folder's file if there is one."""

    def __init__(self, name: str, build: Path, folder: str | None) -> None:
        self.name = name
        self.build = build
        self.search = [f"-I{folder}"] if folder else []
        self.prelude = f"{PRELUDE}#include <linux/{name}.h>\n"
        if name == "kvm":
            self.prelude += KVM_OLD_NAMES
        self.text = self._cc("-E", "-dD", source=self.prelude)

    def _cc(self, *arguments: str, source: str) -> str:
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler (cc, gcc or $CC) to read the kernel headers with")
        path = self.build / f"{self.name}.c"
        path.write_text(source)
        command = [*compiler.split(), "-w", *self.search, *arguments, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        missing = re.search(r"error: (.*No such file or directory)", done.stderr)
        if missing and not is_strict(self.name):
            pytest.skip(
                f"no header to compare with; VFIOCORE_UAPI_HEADERS is {FOLDER}: {missing[1]}"
            )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def has(self, name: str) -> bool:
        return re.search(rf"\b{name}\b", self.text) is not None

    def members(self, struct: str) -> dict[str, str]:
        """Member names to their declarations, without flexible arrays; empty if unknown."""
        body = re.search(rf"^struct {struct} \{{(.*?)^\}}", self.text, re.DOTALL | re.MULTILINE)
        if body is None:
            return {}
        code = re.sub(r"^\s*#.*$", "", body[1].replace("\\\n", ""), flags=re.MULTILINE)
        found = re.findall(r"([\w ]+?[\s*]+)(\w+)\s*(?:\[([^\]]*)\])?\s*;", code)
        return {
            member: f"{kind.strip()}[{length}]" if length else kind.strip()
            for kind, member, length in found
            if length or not re.search(rf"\b{member}\s*\[\s*\]", code)
        }

    def facts(self, module: ModuleType) -> Facts:
        """What the compiler makes of the structs and constants that `module` names."""
        lines = [line for name in structs(module) for line in self._struct_lines(name)]
        for name, value in constants(module).items():
            if not self.has(name):
                continue
            if isinstance(value, str):
                lines.append(f'printf("%s\\t%s\\tstr\\n", "{name}", {name});')
            else:
                lines.append(f'SHOW("{name}", {name}, {name});')
        program = self.build / self.name
        main = "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
        self._cc("-o", str(program), source=self.prelude + main)
        output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
        return dict(self._parse(line) for line in output.splitlines())

    def _struct_lines(self, name: str) -> Iterator[str]:
        members = self.members(name)
        if not members:
            return
        yield f'SHOW("sizeof({name})", sizeof(struct {name}), size_t);'
        for member, kind in members.items():
            field = f"((struct {name} *)0)->{member}"
            yield f'SHOW("offsetof({name}, {member})", offsetof(struct {name}, {member}), size_t);'
            yield f'SHOW("sizeof({name}.{member})", sizeof({field}), size_t);'
            if not kind.startswith("struct ") and not kind.endswith("]"):
                negative = f"(__typeof__({field}))-1 < (__typeof__({field}))1"
                yield f'SHOW("signed({name}.{member})", {negative}, int);'

    @staticmethod
    def _parse(line: str) -> tuple[str, str | Number]:
        key, value, size = line.split("\t")
        if size == "str":
            return key, value
        bits = int(size) * 8
        return key, Number(int(value) % (1 << bits), bits)


# -------- the comparison --------


def differences(declared: Facts, kernel: Facts) -> list[str]:
    """Every fact on which the two sides are not of one mind."""
    return [
        f"{key}: declared {declared.get(key, 'not at all')}, kernel {kernel.get(key, 'lacks it')}"
        for key in sorted(declared.keys() | kernel.keys())
        if key not in declared or key not in kernel or not _same(declared[key], kernel[key])
    ]


def _same(declared: int | str, kernel: str | Number) -> bool:
    if isinstance(declared, str) or isinstance(kernel, str):
        return declared == kernel
    return kernel.holds(declared)


def common(declared: Facts, kernel: Facts) -> tuple[Facts, Facts]:
    """Both sides reduced to what both know; the size of a struct that grew between is dropped."""
    grown = {_struct(key) for key in declared.keys() ^ kernel.keys()}
    shared = {
        key
        for key in declared.keys() & kernel.keys()
        if not (key.startswith("sizeof(") and "." not in key and _struct(key) in grown)
    }
    return {key: declared[key] for key in shared}, {key: kernel[key] for key in shared}


def compare(name: str, declared: Facts, kernel: Facts) -> list[str]:
    if not is_strict(name):
        declared, kernel = common(declared, kernel)
    return differences(declared, kernel)


def only(facts: Facts, struct: str) -> Facts:
    return {key: value for key, value in facts.items() if _struct(key) == struct}


def _struct(key: str) -> str:
    return re.split(r"[(),. ]+", key)[1] if "(" in key else ""


# -------- fixtures --------


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[ModuleType, Facts]]:
    """A module of vfiocore.uapi by name, and the facts of its header, compiled once."""

    @functools.cache
    def read(name: str) -> tuple[ModuleType, Facts]:
        if is_strict(name):
            path = Path(str(FOLDER), "linux", f"{name}.h")
            assert path.is_file(), f"the folder in VFIOCORE_UAPI_HEADERS has no {path.name}"
        module = importlib.import_module(f"vfiocore.uapi.{name}")
        return module, Header(name, tmp_path_factory.mktemp(name), FOLDER).facts(module)

    return read


Kernel = Callable[[str], tuple[ModuleType, Facts]]


def reflect(source: str, keep: Callable[[ast.stmt], Iterable[str]]) -> set[str]:
    module = importlib.import_module(f"vfiocore.uapi.{source}")
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    return {name for statement in tree.body for name in keep(statement)}


def changed(struct: type[ctypes.Structure], new_fields: list[Any]) -> type[ctypes.Structure]:
    kept = [field[0] for field in struct._fields_ if field in new_fields]
    anonymous = [name for name in getattr(struct, "_anonymous_", ()) if name in kept]
    body = {"_anonymous_": anonymous, "_fields_": new_fields}
    return type(struct.__name__, (ctypes.Structure,), body)


# -------- the specification --------


def test_every_module_is_listed_and_checked_somewhere() -> None:
    found = {module.name for module in pkgutil.iter_modules(vfiocore.uapi.__path__)}
    assert found == set(vfiocore.uapi.__all__) == {*HEADERS, *WITHOUT_HEADER}


@pytest.mark.parametrize("name", HEADERS)
def test_every_declared_name_is_compared(name: str) -> None:
    def classes(statement: ast.stmt) -> Iterator[str]:
        if isinstance(statement, ast.ClassDef) and "Structure" in ast.unparse(statement.bases[0]):
            yield f"sizeof({statement.name})"

    def assigned(statement: ast.stmt) -> Iterator[str]:
        if isinstance(statement, ast.Assign):
            yield from (ast.unparse(target) for target in statement.targets)

    facts = declared_facts(importlib.import_module(f"vfiocore.uapi.{name}"))
    written = reflect(name, classes) | reflect(name, assigned)
    assert written == {
        key for key in facts if "(" not in key or re.fullmatch(r"sizeof\(\w+\)", key)
    }


@pytest.mark.parametrize("name", HEADERS)
def test_numbers_sizes_and_offsets_are_the_kernels(name: str, kernel: Kernel) -> None:
    module, facts = kernel(name)
    assert facts, f"linux/{name}.h knows nothing of what is declared"
    assert compare(name, declared_facts(module), facts) == []


@pytest.mark.parametrize("name", HEADERS)
def test_a_change_to_any_field_is_noticed(name: str, kernel: Kernel) -> None:
    module, facts = kernel(name)
    for struct_name, struct in structs(module).items():
        of_struct = only(facts, struct_name)
        plain: list[Any] = list(struct._fields_)
        for at, (field, kind) in enumerate(plain):
            if not is_strict(name) and f"offsetof({struct_name}, {field})" not in of_struct:
                continue  # this system's header does not know the field
            before, after = plain[:at], plain[at + 1 :]
            wider = [*before, (field, ctypes.c_uint8 * (ctypes.sizeof(kind) + 1)), *after]
            renamed = [*before, (f"{field}x", kind), *after]
            dropped = [*before, *after]
            for mutation in (wider, renamed, dropped) if is_strict(name) else (wider,):
                mutant = struct_facts(struct_name, changed(struct, mutation))
                assert compare(name, mutant, of_struct), f"{struct_name}.{field} may change unseen"


def test_a_swap_of_two_fields_is_noticed(kernel: Kernel) -> None:
    module, facts = kernel("vfio")
    plain: list[Any] = list(module.vfio_region_info._fields_)
    plain[-1], plain[-2] = plain[-2], plain[-1]
    mutant = struct_facts("vfio_region_info", changed(module.vfio_region_info, plain))
    assert compare("vfio", mutant, only(facts, "vfio_region_info"))


def test_a_change_of_sign_is_noticed(kernel: Kernel) -> None:
    module, facts = kernel("vfio")
    plain = [
        (n, ctypes.c_uint32 if n == "fd" else k) for n, k in fields(module.vfio_device_ioeventfd)
    ]
    mutant = struct_facts("vfio_device_ioeventfd", changed(module.vfio_device_ioeventfd, plain))
    found = compare("vfio", mutant, only(facts, "vfio_device_ioeventfd"))
    assert [line.split(":")[0] for line in found] == ["signed(vfio_device_ioeventfd.fd)"]


@pytest.mark.parametrize("name", HEADERS)
def test_a_change_to_any_constant_is_noticed(name: str, kernel: Kernel) -> None:
    module, facts = kernel(name)
    for constant, value in constants(module).items():
        if constant not in facts:
            assert not is_strict(name), f"{constant} is not in linux/{name}.h"
            continue
        other = value + "x" if isinstance(value, str) else value ^ 1
        assert differences({constant: other}, {constant: facts[constant]})


def test_an_older_header_is_compared_by_what_it_knows() -> None:
    declared = {"sizeof(s)": 24, "offsetof(s, a)": 0, "offsetof(s, new)": 16, "NEW": 3, "OLD": 1}
    older = {
        "sizeof(s)": Number(16, 64),
        "offsetof(s, a)": Number(0, 64),
        "OLD": Number(2, 32),
    }
    assert differences(*common(declared, older)) == [
        "OLD: declared 1, kernel Number(value=2, bits=32)"
    ]


def test_a_negative_c_constant_equals_its_unsigned_value_of_the_same_width() -> None:
    minus_one = Number(0xFFFFFFFF, 32)
    assert minus_one.holds(-1)
    assert minus_one.holds(0xFFFFFFFF)
    assert not minus_one.holds(0xFFFFFFFFFFFFFFFF)
