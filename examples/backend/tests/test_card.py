from __future__ import annotations

from collections.abc import Iterator

import pytest
from vfiocore_loopback import plugin
from vfiocore_loopback.card import FAULT, STATUS

from vfiocore import Framework, Session
from vfiocore.errors import BusyError, ConfigError
from vfiocore.host import LinuxHost
from vfiocore.memory import Access

WORDS = "-object loopback,id=unit0 -device loopback-card,id=card,slot=2,loopback=unit0"


@pytest.fixture
def framework() -> Framework:
    return Framework([plugin], autoload=False, host=LinuxHost())


@pytest.fixture
def session(framework: Framework) -> Iterator[Session]:
    with framework.open(WORDS) as session:
        yield session


def test_the_card_copies_memory(session: Session) -> None:
    source, destination = session.dma_alloc(4096), session.dma_alloc(4096)
    source.write(0, b"by DMA")
    assert session["card"].copy(source.iova, destination.iova, 6)
    assert destination.read(0, 6) == b"by DMA"


def test_an_interrupt_tells_that_a_copy_is_over(session: Session) -> None:
    memory = session.dma_alloc(4096)
    (vector,) = session["card"].irq(0).enable()
    session["card"].copy(memory.iova, memory.iova + 64, 64)
    assert vector.wait(timeout=1) == 1


def test_the_unit_refuses_what_is_not_mapped(session: Session) -> None:
    memory = session.dma_alloc(4096)
    assert not session["card"].copy(memory.iova, memory.iova + memory.length, 8)
    assert session["card"].region(0).read64(STATUS) == FAULT


def test_the_unit_protects_what_is_read_only(session: Session) -> None:
    memory = session.dma_alloc(4096, access=Access.READ)
    assert not session["card"].copy(memory.iova, memory.iova + 64, 8)


def test_a_slot_is_open_once(framework: Framework, session: Session) -> None:
    with pytest.raises(BusyError, match="slot2: open failed: the slot is in use"):
        framework.open(WORDS)


def test_a_card_has_to_be_in_one_of_four_slots(framework: Framework) -> None:
    with pytest.raises(ConfigError, match="slot"):
        framework.open(WORDS.replace("slot=2", "slot=4"))
