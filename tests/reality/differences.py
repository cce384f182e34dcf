"""Where the simulated machine answers otherwise than the recorded one, and why it may."""

from __future__ import annotations

from collections.abc import Mapping

from .sequence import Sequence, all_sequences

REGISTERS = (
    "simulation: a simulated register is a program, which memory that is mapped cannot run; so "
    "registers are not offered for mapping"
)
AWAKE = (
    "guest: its kernel is built without CONFIG_PM, so no device ever sleeps and none is woken up"
)
NO_RESET = (
    "emulator: QEMU's edu keeps its registers when its bus is reset; the simulated one loses them, "
    "as hardware does"
)

KNOWN: Mapping[str, str] = {
    "device: a reset clears the registers": NO_RESET,
    "device: low power with a wakeup": AWAKE,
    "device: region: 0 of edu": REGISTERS,
    "device: region: 0 of ivshmem": REGISTERS,
    "device: region: 0 of nvme": REGISTERS,
    "device: region: 0 of testdev": REGISTERS,
    "regions: map with: a BAR smaller than a page": REGISTERS,
    "regions: registers can be mapped": REGISTERS,
}
"""The reason, by the name of the sequence; it is the same on every machine."""

ABORTS = (
    "emulator: QEMU's edu refuses accesses narrower than 4 bytes, which arm64 takes as an abort, "
    "and the kernel's own accesses may not have one: it panics"
)

UNASKED: Mapping[str, Mapping[str, str]] = {
    "aarch64": {
        "regions: read: a register of a wrong width": ABORTS,
        "regions: read: at an odd place": ABORTS,
        "regions: read: three bytes": ABORTS,
        "regions: write: a register of a wrong width": ABORTS,
        "regions: write: at an odd place": ABORTS,
        "regions: write: three bytes": ABORTS,
    },
}
"""Sequences that a machine does not survive, with the reason, by the name of the machine."""


def sequences_of(machine: str) -> dict[str, Sequence]:
    """The sequences that a machine is asked, by name."""
    unasked = UNASKED.get(machine, {})
    return {name: found for name, found in all_sequences().items() if name not in unasked}
