"""Measuring in guests: a clock that only the guest's own work moves, and programs in C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .architectures import Architecture
from .folders import REPOSITORY
from .machines import Machine
from .tools import provide, run_program

Say = Callable[[str], None]

PROGRAMS = ("floor", "soak")
"""What there is in ``bench/`` for guests."""

SOURCE = REPOSITORY / "bench/floor.c"
IN_GUEST = "/source"


def counting(machine: Machine) -> Machine:
    """A machine whose clock advances by 1 ns with each instruction, however busy the host is."""
    return replace(machine, devices=(*machine.devices, "-icount", "shift=0,sleep=off"))


def compiled(architecture: Architecture, say: Say) -> str:
    """Compile ``floor.c`` for an architecture; where a guest finds it.

    Raises:
        BedError: There is no compiler, or it refuses.
    """
    compiler = f"{architecture.name}-linux-gnu-gcc"
    provide([compiler], say)
    target = REPOSITORY / ".vm" / f"floor-{architecture.name}"
    target.parent.mkdir(exist_ok=True)
    words = [compiler, "-O2", "-static", str(SOURCE), "-o", str(target)]
    run_program(words, f"{SOURCE} is not compiled")
    return f"{IN_GUEST}/{target.relative_to(REPOSITORY)}"
