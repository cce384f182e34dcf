"""Whatever allocation fails in the kernel: the error is typed, nothing is left, the next try works."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vfiocore.errors import VfioError
from vfiocore.memory import DmaMapping
from vfiocore.session import Session

from . import edu as card_of
from .devices import Device
from .failing import FailingHost
from .way import Way

PAGE = os.sysconf("SC_PAGE_SIZE")
RANGES = 20
IDENTITY = 0x010000ED
FAR_MORE = 5000
"""No operation makes as many allocations."""


def held() -> tuple[list[str], dict[str, str]]:
    """What this process holds: its files, and what is pinned and locked of its memory."""
    folder = Path("/proc/self/fd")
    files = sorted(os.readlink(folder / name) for name in os.listdir(folder) if _is_open(name))
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return files, dict(line.split(":") for line in lines if line.startswith(("VmPin", "VmLck")))


def _is_open(number: str) -> bool:
    """False for the fd that listed the others."""
    return os.path.lexists(f"/proc/self/fd/{number}")


def walk(host: FailingHost, operation: Callable[[], object]) -> list[str]:
    """Let each allocation of an operation fail in turn; what it could not do without."""
    refused: list[str] = []
    before = held()
    for nth in range(1, FAR_MORE):
        try:
            with host.armed(nth):
                operation()
        except VfioError as error:
            refused.append(f"{host.struck}: {error}")
        assert held() == before, host.struck
        if host.struck is None:
            return refused
    raise AssertionError(f"not at the end after {FAR_MORE} allocations")


# -- the whole path --------------------------------------------------------------------------------
def test_a_session_opens_whole_or_not_at_all(
    fault_edu: Device, way: Way, failing_host: FailingHost
) -> None:
    framework, words = way.framework.on(failing_host), " ".join(way.words(fault_edu))

    def open_and_use() -> None:
        with framework.open(words) as session:
            use(session)

    assert walk(failing_host, open_and_use)
    assert moves_data(way, fault_edu)


def test_two_devices_open_whole_or_not_at_all(
    fault_twins: tuple[Device, Device], way: Way, failing_host: FailingHost
) -> None:
    framework, words = way.framework.on(failing_host), " ".join(way.words(*fault_twins))
    assert walk(failing_host, lambda: framework.open(words).close())
    assert moves_data(way, *fault_twins)


def use(session: Session) -> None:
    """What a driver does first."""
    card = session["dev0"]
    with card.enable():
        card.msi.enable(1)
        card.bars[0].map()
        session.dma_alloc(3 * PAGE, below=card_of.REACH)


# -- in a session that goes on ---------------------------------------------------------------------
def test_a_batch_is_mapped_whole_or_not_at_all(
    fault_edu: Device, way: Way, failing_host: FailingHost
) -> None:
    with way.framework.on(failing_host).open(" ".join(way.words(fault_edu))) as session:
        space, container = session.space, session["dev0"].container
        memory = session.dma_alloc(RANGES * PAGE)
        batch = [
            DmaMapping(card_of.REACH + 2 * n * PAGE, PAGE, memory.vaddr + n * PAGE)
            for n in range(RANGES)
        ]
        known = list(container.mappings)

        def map_and_unmap() -> None:
            try:
                space.map(batch)
            except VfioError:
                assert list(container.mappings) == known
                raise
            try:
                space.unmap(batch)
            except VfioError:
                assert list(container.mappings) == [*known, *batch]
                space.unmap(batch)
                raise

        assert walk(failing_host, map_and_unmap)
        assert card_moves_data(session, "dev0")


def test_interrupts_are_wired_whole_or_not_at_all(
    fault_edu: Device, way: Way, failing_host: FailingHost
) -> None:
    with way.framework.on(failing_host).open(" ".join(way.words(fault_edu))) as session:
        card = session["dev0"]

        def wire() -> None:
            card.msi.enable(1)
            card.msi.disable()

        assert walk(failing_host, wire)
        assert card_moves_data(session, "dev0")


def test_a_bar_is_mapped_whole_or_not_at_all(
    fault_edu: Device, way: Way, failing_host: FailingHost
) -> None:
    with way.framework.on(failing_host).open(" ".join(way.words(fault_edu))) as session:
        card = session["dev0"]

        def map_and_read() -> None:
            try:
                card.bars[0].map()
                assert card.bars[0].read32(card_of.IDENTITY) == IDENTITY
            finally:
                card.bars[0].unmap()

        with card.enable():
            assert walk(failing_host, map_and_read)
        assert card_moves_data(session, "dev0")


def moves_data(way: Way, *devices: Device) -> bool:
    """Whether each card still does DMA both ways."""
    with way.open(*devices) as session:
        return all(card_moves_data(session, id_) for id_ in session.devices)


def card_moves_data(session: Session, id_: str) -> bool:
    card = session[id_]
    memory = session.dma_alloc(2 * PAGE, below=card_of.REACH)
    memory.write(0, b"well")
    with card_of.running(card) as vector:
        card_of.move(card, vector, memory.iova, card_of.BUFFER, 4)
        card_of.move(card, vector, card_of.BUFFER, memory.iova + PAGE, 4)
    return memory.read(PAGE, 4) == b"well"
