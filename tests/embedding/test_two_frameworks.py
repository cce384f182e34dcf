"""Two frameworks in one process, each with what its application gave it, do not meet."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog
from attrs import define, field

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
import vfiocore_pci.plugin
import vfiocore_platform.plugin
from vfiocore import Config, Framework, Session, hookimpl
from vfiocore.config import Device, Object
from vfiocore.errors import ConfigError, MissingPluginError
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology

CARD = "0000:02:00.0"
SECONDS = 60
"""More than either thread ever needs."""


class Account:
    """A plugin of one application: it counts what is mapped."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    @hookimpl(wrapper=True)
    def vfio_dma_map(self, container: Any, batch: Any) -> Iterator[None]:
        self.labels.append(container.label)
        return (yield)


@define
class Application:
    """What embeds a framework: its plugins, machine, configuration, names of fds."""

    name: str
    framework: Framework
    host: SimHost
    config: Config
    account: Account = field(factory=Account)

    def open(self) -> Session:
        return self.framework.open(self.config)


def machine() -> SimHost:
    return SimHost(Topology().pci(CARD, EduDevice, group=1))


@pytest.fixture
def old() -> Application:
    """Knows the legacy backend alone."""
    account, host = Account(), machine()
    plugins = [vfiocore_legacy.plugin, vfiocore_pci.plugin, account]
    framework = Framework(plugins, autoload=False, host=host)
    config = Config.of(Device.of("vfio-pci", id="card", host=CARD))
    return Application("old", framework, host, config, account)


@pytest.fixture
def new() -> Application:
    """Knows iommufd alone, and platform devices besides."""
    account, host = Account(), machine()
    plugins = [
        vfiocore_iommufd.plugin, vfiocore_pci.plugin, vfiocore_platform.plugin, account,
    ]  # fmt: skip
    framework = Framework(plugins, autoload=False, host=host)
    config = Config.of(
        Object.of("iommufd", id="iommufd0"),
        Device.of("vfio-pci", id="card", host=CARD, iommufd="iommufd0"),
    )
    return Application("new", framework, host, config, account)


def use(session: Session, data: bytes) -> bytes:
    """Have the card copy `data` into its buffer and back; what came back."""
    card = session["card"]
    with card.enable(), session.dma_alloc(4096, iova=0x10000) as memory:
        (vector,) = card.msi.enable(1)
        memory.write(0, data)
        for source, target, command in ((0x10000, 0x40000, 5), (0x40000, 0x10800, 7)):
            values = (source, target, len(data), command)
            for register, value in zip((0x80, 0x88, 0x90, 0x98), values, strict=True):
                card.bars[0].write64(register, value)
            vector.wait(timeout=SECONDS)
            card.bars[0].write32(0x64, 0x100)
        card.msi.disable()
        found: bytes = memory.read(0x800, len(data))
    return found


# -- plugins and configuration ---------------------------------------------------------------------
def test_each_has_its_own_plugins(old: Application, new: Application) -> None:
    assert [backend.name for backend in old.framework.plugins.backends] == ["legacy"]
    assert [backend.name for backend in new.framework.plugins.backends] == ["iommufd"]
    assert "iommufd" not in old.framework.schema.objects
    assert "vfio-platform" not in old.framework.schema.devices
    assert "vfio-platform" in new.framework.schema.devices


def test_what_one_can_open_is_a_missing_plugin_for_the_other(
    old: Application, new: Application
) -> None:
    with pytest.raises(MissingPluginError, match="vfiocore-iommufd"):
        old.framework.open(new.config)
    with pytest.raises(MissingPluginError, match="vfiocore-legacy"):
        new.framework.open(old.config)
    assert old.host.open_files() == new.host.open_files() == []


def test_a_name_for_an_fd_is_known_to_one(old: Application, new: Application) -> None:
    new.framework.fds.register("iommu", fd := new.host.open("/dev/iommu"))
    words = f"-object iommufd,id=i,fd=iommu -device vfio-pci,id=card,host={CARD},iommufd=i"
    new.framework.open(words).close()
    stranger = Framework([vfiocore_iommufd.plugin, vfiocore_pci.plugin], autoload=False)
    with pytest.raises(ConfigError, match="iommu"):
        stranger.on(new.host).open(words)
    new.host.close(fd)


# -- at work ---------------------------------------------------------------------------------------
def test_two_sessions_take_turns_and_each_sees_its_own(old: Application, new: Application) -> None:
    with old.open() as first, new.open() as second:
        for turn in range(3):
            assert use(first, b"first %d" % turn) == b"first %d" % turn
            assert use(second, b"second %d" % turn) == b"second %d" % turn
        first.close()
        assert use(second, b"still there") == b"still there"
    assert set(old.account.labels) == {"container of group 1"}
    assert {label.rpartition(" of ")[2] for label in new.account.labels} == {"iommufd0"}
    assert old.host.open_files() == new.host.open_files() == []
    assert old.host.faults == new.host.faults == []


def test_each_machine_is_asked_by_its_own_framework_alone(
    old: Application, new: Application
) -> None:
    new.host.forget_calls()
    with old.open() as session:
        use(session, b"old")
    assert new.host.call_names() == []
    old.host.forget_calls()
    with new.open() as session:
        use(session, b"new")
    assert old.host.call_names() == []


def test_what_one_cannot_open_does_not_trouble_the_other(
    old: Application, new: Application
) -> None:
    with new.open() as session:
        with pytest.raises(ConfigError):
            old.framework.open("-device vfio-pci,id=card,host=0000:99:00.0")
        assert use(session, b"well") == b"well"


def test_two_threads_work_at_the_same_time(old: Application, new: Application) -> None:
    together = threading.Barrier(2, timeout=SECONDS)

    def work(application: Application) -> list[bytes]:
        found = []
        for turn in range(5):
            together.wait()
            with application.open() as session:
                found.append(use(session, f"{application.name} {turn}".encode()))
        return found

    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(("old", "new"), pool.map(work, (old, new)), strict=True))
    for name, found in results.items():
        assert found == [f"{name} {turn}".encode() for turn in range(5)]
    assert old.host.pinned_bytes == new.host.pinned_bytes == 0


def test_nobody_waits_for_the_lock_of_the_others_session(
    old: Application, new: Application
) -> None:
    with old.open() as first, new.open() as second, first.lock, ThreadPoolExecutor(1) as pool:
        assert pool.submit(use, second, b"on its own").result(SECONDS) == b"on its own"


# -- logs ------------------------------------------------------------------------------------------
class Bridge:
    """How an application without structlog hands events to `logging`."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def info(self, event: str, **facts: object) -> None:
        self.logger.info("%s %s", event, facts["id"])

    def warning(self, event: str, **facts: object) -> None:
        self.logger.warning("%s: %s", event, facts["message"])


@pytest.fixture
def capture() -> structlog.testing.LogCapture:
    return structlog.testing.LogCapture()


@define
class Logging:
    """An application that logs in its own way and opens a card with memory."""

    framework: Framework
    words: str

    def open_and_share(self) -> None:
        """Show the card's memory to devices where the kernel can: an old one, on iommufd, warns."""
        with self.framework.open(self.words) as session:
            memory = session["card"].bars[2]
            memory.map()
            session.share_region(memory)


@pytest.fixture
def apart(
    capture: structlog.testing.LogCapture, caplog: pytest.LogCaptureFixture
) -> tuple[Logging, Logging]:
    """One logs with a structlog of its own set-up, the other with `logging`; nothing is global."""
    caplog.set_level(logging.INFO, "applications.new")
    logger = structlog.wrap_logger(None, processors=[capture])
    card = "-device vfio-pci,id=card,host=0000:07:00.0"
    old = SimHost(without={"IOMMU_IOAS_MAP_FILE"})
    return (
        Logging(Framework(host=SimHost(), logger=logger), card),
        Logging(
            Framework(host=old, logger=Bridge("applications.new")),
            f"-object iommufd,id=iommufd0 {card},iommufd=iommufd0",
        ),
    )


def in_turn(both: tuple[Logging, Logging]) -> None:
    for application in both:
        application.open_and_share()


def in_threads(both: tuple[Logging, Logging]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Logging.open_and_share, both))


@pytest.mark.parametrize("open_both", [in_turn, in_threads])
def test_events_and_warnings_go_to_the_log_of_the_framework_that_caused_them(
    apart: tuple[Logging, Logging],
    capture: structlog.testing.LogCapture,
    caplog: pytest.LogCaptureFixture,
    open_both: Callable[[tuple[Logging, Logging]], None],
) -> None:
    open_both(apart)
    assert [entry["event"] for entry in capture.entries] == ["device.opened"]
    assert caplog.messages == [
        "device.opened card",
        (
            "p2p.unavailable: 0000:07:00.0 BAR 2: PCI p2p DMA is unsupported in IOAS 2 of iommufd0:"
            " it can map a BAR neither by its address nor as a file (dma-buf)"
        ),
    ]
