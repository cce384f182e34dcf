"""The kernel's sample mediated devices: a serial card and a display."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from vfiocore.errors import UnsupportedError
from vfiocore.uapi import pci_regs as pci

from .devices import Device
from .way import Way

SECONDS = 20

# -- mtty: a serial card with two ports ------------------------------------------------------------
DATA, INTERRUPTS, FIFO, LINE_STATUS = 0, 1, 2, 5
DATA_READY, DATA_AVAILABLE = 0x01, 0x01
FIFO_ON_AND_EMPTY = 0x07


def ports_of(card: Any) -> tuple[Any, Any]:
    """Both ports, with nothing to read."""
    for port in card.bars[:2]:
        port.write8(FIFO, FIFO_ON_AND_EMPTY)
        port.write8(INTERRUPTS, 0)
    return card.bars[0], card.bars[1]


def test_a_serial_card_says_who_it_is(mtty: Device, way: Way) -> None:
    with way.open(mtty) as session:
        card = session["dev0"]
        # mtty.c:STORE_LE32 stores in the machine's order.
        assert card.config_space.read(0, 4) == 0x32534348.to_bytes(4, sys.byteorder)
        assert card.config_space.capabilities() == ()
        assert [bar.size for bar in card.bars[:2]] == [8, 8]
        assert card.bars[2:] == (None,) * 4


def test_a_serial_port_gives_back_what_was_sent(mtty: Device, way: Way) -> None:
    with way.open(mtty) as session:
        first, second = ports_of(session["dev0"])
        for byte in b"hello":
            first.write8(DATA, byte)
        assert not second.read8(LINE_STATUS) & DATA_READY
        got = bytearray()
        while first.read8(LINE_STATUS) & DATA_READY:
            got.append(first.read8(DATA))
        assert got == b"hello"


@pytest.mark.parametrize("kind", ["intx", "msi"])
def test_a_serial_port_interrupts_when_there_is_something_to_read(
    mtty: Device, way: Way, kind: str
) -> None:
    with way.open(mtty) as session:
        card = session["dev0"]
        port, _ = ports_of(card)
        irq = getattr(card, kind)
        (vector,) = irq.enable()
        port.write8(INTERRUPTS, DATA_AVAILABLE)
        for _ in range(3):
            port.write8(DATA, ord("x"))
            assert vector.wait(timeout=SECONDS) == 1
            port.read8(DATA)
            if irq.automasked:
                irq.unmask()


def test_a_serial_card_can_be_migrated_since_it_writes_to_no_memory(mtty: Device, way: Way) -> None:
    with way.open(mtty) as session:
        facts = session["dev0"].migration
        assert (facts.enabled, facts.supported, facts.dirty_tracking) == (True, True, True)


def test_the_migration_of_a_serial_card_can_be_turned_off(mtty: Device, way: Way) -> None:
    with way.open(mtty, more=",enable-migration=off") as session:
        facts = session["dev0"].migration
        assert (facts.enabled, facts.supported) == (False, True)


def test_memory_may_be_taken_from_under_a_mediated_device_where_that_is_asked_for(
    mtty: Device, way: Way
) -> None:
    with way.open(mtty, more=",x-balloon-allowed=on") as session:
        assert session["dev0"].ram_discard_allowed


def test_a_container_of_mediated_devices_alone_takes_any_memory(mtty: Device, way: Way) -> None:
    with way.open(mtty) as session:
        assert session["dev0"].container.iova_ranges == ()
        memory = session.dma_alloc(4096, iova=0x1000)
        assert memory.iova == 0x1000


# -- mdpy: a display of 640 by 480 -----------------------------------------------------------------
LINE = 640 * 4
LAST_LINE = 479
SHADES = 255


def test_a_display_shows_a_gradient_in_its_memory(mdpy: Device, way: Way) -> None:
    with way.open(mdpy) as session:
        display = session["dev0"]
        display.reset()
        screen = display.bars[0]
        screen.map()
        for line in (0, 100, LAST_LINE):
            shade = line * SHADES // 480
            assert screen.read(line * LINE, LINE) == bytes([shade]) * LINE


def test_what_is_drawn_stays_until_the_display_is_reset(mdpy: Device, way: Way) -> None:
    with way.open(mdpy) as session:
        display = session["dev0"]
        display.bars[0].map()
        with display.bars[0].view(0, LINE) as pixels:
            pixels[:] = b"\xaa" * LINE
        display.bars[0].unmap()
        display.bars[0].map()
        assert display.bars[0].read(0, LINE) == b"\xaa" * LINE
        display.reset()
        assert display.bars[0].read(0, LINE) == bytes(LINE)


def test_a_display_has_a_capability_of_its_vendor_and_no_interrupts(mdpy: Device, way: Way) -> None:
    with way.open(mdpy) as session:
        display = session["dev0"]
        found = [capability.id for capability in display.config_space.capabilities()]
        # mdpy.c:STORE_LE16 does not: a big-endian machine's STATUS tells of no list.
        assert found == ([pci.PCI_CAP_ID_VNDR] if sys.byteorder == "little" else [])
        assert (display.intx, display.msi, display.msix) == (None, None, None)


def test_the_migration_of_a_display_cannot_be_forced(mdpy: Device, way: Way) -> None:
    with way.open(mdpy) as session:
        assert not session["dev0"].migration.supported
    with pytest.raises(UnsupportedError, match="cannot save its state"):
        way.open(mdpy, more=",enable-migration=on")


# -- both ------------------------------------------------------------------------------------------
def test_mediated_devices_of_different_drivers_share_a_container(
    mtty: Device, mdpy: Device, way: Way
) -> None:
    with way.open(mtty, mdpy) as session:
        assert session["dev0"].container is session["dev1"].container
