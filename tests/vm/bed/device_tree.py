"""Changes to the device tree of a board, with the device tree compiler's tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .errors import BedError
from .machines import Machine

SMMU = "/smmuv3@9050000"
"""The SMMU of QEMU's board ``virt``."""


def programs(machine: Machine) -> tuple[str, ...]:
    """What `patched` needs for this machine."""
    return ("fdtput",) if machine.stream_ids else ()


def patched(machine: Machine, work: Path) -> Path | None:
    """The board's tree with more devices behind its SMMU, or None if the machine has none such."""
    if not machine.stream_ids:
        return None
    tree = work / "board.dtb"
    _dump(machine, tree)
    smmu = _run("fdtget", "-t", "x", str(tree), SMMU, "phandle").strip()
    for node, stream_id in machine.stream_ids.items():
        _run("fdtput", "-t", "x", str(tree), node, "iommus", smmu, f"{stream_id:x}")
    return tree


def _dump(machine: Machine, tree: Path) -> None:
    """Have QEMU write down the tree that it would give the guest."""
    board, *others = machine.architecture.board[1:]
    memory = ("-m", machine.memory, "-smp", "2")
    _run(
        machine.architecture.emulator,
        *("-machine", f"{board},dumpdtb={tree}", *others, *memory),
        *("-nodefaults", "-display", "none", *machine.devices),
    )


def _run(*words: str) -> str:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BedError(f"{' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout
