"""Configuration space as vfio-pci shows it: what can be read, and which bits can be written."""

from __future__ import annotations

import struct

from tests.reality.parts import CONFIG, device_of
from tests.reality.script import Script
from tests.reality.sequence import sequence, sequences

FIRMWARE = (range(0x10, 0x28), range(0x3C, 0x3D))
"""The BARs and the interrupt line: firmware chooses."""


def without_firmware(data: bytes) -> bytes:
    """Configuration space with zeros for what firmware chooses."""
    return bytes(
        0 if any(at in each for each in FIRMWARE) else byte for at, byte in enumerate(data)
    )


@sequences({role: {"role": role} for role in ("edu", "left", "right", "ivshmem", "testdev")})
def all_of_it(s: Script, role: str) -> None:
    s.pread(device_of(s, role), 256, CONFIG, without_firmware)


@sequences({f"{place:#04x}": {"place": place} for place in range(0, 256, 4)})
def the_bits_that_can_be_written_of_edu(s: Script, place: int) -> None:
    device = device_of(s, "edu")
    for value in (0xFFFFFFFF, 0):
        s.pwrite(device, struct.pack("<I", value), CONFIG + place)
        s.pread(device, 4, CONFIG + place)


@sequences({f"{place:#04x}": {"place": place} for place in range(0, 64, 4)})
def the_bits_that_can_be_written_of_ivshmem(s: Script, place: int) -> None:
    device = device_of(s, "ivshmem")
    for value in (0xFFFFFFFF, 0):
        s.pwrite(device, struct.pack("<I", value), CONFIG + place)
        s.pread(device, 4, CONFIG + place)


@sequences({f"{place:#04x}": {"place": place} for place in range(0, 64, 4)})
def the_bits_that_can_be_written_of_testdev(s: Script, place: int) -> None:
    device = device_of(s, "testdev")
    for value in (0xFFFFFFFF, 0):
        s.pwrite(device, struct.pack("<I", value), CONFIG + place)
        s.pread(device, 4, CONFIG + place)


@sequence
def bytes_and_words_are_written_one_by_one(s: Script) -> None:
    device = device_of(s, "edu")
    s.pwrite(device, b"\xff", CONFIG + 4)
    s.pread(device, 4, CONFIG + 4)
    s.pwrite(device, b"\x00\xff", CONFIG + 4)
    s.pread(device, 4, CONFIG + 4)
    s.pwrite(device, b"\x02\x00\x00\xff\xff\xff\xff\xff", CONFIG + 4)
    s.pread(device, 8, CONFIG + 4)
    s.pwrite(device, b"\xff" * 5, CONFIG + 0x3B)
    s.pread(device, 5, CONFIG + 0x3B)


@sequence
def a_bar_keeps_what_is_written(s: Script) -> None:
    device = device_of(s, "edu")
    for value in (0xFFFFFFFF, 0x80000000, 0x12345678, 0xFE000000):
        s.pwrite(device, struct.pack("<I", value), CONFIG + 0x10)
        s.pread(device, 4, CONFIG + 0x10)


@sequence
def what_was_written_is_gone_when_the_device_is_opened_again(s: Script) -> None:
    device = device_of(s, "edu")
    s.pwrite(device, b"\x07\x05", CONFIG + 4)
    s.pwrite(device, b"\x00\x40\x00\x00", CONFIG + 0x44)
    s.close(device)
    again = s.device_fd(s.last("group of edu"), "edu")
    s.pread(again, 4, CONFIG + 4)
    s.pread(again, 4, CONFIG + 0x44)


@sequence
def writes_beyond_the_end(s: Script) -> None:
    device = device_of(s, "edu")
    s.pwrite(device, bytes(4), CONFIG + 254)
    s.pwrite(device, bytes(1), CONFIG + 256)
    s.pwrite(device, b"", CONFIG + 256)
