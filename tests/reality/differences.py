"""Where the simulated machine answers otherwise than the recorded one, and why it may."""

from __future__ import annotations

from collections.abc import Mapping

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
"""The reason, by the name of the sequence."""
