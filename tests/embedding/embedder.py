"""What an embedder writes, as type checkers see it: ``make lint`` gives it to mypy and to pyright.

It runs as well, so that what it says of the types is what happens.
"""

# pyright: strict
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import assert_type

import vfiocore_legacy.plugin
import vfiocore_pci.plugin
from vfiocore import Config, Framework, PluginFilter, Session, hookimpl, open_session
from vfiocore.address_space import VfioAddressSpace
from vfiocore.config import Device as DeviceConfig
from vfiocore.container import Batch, Container
from vfiocore.device import Device
from vfiocore.errors import DmaError, KernelError, VfioError
from vfiocore.fds import FdTable
from vfiocore.host import Host
from vfiocore.irq import Irq, Vector
from vfiocore.memory import Access, AddressSpace, Backing, DmaBuffer, DmaMapping, IovaRange, Ram
from vfiocore.plugins import PluginInfo, PluginSet
from vfiocore.region import Region
from vfiocore_pci.device import PciDevice
from vfiocore_sim.host import SimHost

CARD = "0000:02:00.0"


@hookimpl(wrapper=True)
def vfio_dma_map(container: Container, batch: Batch) -> Iterator[None]:
    assert_type(container.label, str)
    for mapping in batch:
        assert_type(mapping, DmaMapping)
    yield


def a_framework(host: Host, fds: FdTable) -> Framework:
    framework = Framework(
        [vfiocore_legacy.plugin, vfiocore_pci.plugin], autoload=False, host=host, fds=fds
    )
    assert_type(framework.plugins, PluginSet)
    assert_type(framework.plugins.infos, list[PluginInfo])
    assert_type(framework.fds, FdTable)
    return framework


def a_session(framework: Framework) -> Session:
    config = Config.of(DeviceConfig.of("vfio-pci", id="card", host=CARD))
    assert_type(config.devices, tuple[DeviceConfig, ...])
    session = framework.open(config)
    assert_type(session.devices, Mapping[str, Device])
    assert_type(session.host, Host)
    assert_type(session.memory, AddressSpace)
    assert_type(session.space, VfioAddressSpace)
    for device in session:
        assert_type(device, Device)
    return session


def its_own_memory(session: Session) -> None:
    """By address, by file and offset, or any buffer."""
    page = session.host.page_size
    assert_type(page, int)
    backing = Backing.of(bytearray(4 * page))
    assert_type(backing, Backing)
    assert_type(Backing(backing.address, page, fd=None, fd_offset=0, owner=backing), Backing)
    with session.memory.transaction():
        session.memory.root.add(Ram("ram", 2 * page, backing=backing), 0x100000)
    assert_type(session.space.usable_ranges(), tuple[IovaRange, ...])


def a_buffer(session: Session) -> bytes:
    with session.dma_alloc(100, below=1 << 32, access=Access.READ_WRITE) as buffer:
        assert_type(buffer, DmaBuffer)
        assert_type(buffer.iova, int)
        assert_type(buffer.vaddr, int)
        assert_type(buffer.length, int)
        assert_type(buffer.fd, int | None)
        assert_type(buffer.view, memoryview)
        buffer.write(0, b"hello")
        return assert_type(buffer.read(0, 5), bytes)


def a_card(session: Session) -> int:
    card = session["card"]
    if not isinstance(card, PciDevice):
        raise TypeError(card)
    assert_type(card.bars, tuple[Region | None, ...])
    assert_type(card.msi, Irq | None)
    bar = card.bars[0]
    if bar is None or card.msi is None:
        raise ValueError(card.name)
    with card.enable():
        vectors = card.msi.enable(1)
        assert_type(vectors, tuple[Vector, ...])
        assert_type(vectors[0].fileno(), int)
        bar.write32(0x60, 1)
        assert_type(vectors[0].wait(timeout=10), int)
        bar.write32(0x64, 1)
        assert_type(card.config_space.vendor_id, int)
        return assert_type(bar.read32(0), int)


def errors(framework: Framework) -> str | None:
    try:
        framework.open("-device vfio-pci,host=0000:99:00.0")
    except DmaError as error:
        assert_type(error.index, int)
    except KernelError as error:
        assert_type(error.operation, str)
    except VfioError as error:
        return str(error)
    return None


def its_own_loop(session: Session) -> None:
    done: list[str] = []
    note: Callable[[str], None] = done.append
    worker = threading.Thread(target=session.run_in_loop, args=(note, "called"))
    worker.start()
    worker.join()
    session.loop.run_once(timeout=10)
    if done != ["called"]:
        raise ValueError(done)


def the_shortcut(words: Sequence[str]) -> str:
    config = Config(plugins=PluginFilter(allow=("legacy", "pci")))
    with open_session(*words, config, host=SimHost()) as session:
        assert_type(session, Session)
        return str(session["card"].name)


def main() -> None:
    framework = a_framework(SimHost(), FdTable())
    with a_session(framework) as session:
        its_own_memory(session)
        a_buffer(session)
        a_card(session)
        its_own_loop(session)
    errors(framework)
    the_shortcut([f"-device vfio-pci,id=card,host={CARD}"])
