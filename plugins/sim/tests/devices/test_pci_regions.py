"""BARs and ROM: reads, writes, mappings."""

from __future__ import annotations

import errno
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_MEMORY
from vfiocore.uapi.vfio import (
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_ROM_REGION_INDEX,
    VFIO_PCI_VGA_REGION_INDEX,
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
    VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
)
from vfiocore_sim.vfio.bench import Bench
from vfiocore_sim.vfio.pci import Bar, MsixTable, PciDevice
from vfiocore_sim.vfio.region import access_widths

Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
CONFIG = VFIO_PCI_CONFIG_REGION_INDEX
PAGE = mmap.PAGESIZE
RAM = 4 * PAGE
MSIX_TABLE = 0x40
READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
SHARED = mmap.MAP_SHARED


class Recorder(PciDevice):
    """Remembers every register access."""

    vendor_id, device_id, class_code = 0x1AF4, 0x1001, 0xFF0000
    bars = (
        Bar(index=0, size=64, io=True),
        Bar(index=1, size=16 * PAGE, ram=((RAM, 2 * PAGE),)),
    )
    msix = MsixTable(vectors=2, bar=1, table=MSIX_TABLE, pba=0x80)
    rom = b"\x55\xaa" + bytes(1000)

    def __init__(self) -> None:
        super().__init__()
        self.accesses: list[tuple[int, int, int]] = []
        self.stores: list[tuple[int, int, int]] = []

    def read(self, bar: int, offset: int, size: int) -> int:
        self.accesses.append((bar, offset, size))
        return int.from_bytes(bytes((offset + n) & 0xFF for n in range(size)), "little")

    def write(self, bar: int, offset: int, value: int, size: int) -> None:
        self.stores.append((offset, value, size))


@pytest.fixture
def card() -> Iterator[Bench[Recorder]]:
    with Bench(Recorder()) as bench:
        bench.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
        yield bench


def test_a_missing_bar_has_neither_size_nor_flags(card: Bench[Recorder]) -> None:
    info, _ = card.region(3)
    assert (info.size, info.flags, info.offset) == (0, 0, 3 << 40)


def test_a_bar_with_memory_can_be_mapped_and_says_where(card: Bench[Recorder]) -> None:
    info, raw = card.region(1, argsz=256)
    assert info.size == 16 * PAGE
    assert info.flags & ~8 == READ_WRITE | VFIO_REGION_INFO_FLAG_MMAP
    assert int.from_bytes(raw[32:34], sys.byteorder) == VFIO_REGION_INFO_CAP_MSIX_MAPPABLE


def test_an_io_bar_cannot_be_mapped(card: Bench[Recorder]) -> None:
    assert card.region(0)[0].flags == READ_WRITE


def test_a_function_that_is_no_vga_has_no_vga_region(
    card: Bench[Recorder], refused: Refused
) -> None:
    with refused(errno.EINVAL):
        card.region(VFIO_PCI_VGA_REGION_INDEX)


def test_a_valid_rom_is_read_only_and_padded_to_a_power_of_two(
    card: Bench[Recorder], refused: Refused
) -> None:
    info, _ = card.region(VFIO_PCI_ROM_REGION_INDEX)
    assert (info.size, info.flags) == (1024, VFIO_REGION_INFO_FLAG_READ)
    assert card.pread(VFIO_PCI_ROM_REGION_INDEX, 0, 2) == b"\x55\xaa"
    with refused(errno.EINVAL):
        card.pwrite(VFIO_PCI_ROM_REGION_INDEX, 0, b"x")
    with refused(errno.EINVAL):
        card.pread(VFIO_PCI_ROM_REGION_INDEX, 1024, 2)


class BlankRom(Recorder):
    rom = b"\xff" * 1000


def test_a_rom_without_its_signature_is_not_shown(refused: Refused) -> None:
    with Bench(BlankRom()) as bench:
        info, _ = bench.region(VFIO_PCI_ROM_REGION_INDEX)
        assert (info.size, info.flags) == (0, 0)
        with refused(errno.EINVAL):
            bench.pread(VFIO_PCI_ROM_REGION_INDEX, 0, 2)


def test_registers_are_refused_while_memory_decode_is_off(
    card: Bench[Recorder], refused: Refused
) -> None:
    card.write(CONFIG, PCI_COMMAND, 0, 2)
    with refused(errno.EIO):
        card.read(1, 0, 4)
    with refused(errno.EIO):
        card.write(1, 0, 1, 4)
    assert not card.device.stores


def test_io_ports_do_not_ask_for_memory_decode(card: Bench[Recorder]) -> None:
    card.write(CONFIG, PCI_COMMAND, 0, 2)
    assert card.read(0, 4, 1) == 4


def test_an_access_is_cut_into_aligned_widths(card: Bench[Recorder]) -> None:
    card.pread(1, 0x101, 16)
    assert card.device.accesses == [
        (1, 0x101, 1),
        (1, 0x102, 2),
        (1, 0x104, 4),
        (1, 0x108, 8),
        (1, 0x110, 1),
    ]


def test_an_access_across_the_end_is_shortened(card: Bench[Recorder]) -> None:
    assert len(card.pread(1, 16 * PAGE - 4, 64)) == 4
    assert card.pwrite(1, 16 * PAGE - 4, bytes(64)) == 4


def test_an_access_at_the_end_is_refused(card: Bench[Recorder], refused: Refused) -> None:
    with refused(errno.EINVAL):
        card.pread(1, 16 * PAGE, 1)


def test_a_missing_bar_cannot_be_accessed(card: Bench[Recorder], refused: Refused) -> None:
    with refused(errno.EINVAL):
        card.pread(4, 0, 1)


def test_reading_and_writing_nothing_is_fine_anywhere(card: Bench[Recorder]) -> None:
    assert card.pread(4, 0, 0) == b""
    assert card.pwrite(4, 0, b"") == 0


def test_the_msix_table_reads_as_ones_and_drops_writes(card: Bench[Recorder]) -> None:
    data = card.pread(1, MSIX_TABLE - 4, 4 + 32 + 4)
    assert data[4:36] == b"\xff" * 32
    card.pwrite(1, MSIX_TABLE - 4, bytes(40))
    assert [offset for offset, _value, _size in card.device.stores] == [
        MSIX_TABLE - 4,
        MSIX_TABLE + 32,
    ]


@given(st.integers(0, 200), st.integers(1, 64), st.integers(0, 220), st.integers(0, 40))
def test_the_pieces_of_an_access_cover_it_once_and_are_aligned(
    position: int, size: int, start: int, length: int
) -> None:
    hole = range(start, start + length)
    at = position
    for piece, width in access_widths(position, size, hole):
        assert piece == at
        at += width
        if piece not in hole:
            assert width in (1, 2, 4, 8)
            assert piece % width == 0
            assert not any(byte in hole for byte in range(piece, piece + width))
    assert at == position + size


# -- mappings ---------------------------------------------------------------------------------
def mapped(card: Bench[Recorder], offset: int, length: int, flags: int = SHARED) -> mmap.mmap:
    return card.device.mmap(length, mmap.PROT_READ | mmap.PROT_WRITE, flags, (1 << 40) + offset)


def test_a_mapping_and_the_file_show_the_same_memory(card: Bench[Recorder]) -> None:
    with mapped(card, RAM + PAGE, PAGE) as memory:
        memory[:5] = b"hello"
        assert card.pread(1, RAM + PAGE, 5) == b"hello"
        card.pwrite(1, RAM + PAGE, b"HE")
        assert memory[:5] == b"HEllo"


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, PAGE), (RAM - PAGE, 2 * PAGE), (RAM, 3 * PAGE), (RAM + 8, PAGE), (RAM, 0)],
    ids=["registers", "before", "after", "unaligned", "nothing"],
)
def test_only_memory_can_be_mapped(
    card: Bench[Recorder], refused: Refused, offset: int, length: int
) -> None:
    with refused(errno.EINVAL):
        mapped(card, offset, length)


def test_a_private_mapping_is_refused(card: Bench[Recorder], refused: Refused) -> None:
    with refused(errno.EINVAL):
        mapped(card, RAM, PAGE, mmap.MAP_PRIVATE)


def test_a_reset_clears_the_memory_under_a_mapping(card: Bench[Recorder]) -> None:
    with mapped(card, RAM, PAGE) as memory:
        memory[:5] = b"hello"
        card.reset()
        assert memory[:5] == bytes(5)


def test_a_bar_must_be_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="not a power of two"):
        Bar(index=0, size=0x3000)


def test_a_64_bit_bar_needs_the_register_above_it() -> None:
    with pytest.raises(ValueError, match="no register above it"):
        Bar(index=5, size=0x1000, wide=True)
