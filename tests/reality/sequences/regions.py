"""Reading, writing and mapping the regions of PCI devices."""

from __future__ import annotations

import struct

from tests.reality.parts import (
    BAR0,
    BAR2,
    COMMAND,
    CONFIG,
    MASTER,
    MEMORY,
    PAGE,
    device_of,
    enabled,
)
from tests.reality.script import Script
from tests.reality.sequence import sequence, sequences
from vfiocore.host.protocol import MAP_PRIVATE, PROT_READ, PROT_WRITE

READS: dict[str, tuple[int, int]] = {
    "nothing": (BAR0, 0),
    "nothing of a BAR that is not there": (1 << 40, 0),
    "an identity": (BAR0, 4),
    "a register of a wrong width": (BAR0, 2),
    "two registers at once": (BAR0, 8),
    "at an odd place": (BAR0 + 1, 4),
    "three bytes": (BAR0, 3),
    "the last bytes": (BAR0 + (1 << 20) - 4, 4),
    "across the end": (BAR0 + (1 << 20) - 4, 8),
    "behind the end": (BAR0 + (1 << 20), 4),
    "far behind the end": (BAR0 + (1 << 39), 4),
    "a BAR that is not there": (1 << 40, 4),
    "the ROM": (6 << 40, 4),
    "VGA": (8 << 40, 4),
    "a region that is not there": (9 << 40, 4),
    "a region far away": (100 << 40, 4),
    "the end of configuration space": (CONFIG + 254, 2),
    "across the end of configuration space": (CONFIG + 254, 4),
    "behind configuration space": (CONFIG + 256, 1),
    "nothing behind configuration space": (CONFIG + 256, 0),
    "an odd word of configuration space": (CONFIG + 1, 2),
    "seven bytes of configuration space": (CONFIG + 1, 7),
}


@sequences({name: {"place": place, "size": size} for name, (place, size) in READS.items()})
def read(s: Script, place: int, size: int) -> None:
    device = device_of(s, "edu")
    s.pread(device, size, place)
    s.pwrite(device, struct.pack("<H", MEMORY | MASTER), COMMAND)
    s.pread(device, size, place)


@sequences(
    {
        name: {"place": place, "size": size}
        for name, (place, size) in READS.items()
        if "configuration" not in name
    }
)
def write(s: Script, place: int, size: int) -> None:
    device = device_of(s, "edu")
    s.pwrite(device, bytes(size), place)
    s.pwrite(device, struct.pack("<H", MEMORY | MASTER), COMMAND)
    s.pwrite(device, bytes(size), place)


@sequence
def the_registers_of_edu(s: Script) -> None:
    device = enabled(s, "edu")
    for register in (0x00, 0x24, 0x0C, 0x28, 0x60, 0x9C):
        s.pread(device, 4, BAR0 + register)
    s.pwrite(device, struct.pack("<I", 0x12345678), BAR0 + 4)
    s.pread(device, 4, BAR0 + 4)
    s.pwrite(device, struct.pack("<I", 10), BAR0 + 8)
    s.pread_until(device, struct.pack("<I", 3628800), BAR0 + 8)
    s.pread(device, 8, BAR0 + 0x80)
    s.pwrite(device, struct.pack("<Q", 0x1234567890), BAR0 + 0x80)
    s.pread(device, 8, BAR0 + 0x80)
    s.pread(device, 16, BAR0 + 0x80)
    s.pread(device, 4, BAR0 + 0x40000)


@sequence
def memory_decode_goes_on_and_off(s: Script) -> None:
    device = device_of(s, "edu")
    for command in (0, MEMORY, MASTER, MEMORY | MASTER, 0):
        s.pwrite(device, struct.pack("<H", command), COMMAND)
        s.pread(device, 2, COMMAND)
        s.pread(device, 4, BAR0)
        s.pwrite(device, bytes(4), BAR0 + 4)


@sequence
def the_memory_of_a_card(s: Script) -> None:
    device = enabled(s, "ivshmem")
    s.pwrite(device, b"0123456789abcdef", BAR2 + 3)
    s.pread(device, 20, BAR2)
    s.pread(device, 4, BAR2 + (1 << 20) - 2)
    s.pwrite(device, bytes(20), BAR2)


MAPS: dict[str, dict[str, int]] = {
    "all of it": {"length": 1 << 20, "offset": BAR2},
    "its first page": {"length": PAGE, "offset": BAR2},
    "its second page": {"length": PAGE, "offset": BAR2 + PAGE},
    "more than it": {"length": (1 << 20) + PAGE, "offset": BAR2},
    "behind its end": {"length": PAGE, "offset": BAR2 + (1 << 20)},
    "to read": {"length": PAGE, "offset": BAR2, "prot": PROT_READ},
    "to write": {"length": PAGE, "offset": BAR2, "prot": PROT_WRITE},
    "privately": {"length": PAGE, "offset": BAR2, "flags": MAP_PRIVATE},
    "half a page of it": {"length": PAGE // 2, "offset": BAR2},
    "a BAR smaller than a page": {"length": 256, "offset": BAR0},
    "a BAR that is not there": {"length": PAGE, "offset": 1 << 40},
    "the ROM": {"length": PAGE, "offset": 6 << 40},
    "configuration space": {"length": PAGE, "offset": CONFIG},
    "VGA": {"length": PAGE, "offset": 8 << 40},
    "a region that is not there": {"length": PAGE, "offset": 9 << 40},
}


@sequences({name: {"fields": fields} for name, fields in MAPS.items()})
def map_with(s: Script, fields: dict[str, int]) -> None:
    s.mmap(enabled(s, "ivshmem"), **fields)


@sequence
def ports_need_no_memory_decode(s: Script) -> None:
    device = device_of(s, "testdev")
    ports = 1 << 40
    s.mmap(device, 256, ports)
    for command in (0, MEMORY, 1):
        s.pwrite(device, struct.pack("<H", command), COMMAND)
        for place, size in ((ports, 0), (ports + 0x100, 4), (0x1000, 4), (0x1000 - 2, 0)):
            s.pread(device, size, place)


@sequence
def registers_can_be_mapped(s: Script) -> None:
    device = enabled(s, "edu")
    s.mmap(device, 1 << 20, BAR0)


@sequence
def a_mapping_shows_the_memory_of_a_card(s: Script) -> None:
    device = enabled(s, "ivshmem")
    mapping = s.mmap(device, PAGE, BAR2)
    assert mapping is not None
    mapping[:4] = b"seen"
    s.pread(device, 4, BAR2)
    s.pwrite(device, bytes(4), BAR2)


@sequence
def a_device_that_is_mapped_stays_open(s: Script) -> None:
    device = enabled(s, "ivshmem")
    s.mmap(device, PAGE, BAR2)
    group = s.roles.group("ivshmem")
    s.close(device)
    s.open(group)
