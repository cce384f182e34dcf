"""What runs a guest's instructions: KVM where it works, emulation elsewhere."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from .architectures import Architecture

KVM, EMULATION = "kvm", "tcg"
TRIAL_SECONDS = 3.0


def accelerator(architecture: Architecture, kernel: Path) -> str:
    """QEMU's name of the best accelerator that works for guests of an architecture."""
    if architecture.name != platform.machine() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return EMULATION
    return KVM if _boots(architecture, kernel) else EMULATION


def _boots(architecture: Architecture, kernel: Path) -> bool:
    """True if a kernel gets as far as missing its root file system.

    Within a virtual machine there may be a /dev/kvm on which guests fail, or do nothing at all.
    """
    command = [
        architecture.emulator,
        *architecture.board,
        *("-accel", KVM, "-m", "256M", "-nodefaults", "-no-reboot", "-display", "none"),
        *("-kernel", str(kernel), "-append", "quiet panic=-1"),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=TRIAL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
