"""What runs in a guest: its devices are given to VFIO, then every sequence makes its calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.guest.binding import given_to
from tests.vm.guest.devices import on_bus
from vfiocore.host import LinuxHost

from .differences import sequences_of
from .recordings import dump
from .roles import PCI, Roles
from .script import Script
from .sequence import Sequence, restricted


@contextmanager
def devices_ready() -> Iterator[None]:
    """Every device of the sequences is with VFIO, until the end."""
    roles = Roles(LinuxHost())
    with given_to("vfio-pci", *(on_bus("pci", roles.name(role)) for role in PCI)):
        yield


def script_of(sequence: Sequence) -> Script:
    """What this machine's kernel answers."""
    with restricted(sequence.privileges):
        return sequence.run(LinuxHost())


def main() -> None:
    """Write the answers to the sequences whose name has a word into a file."""
    word, path = sys.argv[1:]
    with devices_ready():
        found = {
            name: script_of(sequence).answers
            for name, sequence in sequences_of(os.environ["VFIOCORE_VM_MACHINE"]).items()
            if word in name
        }
    Path(path).write_text(dump(found), encoding="utf-8")


if __name__ == "__main__":
    main()
