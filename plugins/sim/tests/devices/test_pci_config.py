"""Configuration space as vfio-pci shows it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi.pci_regs import (
    PCI_AF_CTRL,
    PCI_AF_CTRL_FLR,
    PCI_BASE_ADDRESS_0,
    PCI_CAP_ID_AF,
    PCI_CAP_ID_EXP,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_PM,
    PCI_CAP_ID_VNDR,
    PCI_CAPABILITY_LIST,
    PCI_COMMAND,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_SERR,
    PCI_EXP_DEVCTL,
    PCI_EXP_DEVCTL_BCR_FLR,
    PCI_EXT_CAP_ID_DSN,
    PCI_EXT_CAP_ID_ERR,
    PCI_EXT_CAP_ID_VNDR,
    PCI_INTERRUPT_PIN,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_ENABLE,
    PCI_MSI_FLAGS_QSIZE,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_PM_CTRL,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
    PCI_STATUS_INTERRUPT,
    PCI_VENDOR_ID,
)
from vfiocore.uapi.vfio import (
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
)
from vfiocore_sim.devices import EduDevice, NvmeDevice
from vfiocore_sim.vfio.bench import Bench
from vfiocore_sim.vfio.pci import Bar, PciDevice
from vfiocore_sim.vfio.pci.config import ConfigSpace

Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
CONFIG = VFIO_PCI_CONFIG_REGION_INDEX


class Card(PciDevice):
    vendor_id, device_id, class_code = 0x1AF4, 0x1000, 0xFF0000
    bars = (
        Bar(index=0, size=0x100, io=True),
        Bar(index=1, size=0x1000),
        Bar(index=2, size=0x4000, wide=True, prefetchable=True),
    )
    msi_vectors = 4
    vendor_data = b"abcde"

    def __init__(self) -> None:
        super().__init__()
        self.resets = 0

    def power_on_reset(self) -> None:
        self.resets += 1


@pytest.fixture
def card() -> Iterator[Bench[Card]]:
    with Bench(Card()) as bench:
        yield bench


@pytest.fixture
def nvme() -> Iterator[Bench[NvmeDevice]]:
    with Bench(NvmeDevice()) as bench:
        yield bench


def capabilities(bench: Bench[Card] | Bench[NvmeDevice]) -> dict[int, int]:
    """Standard capability ids and their offsets, in chain order."""
    found = {}
    offset = bench.read(CONFIG, PCI_CAPABILITY_LIST, 1)
    while offset:
        found[bench.read(CONFIG, offset, 1)] = offset
        offset = bench.read(CONFIG, offset + 1, 1)
    return found


def test_the_space_is_256_bytes_and_4096_with_pci_express(
    card: Bench[Card], nvme: Bench[NvmeDevice]
) -> None:
    assert card.region(CONFIG)[0].size == 256
    assert nvme.region(CONFIG)[0].size == 4096


def test_identity_cannot_be_written(card: Bench[Card]) -> None:
    card.write(CONFIG, PCI_VENDOR_ID, 0xFFFFFFFF, 4)
    assert card.read(CONFIG, PCI_VENDOR_ID, 4) == 0x10001AF4


def test_an_access_past_the_end_is_a_bad_address_and_does_nothing(
    card: Bench[Card], refused: Refused
) -> None:
    before = card.pread(CONFIG, 0, 256)
    with refused(errno.EFAULT):
        card.pwrite(CONFIG, 252, b"\xff" * 8)
    with refused(errno.EFAULT):
        card.pread(CONFIG, 256, 1)
    assert card.pread(CONFIG, 0, 256) == before


@pytest.mark.parametrize(
    ("register", "size", "mask"),
    [(0, 4, 0xFFFFFF01), (1, 4, 0xFFFFF000), (2, 8, 0xFFFFFFFFFFFFC00C)],
    ids=["io", "memory", "64-bit prefetchable"],
)
def test_writing_all_ones_to_a_bar_reads_back_its_size(
    card: Bench[Card], register: int, size: int, mask: int
) -> None:
    offset = PCI_BASE_ADDRESS_0 + 4 * register
    card.write(CONFIG, offset, (1 << 8 * size) - 1, size)
    assert card.read(CONFIG, offset, size) == mask


def test_a_bar_holds_the_address_that_is_written_to_it(card: Bench[Card]) -> None:
    card.write(CONFIG, PCI_BASE_ADDRESS_0 + 4, 0xFEB01234, 4)
    assert card.read(CONFIG, PCI_BASE_ADDRESS_0 + 4, 4) == 0xFEB01000


def test_an_unimplemented_bar_stays_zero(card: Bench[Card]) -> None:
    card.write(CONFIG, PCI_BASE_ADDRESS_0 + 16, 0xFFFFFFFF, 4)
    assert card.read(CONFIG, PCI_BASE_ADDRESS_0 + 16, 4) == 0


def test_a_device_that_is_opened_decodes_its_bars_and_is_no_bus_master(card: Bench[Card]) -> None:
    assert card.read(CONFIG, PCI_COMMAND, 2) == PCI_COMMAND_IO | PCI_COMMAND_MEMORY


def test_a_device_that_is_opened_does_not_decode_what_it_has_no_bar_for() -> None:
    with Bench(EduDevice()) as bench:
        assert bench.read(CONFIG, PCI_COMMAND, 2) == PCI_COMMAND_MEMORY


def test_what_firmware_left_in_command_stays_except_for_bus_mastering() -> None:
    edu = EduDevice()
    edu.firmware_command = PCI_COMMAND_SERR | PCI_COMMAND_MASTER
    with Bench(edu) as bench:
        assert bench.read(CONFIG, PCI_COMMAND, 2) == PCI_COMMAND_SERR | PCI_COMMAND_MEMORY


def test_command_keeps_only_the_bits_that_exist(card: Bench[Card]) -> None:
    card.write(CONFIG, PCI_COMMAND, 0xFFFF, 2)
    assert card.read(CONFIG, PCI_COMMAND, 2) == 0x0507


def test_the_capability_chain_is_linked_and_announced(card: Bench[Card]) -> None:
    assert card.read(CONFIG, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST
    assert list(capabilities(card)) == [PCI_CAP_ID_PM, PCI_CAP_ID_MSI, PCI_CAP_ID_VNDR]


def test_an_express_function_has_extended_capabilities(nvme: Bench[NvmeDevice]) -> None:
    assert {PCI_CAP_ID_EXP, PCI_CAP_ID_MSIX} <= set(capabilities(nvme))
    first = nvme.read(CONFIG, 0x100, 4)
    assert first & 0xFFFF == PCI_EXT_CAP_ID_ERR
    second = nvme.read(CONFIG, first >> 20, 4)
    assert (second & 0xFFFF, second >> 20) == (PCI_EXT_CAP_ID_DSN, 0)


def test_the_vendor_capability_is_raw_memory(card: Bench[Card]) -> None:
    offset = capabilities(card)[PCI_CAP_ID_VNDR]
    assert card.pread(CONFIG, offset + 3, 5) == b"abcde"
    card.pwrite(CONFIG, offset + 3, b"ABCDE")
    assert card.pread(CONFIG, offset + 3, 5) == b"ABCDE"


def test_msi_is_enabled_by_set_irqs_and_not_by_a_write(card: Bench[Card]) -> None:
    control = capabilities(card)[PCI_CAP_ID_MSI] + PCI_MSI_FLAGS
    card.write(CONFIG, control, PCI_MSI_FLAGS_ENABLE, 2)
    assert not card.read(CONFIG, control, 2) & PCI_MSI_FLAGS_ENABLE
    card.listen(VFIO_PCI_MSI_IRQ_INDEX)
    card.write(CONFIG, control, PCI_MSI_FLAGS_ENABLE, 2)
    assert card.read(CONFIG, control, 2) & PCI_MSI_FLAGS_ENABLE
    card.irqs_off(VFIO_PCI_MSI_IRQ_INDEX)
    assert card.read(CONFIG, control, 2) & PCI_MSI_FLAGS_ENABLE  # what the user wrote stays
    card.write(CONFIG, control, PCI_MSI_FLAGS_ENABLE, 2)
    assert not card.read(CONFIG, control, 2) & PCI_MSI_FLAGS_ENABLE


def test_msi_gives_no_more_vectors_than_it_has(card: Bench[Card]) -> None:
    control = capabilities(card)[PCI_CAP_ID_MSI] + PCI_MSI_FLAGS
    card.write(CONFIG, control, PCI_MSI_FLAGS_QSIZE, 2)
    assert card.read(CONFIG, control, 2) & PCI_MSI_FLAGS_QSIZE == 2 << 4


def test_msix_control_shows_what_set_irqs_did_and_cannot_be_written(
    nvme: Bench[NvmeDevice],
) -> None:
    control = capabilities(nvme)[PCI_CAP_ID_MSIX] + PCI_MSIX_FLAGS
    nvme.write(CONFIG, control, 0xFFFF, 2)
    assert nvme.read(CONFIG, control, 2) == 4
    nvme.listen(VFIO_PCI_MSIX_IRQ_INDEX)
    assert nvme.read(CONFIG, control, 2) == 4 | PCI_MSIX_FLAGS_ENABLE


def test_flr_through_devctl_resets_the_function_and_reads_as_zero(
    nvme: Bench[NvmeDevice],
) -> None:
    nvme.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
    nvme.write(0, 0x24, 0x001F001F, 4)
    control = capabilities(nvme)[PCI_CAP_ID_EXP] + PCI_EXP_DEVCTL
    value = nvme.read(CONFIG, control, 2)
    nvme.write(CONFIG, control, value | PCI_EXP_DEVCTL_BCR_FLR, 2)
    assert nvme.read(CONFIG, control, 2) == value
    assert nvme.read(0, 0x24, 4) == 0
    assert nvme.read(CONFIG, PCI_COMMAND, 2) == PCI_COMMAND_MEMORY


class Conventional(Card):
    """Without PCI Express the reset of a function is in the advanced features capability."""

    reset_methods = ("af_flr",)


def test_flr_through_advanced_features_resets_the_function_and_reads_as_zero() -> None:
    with Bench(Conventional()) as bench:
        control = capabilities(bench)[PCI_CAP_ID_AF] + PCI_AF_CTRL
        before = bench.device.resets
        bench.write(CONFIG, control, 0, 1)
        assert bench.device.resets == before
        bench.write(CONFIG, control, PCI_AF_CTRL_FLR, 1)
        assert bench.device.resets == before + 1
        assert bench.read(CONFIG, control, 1) == 0


def test_coming_back_from_d3_resets_a_function_without_nosoftrst(card: Bench[Card]) -> None:
    control = capabilities(card)[PCI_CAP_ID_PM] + PCI_PM_CTRL
    before = card.device.resets
    card.write(CONFIG, control, 3, 2)
    assert card.device.resets == before
    card.write(CONFIG, control, 0, 2)
    assert card.device.resets == before + 1


def test_registers_are_out_of_reach_in_d3(card: Bench[Card], refused: Refused) -> None:
    card.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY, 2)
    control = capabilities(card)[PCI_CAP_ID_PM] + PCI_PM_CTRL
    card.write(CONFIG, control, 3, 2)
    with refused(errno.EIO):
        card.read(1, 0, 4)


def test_the_status_register_shows_a_pending_intx(live_edu: Bench[EduDevice]) -> None:
    live_edu.write(0, 0x60, 1, 4)
    assert live_edu.read(CONFIG, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT
    live_edu.write(0, 0x64, 1, 4)
    assert not live_edu.read(CONFIG, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT


def test_reopening_gives_a_fresh_configuration_space(card: Bench[Card]) -> None:
    card.write(CONFIG, PCI_COMMAND, PCI_COMMAND_MASTER, 2)
    card.device.close_device()
    card.device.open_device()
    assert card.read(CONFIG, PCI_COMMAND, 2) == PCI_COMMAND_IO | PCI_COMMAND_MEMORY
    assert card.read(CONFIG, PCI_INTERRUPT_PIN, 1) == 0


@given(st.integers(0, 255), st.binary(min_size=1, max_size=16))
def test_a_byte_wise_write_equals_one_write(offset: int, data: bytes) -> None:
    data = data[: 256 - offset]
    with Bench(Card()) as whole, Bench(Card()) as pieces:
        whole.pwrite(CONFIG, offset, data)
        for position, byte in enumerate(data):
            pieces.pwrite(CONFIG, offset + position, bytes([byte]))
        assert whole.pread(CONFIG, 0, 256) == pieces.pread(CONFIG, 0, 256)


def test_a_device_with_more_capabilities_than_fit_cannot_be_made() -> None:
    space = ConfigSpace(4096)
    space.add_capability(PCI_CAP_ID_VNDR, 0xC0)
    with pytest.raises(ValueError, match="capability 0x9 does not fit"):
        space.add_capability(PCI_CAP_ID_VNDR, 4)
    space.add_extended(PCI_EXT_CAP_ID_VNDR, 1, 0xF00)
    with pytest.raises(ValueError, match="extended capability 0xb does not fit"):
        space.add_extended(PCI_EXT_CAP_ID_VNDR, 1, 4)
