"""The ivshmem card: registers that do nothing, memory that is mapped whole."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest

from vfiocore.uapi.pci_regs import (
    PCI_BASE_ADDRESS_2,
    PCI_BASE_ADDRESS_MEM_PREFETCH,
    PCI_BASE_ADDRESS_MEM_TYPE_64,
    PCI_CAPABILITY_LIST,
    PCI_CLASS_REVISION,
    PCI_COMMAND,
    PCI_COMMAND_MEMORY,
    PCI_SUBSYSTEM_VENDOR_ID,
)
from vfiocore.uapi.vfio import (
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_NUM_REGIONS,
    VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
)
from vfiocore_sim.devices import IvshmemDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology
from vfiocore_sim.vfio.bench import Bench

Card: TypeAlias = Bench[IvshmemDevice]
Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]

CONFIG = VFIO_PCI_CONFIG_REGION_INDEX
REGISTERS, MEMORY = 0, 2
MASK, STATUS, POSITION, DOORBELL = 0x0, 0x4, 0x8, 0xC
READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
MIB = 1 << 20


@pytest.fixture
def card() -> Iterator[Card]:
    with Bench(IvshmemDevice()) as bench:
        bench.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
        yield bench


def mapped(card: Card, size: int = MIB) -> mmap.mmap:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    return card.device.mmap(size, protection, mmap.MAP_SHARED, MEMORY << 40)


# -- what it is ------------------------------------------------------------------------------------
def test_it_has_the_numbers_of_qemus_card(card: Card) -> None:
    assert card.read(CONFIG, 0, 4) == 0x11101AF4
    assert card.read(CONFIG, PCI_CLASS_REVISION, 4) == 0x05000001
    assert card.read(CONFIG, PCI_SUBSYSTEM_VENDOR_ID, 4) == 0x11001AF4
    assert card.read(CONFIG, PCI_CAPABILITY_LIST, 1) == 0


def test_the_memory_is_a_64_bit_prefetchable_bar(card: Card) -> None:
    low = card.read(CONFIG, PCI_BASE_ADDRESS_2, 4)
    assert low & 0xF == PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH


def test_it_has_two_bars(card: Card) -> None:
    sizes = [card.region(index)[0].size for index in range(6)]
    assert sizes == [256, 0, MIB, 0, 0, 0]
    assert card.info().num_regions == VFIO_PCI_NUM_REGIONS


def test_it_has_no_interrupt_of_its_own(card: Card) -> None:
    kinds = (VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX)
    assert [card.irq(index).count for index in kinds] == [0, 0, 0]


# -- registers -------------------------------------------------------------------------------------
def test_the_registers_are_zero_at_first(card: Card) -> None:
    assert card.pread(REGISTERS, 0, 256) == bytes(256)


def test_the_mask_keeps_what_is_written_and_the_status_until_it_is_read(card: Card) -> None:
    card.write(REGISTERS, MASK, 0x1234, 4)
    card.write(REGISTERS, STATUS, 0x5678, 4)
    assert card.read(REGISTERS, MASK, 8) == 0x5678_0000_1234
    assert card.read(REGISTERS, MASK, 8) == 0x1234


def test_two_registers_are_written_at_once(card: Card) -> None:
    card.write(REGISTERS, MASK, 0x2_0000_0001, 8)
    assert [card.read(REGISTERS, register, 4) for register in (MASK, STATUS)] == [1, 2]


@pytest.mark.parametrize("register", [POSITION, DOORBELL, 0x10, 0xFC])
def test_the_other_registers_stay_zero(card: Card, register: int) -> None:
    card.write(REGISTERS, register, 0x10001, 4)
    assert card.read(REGISTERS, register, 4) == 0


def test_the_registers_cannot_be_mapped(card: Card, refused: Refused) -> None:
    assert card.region(REGISTERS)[0].flags == READ_WRITE
    with refused(errno.EINVAL):
        card.device.mmap(mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, 0)


# -- memory ----------------------------------------------------------------------------------------
def test_the_memory_can_be_mapped_without_a_word_of_sparse_areas(card: Card) -> None:
    info, _ = card.region(MEMORY, argsz=256)
    assert info.flags == READ_WRITE | VFIO_REGION_INFO_FLAG_MMAP
    assert info.cap_offset == 0


def test_a_mapping_the_file_and_the_sharers_see_the_same_memory(card: Card) -> None:
    with mapped(card) as memory:
        memory[:5] = b"hello"
        memory[-5:] = b"world"
        assert card.pread(MEMORY, 0, 5) == b"hello"
        assert card.device.memory.read(MIB - 5, 5) == b"world"
        card.device.memory.write(0, b"HE")
        card.pwrite(MEMORY, 2, b"LL")
        assert memory[:5] == b"HELLo"


def test_memory_takes_accesses_of_every_width(card: Card) -> None:
    card.pwrite(MEMORY, 1, bytes(range(15)))
    assert card.pread(MEMORY, 1, 15) == bytes(range(15))


def test_a_reset_clears_the_registers_and_leaves_the_memory(card: Card) -> None:
    card.write(REGISTERS, MASK, 1, 4)
    card.pwrite(MEMORY, 0, b"shared")
    card.reset()
    assert card.read(REGISTERS, MASK, 4) == 0
    assert card.pread(MEMORY, 0, 6) == b"shared"


def test_the_memory_outlives_the_file_that_it_was_written_through() -> None:
    device = IvshmemDevice()
    for content in (bytes(6), b"shared"):
        with Bench(device) as bench:
            bench.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
            assert bench.pread(MEMORY, 0, 6) == content
            bench.pwrite(MEMORY, 0, b"shared")


def test_its_size_can_be_chosen() -> None:
    host = SimHost(
        Topology.from_toml("""
        [[pci]]
        name = "0000:01:00.0"
        device = "ivshmem"
        options = { size = 4194304 }
        group = 1
    """)
    )
    device = host.device("0000:01:00.0")
    assert isinstance(device, IvshmemDevice)
    assert device.memory.size == 4 * MIB


@pytest.mark.parametrize("size", [0, mmap.PAGESIZE // 2, 3 * mmap.PAGESIZE])
def test_a_size_that_no_bar_has_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"page|power of two"):
        IvshmemDevice(size=size)
