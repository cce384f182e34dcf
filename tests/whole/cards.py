"""A card whose one BAR has registers and memory, which none of the simulated machine's has."""

from __future__ import annotations

from vfiocore_sim.devices import EduDevice
from vfiocore_sim.topology import Topology
from vfiocore_sim.vfio.pci import Bar

from .machine import EDU, OTHER_EDU


class CardWithMemory(EduDevice):
    """The edu card with memory behind its registers: interrupts, and a part that can be mapped."""

    MEMORY, SIZE = 0x80000, 0x10000
    bars = (Bar(index=0, size=1 << 20, ram=((MEMORY, SIZE),)),)


def machine_with_memory() -> Topology:
    """The default machine, with such cards for `EDU` and `OTHER_EDU`."""
    topology = Topology.default()
    for spec in topology.devices:
        if spec.name in (EDU.name, OTHER_EDU.name):
            spec.program = CardWithMemory
    return topology
