"""What happens to programs: they are killed, they fork, their device is taken, they may little."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vfiocore import Framework
from vfiocore.errors import BusyError, DmaMemlockError, KernelError
from vfiocore.session import Session

from . import edu as card_of
from .child import Tell, forked
from .devices import Device
from .way import Way

PAGE = os.sysconf("SC_PAGE_SIZE")
SECONDS = 60
SIZE = 2048
"""QEMU ends itself when the card is asked for all of its 4096 bytes."""
NOBODY = 65534
TEXT = b"still the same"


def moves_data(session: Session, id_: str = "dev0") -> bool:
    """Whether a card still does DMA both ways."""
    memory = session.dma_alloc(2 * PAGE, below=card_of.REACH)
    memory.write(0, TEXT)
    with card_of.running(session[id_]) as vector:
        card_of.load(session[id_], vector, memory.iova, len(TEXT))
        card_of.store(session[id_], vector, memory.iova + PAGE, len(TEXT))
    return memory.read(PAGE, len(TEXT)) == TEXT


# -- killed ----------------------------------------------------------------------------------------
def phases(session: Session, tell: Callable[[str], None]) -> None:
    """What a driver does, one thing after the other; it never comes to an end of its own."""
    card = session["dev0"]
    tell("opened")
    memory = session.dma_alloc(4 * PAGE, below=card_of.REACH)
    tell("memory mapped")
    with card.enable():
        (vector,) = card.msi.enable(1)
        tell("interrupts wired")
        card.bars[0].map()
        tell("BAR mapped")
        card_of.load(card, vector, memory.iova, SIZE)
        card_of.start(card, card_of.BUFFER, memory.iova, SIZE)
        tell("DMA under way")
        threading.Event().wait()


@pytest.mark.parametrize(
    "phase", ["opened", "memory mapped", "interrupts wired", "BAR mapped", "DMA under way"]
)
def test_after_a_kill_the_next_program_has_the_device(edu: Device, way: Way, phase: str) -> None:
    def drive(tell: Tell) -> None:
        with way.open(edu) as session:
            phases(session, tell)

    with forked(drive) as child:
        while (said := child.says()) != phase:
            assert said, "the child ended"
        child.kill()
    with way.open(edu) as session:
        card_of.wait_until_idle(session["dev0"])
        assert moves_data(session)


# -- in use ----------------------------------------------------------------------------------------
@contextmanager
def another_program_with(card: Device, way: Way) -> Iterator[int]:
    """The number of a process that has a card open."""

    def hold(tell: Tell) -> None:
        with way.open(card):
            tell("opened")
            threading.Event().wait()

    with forked(hold) as child:
        assert child.says() == "opened"
        yield child.pid


@pytest.mark.parametrize("theirs", ["type1v2", "iommufd"])
def test_a_device_that_another_program_has_is_busy(
    edu: Device, way: Way, framework: Framework, theirs: str
) -> None:
    with another_program_with(edu, Way.called(theirs, framework)), pytest.raises(BusyError):
        way.open(edu)
    with way.open(edu) as session:
        assert moves_data(session)


def test_the_program_that_has_a_device_bound_is_named(edu: Device, framework: Framework) -> None:
    way = Way.called("iommufd", framework)
    with another_program_with(edu, way) as pid:
        with pytest.raises(BusyError, match=rf"\(process {pid}\)") as caught:
            way.open(edu)
        assert caught.value.errno == errno.EINVAL


def test_the_program_that_has_a_device_of_several_bound_is_named_as_a_possible_cause(
    twins: tuple[Device, Device], framework: Framework
) -> None:
    way = Way.called("iommufd", framework)
    with another_program_with(twins[0], way) as pid:
        with pytest.raises(KernelError, match=rf"(?s)\(process {pid}\).*possible causes") as caught:
            way.open(twins[0])
        assert caught.value.errno == errno.EINVAL
        assert not isinstance(caught.value, BusyError)


def test_a_program_that_only_has_the_file_open_is_not_in_the_way(
    edu: Device, framework: Framework
) -> None:
    (name,) = os.listdir(edu.path / "vfio-dev")
    fd = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR)
    with Way.called("iommufd", framework).open(edu) as session:
        assert moves_data(session)
    os.close(fd)


# -- the last of a container -----------------------------------------------------------------------
def test_a_container_outlives_each_device_but_the_last(
    edu: Device, twins: tuple[Device, Device], way: Way
) -> None:
    with way.open(edu, twins[0]) as session:
        memory = session.dma_alloc(PAGE, below=card_of.REACH)
        session.close_device("dev0")
        assert moves_data(session, "dev1")
        session.close_device("dev1")
        assert session.space.containers == []
        memory.close()
    with way.open(twins[0], edu) as session:
        assert moves_data(session, "dev0")
        assert moves_data(session, "dev1")


# -- fork ------------------------------------------------------------------------------------------
def test_memory_stays_the_device_s_over_a_fork(edu: Device, way: Way) -> None:
    with way.open(edu) as session:
        memory = session.dma_alloc(2 * PAGE, below=card_of.REACH)
        memory.write(0, TEXT)

        def scribble(tell: Tell) -> None:
            memory.write(0, b"of the child's")
            tell("written")

        with forked(scribble) as child:
            assert child.says() == "written"
            assert child.end() == 0
        assert memory.read(0, len(TEXT)) == TEXT
        assert moves_data(session)


def test_the_end_of_a_child_takes_nothing_from_its_parent(edu: Device, way: Way) -> None:
    with way.open(edu) as session:
        with forked(lambda tell: tell("here")) as child:
            assert child.says() == "here"
            child.end()
        assert moves_data(session)


# -- taken -----------------------------------------------------------------------------------------
def test_a_device_that_the_host_wants_back_is_let_go_in_time(edu: Device, way: Way) -> None:
    session = way.open(edu)
    asked = session["dev0"].request_irq()
    assert asked is not None
    (wanted,) = asked.enable()
    gone = threading.Event()

    def give_back() -> None:
        session.loop.remove(wanted.fileno())
        session.close_device("dev0")
        gone.set()

    session.loop.add(wanted.fileno(), give_back)
    remover = threading.Thread(target=(edu.path / "remove").write_text, args=("1",))
    remover.start()
    try:
        while not gone.is_set():
            session.loop.run_once(timeout=SECONDS)
        remover.join(SECONDS)
        assert not remover.is_alive()
        assert not edu.path.exists()
        session.close()
    finally:
        Path("/sys/bus/pci/rescan").write_text("1")
    assert edu.path.exists()


# -- little may ------------------------------------------------------------------------------------
def test_an_unprivileged_program_does_everything_with_files_that_it_is_given(edu: Device) -> None:
    (name,) = os.listdir(edu.path / "vfio-dev")
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    device = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR)

    def unprivileged(tell: Tell) -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 * PAGE, 64 * PAGE))
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(PermissionError):
            os.open("/dev/iommu", os.O_RDWR)
        words = f"-object iommufd,id=i,fd={iommufd} -device vfio-pci,id=dev0,fd={device},iommufd=i"
        with Framework(host="linux").open(words) as session:
            tell(str(moves_data(session)))
            try:
                session.dma_alloc(128 * PAGE)
            except DmaMemlockError as error:
                tell(str(error))

    try:
        with forked(unprivileged) as child:
            assert child.says() == "True"
            told = child.says()
            assert "RLIMIT_MEMLOCK" in told
            assert str(64 * PAGE) in told
            assert child.end() == 0
    finally:
        os.close(device)
        os.close(iommufd)


def test_a_child_that_was_executed_gets_files_by_number_and_by_name(edu: Device) -> None:
    (name,) = os.listdir(edu.path / "vfio-dev")
    for by_name in (False, True):
        iommufd = os.open("/dev/iommu", os.O_RDWR)
        device = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR)
        assert executed(iommufd, device, by_name=by_name) == 0
        os.close(device)
        os.close(iommufd)


def executed(iommufd: int, device: int, *, by_name: bool) -> int:
    """Run ``vfiocore run --once`` on two open files; its exit code."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    try:
        for number, fd in enumerate((os.dup(iommufd), os.dup(device)), 3):
            os.dup2(fd, number)
        if by_name:
            os.environ |= {
                "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "iommu:card",
            }  # fmt: skip
        one, other = ("iommu", "card") if by_name else ("3", "4")
        words = ["-object", f"iommufd,id=i,fd={one}", "-device", f"vfio-pci,fd={other},iommufd=i"]
        os.execvp("vfiocore", ["vfiocore", "run", "--once", *words])
    finally:
        os._exit(127)
