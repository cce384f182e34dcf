"""Programs that the bed needs and the machine may lack."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence

from .errors import BedError

PACKAGES: Mapping[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-s390x": "qemu-system-misc",
    "mmdebstrap": "mmdebstrap",
    "setpriv": "util-linux",
    "fdtput": "device-tree-compiler",
    "x86_64-linux-gnu-gcc": "crossbuild-essential-amd64",
    "aarch64-linux-gnu-gcc": "crossbuild-essential-arm64",
    "s390x-linux-gnu-gcc": "crossbuild-essential-s390x",
}
"""The Debian package of each program."""

Say = Callable[[str], None]


def provide(programs: Iterable[str], say: Say) -> None:
    """See to it that programs are there; install their packages where that can be done.

    Raises:
        BedError: One is missing and cannot be installed; the text names the packages.
    """
    packages = missing_packages(programs)
    if not packages:
        return
    if not can_install():
        raise BedError(
            f"these Debian packages are missing: {' '.join(packages)}",
            f"apt-get install {' '.join(packages)}",
        )
    say(f"installing {' '.join(packages)}")
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", *packages)
    still = missing_packages(programs)
    if still:
        raise BedError(f"installed, and yet the programs of {' '.join(still)} are not on PATH")


def missing_packages(programs: Iterable[str]) -> list[str]:
    """The packages of those programs that are not on PATH."""
    return sorted({PACKAGES[program] for program in programs if not shutil.which(program)})


def can_install() -> bool:
    """True for root on a machine with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def run_program(words: Sequence[str], failure: str, **variables: str) -> None:
    """Run a program to its end.

    Args:
        words: The program and its arguments.
        failure: What it means when it fails.
        variables: Of its environment, besides ours.

    Raises:
        BedError: It failed: `failure`, and what it said.
    """
    done = subprocess.run(
        words,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BedError(f"{failure}:\n{done.stderr.strip()}")


def _apt(*words: str) -> None:
    failure = f"apt-get {' '.join(words)} failed"
    run_program(["apt-get", "-qq", *words], failure, DEBIAN_FRONTEND="noninteractive")
