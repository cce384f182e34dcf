"""Measuring in guests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.vm.bed.architectures import AARCH64, X86_64
from tests.vm.bed.benches import SOURCE, compiled, counting
from tests.vm.bed.emulator import Boot, command
from tests.vm.bed.errors import BedError
from tests.vm.bed.machines import MACHINES


def test_a_counting_machine_is_the_same_with_a_clock_of_instructions() -> None:
    machine = MACHINES["x86_64"]
    boot = Boot(Path("/k"), (), Path("/w"), None, "tcg")
    there, counted = command(machine, boot), command(counting(machine), boot)
    assert [word for word in counted if word not in there] == ["-icount", "shift=0,sleep=off"]


def test_a_missing_compiler_is_an_error_that_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BedError, match="crossbuild-essential-arm64"):
        compiled(AARCH64, pytest.fail)


def test_a_compiler_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "x86_64-linux-gnu-gcc"
    compiler.write_text("#!/bin/sh\necho no static library >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(BedError, match="no static library"):
        compiled(X86_64, pytest.fail)


def test_the_program_in_c_is_for_any_compiler_without_a_warning(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    strict = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-c", str(SOURCE), "-o"]
    subprocess.run([*strict, str(tmp_path / "floor.o")], check=True)
