from __future__ import annotations

import errno
import gc
import os
import threading
import warnings

import pytest

from vfiocore.address_space import VfioAddressSpace
from vfiocore.container import NO_CAPABILITY, Capability
from vfiocore.errors import (
    BrokenPluginError,
    ClosedError,
    ConfigError,
    DmaError,
    DmaLimitError,
    DmaOverlapError,
    HostUnsupportedError,
    KernelError,
    UnsupportedError,
    VfioError,
)
from vfiocore.fds import FdTable
from vfiocore.framework import Framework
from vfiocore.hookspecs import hookimpl
from vfiocore.log import VfioWarning
from vfiocore.memory import Backing, Ram
from vfiocore.registration import ContextRequest
from vfiocore_sim.host import SimHost

from .scripted import PAGE
from .toy import APART, LINKED, ONE, TWO, Toy, peek

FIRST = "0000:02:00.0"
SECOND = "0000:03:00.0"


@pytest.fixture
def toy() -> Toy:
    return Toy()


def free(lock: threading.RLock) -> bool:
    """Whether another thread could take the lock."""
    taken: list[bool] = []

    def attempt() -> None:
        taken.append(lock.acquire(blocking=False))
        if taken[0]:
            lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return taken[0]


def open_fds() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


# -- order -----------------------------------------------------------------------------------------
def test_a_device_is_opened_and_closed_in_exact_reverse(toy: Toy) -> None:
    with toy.open(ONE):
        assert toy.record == [f"setup {FIRST}", f"open {FIRST}", "wrap one"]
        toy.record.clear()
    assert toy.record == ["release one", f"close {FIRST}", f"teardown {FIRST}"]


def test_memory_is_mapped_before_the_device_is_opened_and_unmapped_after_it_is_closed(
    toy: Toy,
) -> None:
    with toy.open("-object memory-backend-ram,id=ram,size=1M", ONE):
        pass
    label = f"container of {FIRST}"
    assert toy.record == [
        f"setup {FIRST}",
        f"map 1 in {label}",
        f"open {FIRST}",
        "wrap one",
        "release one",
        f"close {FIRST}",
        f"unmap 1 in {label}",
        f"teardown {FIRST}",
    ]


def test_several_devices_share_a_container_and_close_last_first(toy: Toy) -> None:
    with toy.open("-object memory-backend-ram,id=ram,size=1M", LINKED):
        assert toy.record == [
            "make toy0",
            f"setup {FIRST}",
            f"map 1 in container of {FIRST}",
            f"open {FIRST}",
            "wrap one",
            f"setup {SECOND}",
            f"open {SECOND}",
            "wrap two",
        ]
        toy.record.clear()
    assert toy.record == [
        "release two",
        f"close {SECOND}",
        f"teardown {SECOND}",
        "release one",
        f"close {FIRST}",
        f"unmap 1 in container of {FIRST}",
        f"teardown {FIRST}",
        "close toy0",
    ]


def test_a_device_may_join_only_containers_of_its_backend_and_object(toy: Toy) -> None:
    with toy.open(f"{APART} -device toy-pci,host=05:00.0") as session:
        assert [request.containers for request in toy.requests] == [(), (), ()]
        assert len(session.space.containers) == 3


def test_closing_a_second_time_does_nothing(toy: Toy) -> None:
    session = toy.open(ONE)
    session.close()
    toy.record.clear()
    session.close()
    assert toy.record == []


def test_nothing_stays_open(toy: Toy) -> None:
    host = SimHost()
    before = open_fds()
    with toy.open("-object memory-backend-memfd,id=ram,size=1M", LINKED, host=host) as session:
        session.dma_alloc(PAGE, shared=True)
        session.run_in_loop(lambda: None)
    assert open_fds() == before


# -- failing at each step --------------------------------------------------------------------------
STEPS = {
    "make toy0": [],
    f"setup {FIRST}": ["close toy0"],
    f"map 1 in container of {FIRST}": [f"teardown {FIRST}", "close toy0"],
    f"open {FIRST}": [f"unmap 1 in container of {FIRST}", f"teardown {FIRST}", "close toy0"],
    "wrap one": [
        f"close {FIRST}",
        f"unmap 1 in container of {FIRST}",
        f"teardown {FIRST}",
        "close toy0",
    ],
    f"setup {SECOND}": [
        "release one",
        f"close {FIRST}",
        f"unmap 1 in container of {FIRST}",
        f"teardown {FIRST}",
        "close toy0",
    ],
    "wrap two": [
        f"close {SECOND}",
        f"teardown {SECOND}",
        "release one",
        f"close {FIRST}",
        f"unmap 1 in container of {FIRST}",
        f"teardown {FIRST}",
        "close toy0",
    ],
}


@pytest.mark.parametrize("step", STEPS)
def test_failing_at_a_step_undoes_what_was_before_it_in_reverse(toy: Toy, step: str) -> None:
    host = SimHost()
    before = open_fds()
    toy.failing = {step: DmaError(errno.EIO, "op", "toy", "the first error")}
    with pytest.raises(DmaError, match="the first error"):
        toy.open("-object memory-backend-ram,id=ram,size=1M", LINKED, host=host)
    done = toy.record[toy.record.index(step) + 1 :]
    assert done == STEPS[step]
    assert not any(toy.mapped.values())
    assert open_fds() == before


@pytest.mark.parametrize("step", STEPS)
def test_the_first_error_is_raised_also_when_undoing_fails(toy: Toy, step: str) -> None:
    undoing = {name: KernelError(errno.EIO, "op", "toy", "a later error") for name in STEPS[step]}
    toy.failing = {step: KernelError(errno.EIO, "op", "toy", "the first error"), **undoing}
    with pytest.raises(KernelError, match="the first error"):
        toy.open("-object memory-backend-ram,id=ram,size=1M", LINKED)
    assert toy.record[toy.record.index(step) + 1 :] == STEPS[step]


@pytest.mark.parametrize(
    "step",
    [
        "release two",
        f"close {SECOND}",
        f"teardown {SECOND}",
        "release one",
        f"close {FIRST}",
        f"teardown {FIRST}",
        "close toy0",
    ],
)
def test_every_step_of_closing_is_tried_and_the_first_error_raised(toy: Toy, step: str) -> None:
    session = toy.open(LINKED)
    toy.record.clear()
    toy.failing = {
        step: KernelError(errno.EIO, "op", "toy", "the first error"),
        "close toy0": KernelError(errno.EIO, "op", "toy", "the first error"),
    }
    with pytest.raises(KernelError, match="the first error"):
        session.close()
    assert toy.record == [
        "release two",
        f"close {SECOND}",
        f"teardown {SECOND}",
        "release one",
        f"close {FIRST}",
        f"teardown {FIRST}",
        "close toy0",
    ]


def test_the_bodys_error_is_raised_also_when_closing_fails(toy: Toy) -> None:
    toy.failing = {"release one": KernelError(errno.EIO, "op", "toy")}
    with pytest.raises(KeyError) as caught, toy.open(ONE):
        raise KeyError
    assert "while closing: KernelError" in caught.value.__notes__[0]


# -- devices ---------------------------------------------------------------------------------------
def test_devices_are_found_by_id_in_the_order_of_opening(toy: Toy) -> None:
    with toy.open(TWO) as session:
        assert session["two"].name == SECOND
        assert [device.id for device in session] == list(session.devices) == ["one", "two"]
        assert len(session) == 2


def test_an_unknown_id_is_an_error_that_lists_the_known_ones(toy: Toy) -> None:
    with toy.open(TWO) as session:
        for use in (session.__getitem__, session.close_device):
            with pytest.raises(KeyError, match="no device 'three'; there are one, two"):
                use("three")


def test_one_device_can_be_closed_before_the_others(toy: Toy) -> None:
    with toy.open(LINKED) as session:
        toy.record.clear()
        session.close_device("one")
        assert toy.record == ["release one", f"close {FIRST}", f"teardown {FIRST}"]
        assert list(session.devices) == ["two"]
        session.close_device("two")
        assert session.space.containers == []


def test_a_devices_text_is_short(toy: Toy) -> None:
    with toy.open(ONE) as session:
        assert len(repr(session["one"])) < 150


# -- plans: everything is looked at before anything is opened --------------------------------------
def problems_of(toy: Toy, *parts: object, **more: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        toy.open(*parts, **more)  # type: ignore[arg-type]
    assert toy.record == []
    return [str(problem) for problem in caught.value.problems]


def test_every_device_that_is_not_there_is_named_before_anything_is_opened(toy: Toy) -> None:
    found = problems_of(
        toy, f"{ONE} -device toy-pci,host=0f:00.0 -device toy-pci,sysfsdev=/sys/devices/nowhere"
    )
    assert len(found) == 2
    assert "-device #2" in found[0]
    assert ".host: there is no /sys/bus/pci/devices/0000:0f:00.0 on host sim" in found[0]
    assert ".sysfsdev: there is no /sys/devices/nowhere" in found[1]
    assert "vfiocore devices" in found[1]


def test_a_device_that_nothing_selects_is_an_error(toy: Toy) -> None:
    (found,) = problems_of(toy, "-device toy-pci,id=one")
    assert "no host device is selected" in found


def test_an_fd_that_nobody_passed_is_an_error(toy: Toy) -> None:
    (found,) = problems_of(toy, "-object toy,id=t -device toy-pci,fd=nic,toy=t")
    assert "no fd named 'nic' was passed" in found


def test_memory_that_overlaps_is_an_error(toy: Toy) -> None:
    found = problems_of(
        toy,
        "-object memory-backend-ram,id=a,size=1M -object memory-backend-ram,id=b,size=1M"
        " -object memory-backend-ram,id=c,size=0 -object memory-backend-ram,id=d,size=2,"
        "addr=0xffffffffffffffff",
    )
    assert len(found) == 3
    assert 'overlaps "a" at 0x0-0xfffff (the next free address is 0x100000)' in found[0]
    assert found[1].endswith(".size: it is 0")
    assert "past the end" in found[2]


def test_a_device_that_has_to_be_mediated_and_is_not_is_an_error(toy: Toy) -> None:
    toy.always_mdev = True
    (found,) = problems_of(toy, ONE)
    assert "is no mediated device" in found


def test_a_target_has_what_sysfs_says(toy: Toy) -> None:
    with toy.open(ONE) as session:
        target = session["one"].target
        assert (target.name, target.device.group, target.fd) == (FIRST, 1, None)


def test_a_passed_fd_is_all_that_is_known_of_its_device(toy: Toy) -> None:
    fds = FdTable()
    fds.register("nic", 77)
    with toy.open("-object toy,id=t -device toy-pci,id=x,fd=nic,toy=t", fds=fds) as session:
        target = session["x"].target
        assert (target.name, target.device, target.fd) == ("VFIO_FD77", None, 77)


def test_a_passed_fd_with_sysfsdev_is_a_known_device(toy: Toy) -> None:
    line = f"-object toy,id=t -device toy-pci,id=x,fd=9,sysfsdev=/sys/bus/pci/devices/{FIRST},toy=t"
    with toy.open(line) as session:
        assert (session["x"].target.name, session["x"].target.fd) == (FIRST, 9)


def test_ram_discard_is_only_for_mediated_devices(toy: Toy) -> None:
    (found,) = problems_of(toy, f"{ONE},x-balloon-allowed=on")
    wanted = f"vfio {FIRST}: x-balloon-allowed only potentially compatible with mdev devices"
    assert wanted in found
    (found,) = problems_of(toy, "-object toy,id=t -device toy-pci,fd=9,toy=t,x-balloon-allowed=on")
    assert "vfio VFIO_FD9: x-balloon-allowed only" in found
    assert "give sysfsdev= too" in found


def test_ram_discard_is_allowed_on_request_for_a_mediated_device(toy: Toy) -> None:
    mdev = "/sys/bus/mdev/devices/6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01"
    with toy.open(f"-device toy-pci,id=x,sysfsdev={mdev}") as session:
        assert not session["x"].ram_discard_allowed
    with toy.open(f"-device toy-pci,id=x,sysfsdev={mdev},x-balloon-allowed=on") as session:
        assert session["x"].ram_discard_allowed


def test_a_machine_without_vfio_is_said_to_be_one(toy: Toy) -> None:
    toy.nodes = ("/dev/vfio/toy",)
    for line in (ONE, "-device toy-pci,host=0f:00.0", LINKED):
        with pytest.raises(HostUnsupportedError) as caught:
            toy.open(line)
        assert "needs /dev/vfio/toy, missing here" in str(caught.value)
        assert "--host sim" in (caught.value.hint or "")
        assert toy.record == []
    assert "; or" not in (caught.value.hint or "")


def test_what_is_passed_does_not_have_to_be_there(toy: Toy) -> None:
    toy.nodes = ("/dev/vfio/toy",)
    toy.open("-object toy,id=t -device toy-pci,fd=9,toy=t").close()
    toy.open(f"-object toy,id=t,fd=8 {ONE},toy=t").close()


# -- plugins that break the contract ---------------------------------------------------------------
@pytest.mark.parametrize("hook", ["vfio_setup_context", "vfio_open_device"])
def test_a_wrapper_that_swallows_the_result_is_named(toy: Toy, hook: str) -> None:
    class Swallowing:
        pass

    @hookimpl(wrapper=True)
    def swallow() -> object:
        yield

    setattr(Swallowing, hook, staticmethod(swallow))
    framework = toy.framework()
    with pytest.raises(BrokenPluginError, match=f"{hook} of backend 'legacy' gave nothing"):
        type(framework)([toy, Swallowing], autoload=False, host=SimHost()).open(ONE)


@pytest.mark.parametrize(
    ("hook", "taken_back"),
    [
        ("vfio_setup_context", [f"teardown {FIRST}"]),
        ("vfio_open_device", [f"close {FIRST}", f"teardown {FIRST}"]),
    ],
)
@pytest.mark.parametrize("way", ["raises", "swallows"])
def test_what_a_wrapper_loses_is_taken_back(
    toy: Toy, hook: str, taken_back: list[str], way: str
) -> None:
    @hookimpl(wrapper=True)
    def lose() -> object:
        yield
        if way == "raises":
            raise KernelError(errno.EPERM, "policy", "toy", "too late")

    host = SimHost()
    before = open_fds()
    with pytest.raises(VfioError, match="too late" if way == "raises" else "gave nothing"):
        opened_with(toy, hook, lose, host)
    assert [step for step in toy.record if step.startswith(("close", "teardown"))] == taken_back
    assert open_fds() == before


def opened_with(toy: Toy, hook: str, wrapper: object, host: SimHost | None = None) -> None:
    class Wrapper:
        pass

    setattr(Wrapper, hook, staticmethod(wrapper))  # type: ignore[arg-type] # it is a function
    Framework([toy, Wrapper], autoload=False, host=host or SimHost()).open(ONE).close()


def test_a_wrapper_that_refuses_before_its_yield_leaves_nothing_to_take_back(toy: Toy) -> None:
    @hookimpl(wrapper=True)
    def refuse() -> object:
        raise KernelError(errno.EPERM, "policy", "toy", "refused")
        yield

    with pytest.raises(KernelError, match="refused"):
        opened_with(toy, "vfio_setup_context", refuse)
    assert toy.record == []


def test_what_a_wrapper_passes_on_is_taken_down_once(toy: Toy) -> None:
    @hookimpl(wrapper=True)
    def pass_on() -> object:
        return (yield)

    opened_with(toy, "vfio_setup_context", pass_on)
    assert toy.record.count(f"teardown {FIRST}") == 1


def test_a_wrapper_that_fails_after_a_session_of_its_own_loses_nothing(toy: Toy) -> None:
    class Curious:
        framework: Framework

        @hookimpl(wrapper=True)
        def vfio_setup_context(self, request: ContextRequest) -> object:
            attachment = yield
            if request.target.name == FIRST:
                self.framework.open(ONE.replace(FIRST, SECOND)).close()
                raise KernelError(errno.EPERM, "policy", "toy", "too late")
            return attachment

    curious = Curious()
    curious.framework = Framework([toy, curious], autoload=False, host=SimHost())
    with pytest.raises(KernelError, match="too late"):
        curious.framework.open(ONE)
    assert toy.record[-2:] == [f"teardown {SECOND}", f"teardown {FIRST}"]


# -- KVM -------------------------------------------------------------------------------------------
def test_a_device_that_needs_kvm_gets_a_link_that_lives_as_long_as_the_devices(toy: Toy) -> None:
    toy.needs_kvm = True
    host = SimHost()
    toy.failing = {f"setup {FIRST}": KernelError(errno.EIO, "op", "toy")}
    with pytest.raises(KernelError, match="toy: op failed"):
        toy.open(ONE, host=host)
    assert "open /dev/kvm" in host.call_names()
    assert host.open_files() == []


def test_the_link_to_kvm_is_still_there_when_earlier_devices_are_undone(toy: Toy) -> None:
    toy.needs_kvm = True
    closed: list[str] = []

    class Teardown:
        @hookimpl(wrapper=True)
        def vfio_teardown_context(self) -> object:
            request = toy.requests[0]
            assert request.kvm is not None
            closed.append("closed" if request.kvm._closed else "open")
            return (yield)

    host = SimHost()
    framework = type(toy.framework())([toy, Teardown()], autoload=False, host=host)
    toy.failing = {f"open {SECOND}": KernelError(errno.EIO, "op", "toy", "late")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfiocore.kvm.KvmLink.add", lambda *_: None)
        with pytest.raises(KernelError, match="late"):
            framework.open(TWO)
    assert closed == ["open", "open"]
    assert host.open_files() == []


def test_a_device_that_needs_no_kvm_gets_none(toy: Toy) -> None:
    host = SimHost()
    toy.open(ONE, host=host).close()
    assert toy.requests[0].kvm is None
    assert "open /dev/kvm" not in host.call_names()


def test_an_embedders_kvm_is_for_every_device_and_stays_open(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfiocore.kvm.KvmLink.add", lambda *_: None)
    read, write = os.pipe()
    toy.open(ONE, kvm_fd=read).close()
    assert toy.requests[0].kvm is not None
    assert toy.requests[0].kvm.fd == read
    os.fstat(read)
    os.close(read)
    os.close(write)


# -- memory ----------------------------------------------------------------------------------------
def test_a_buffer_is_reached_by_every_device(toy: Toy) -> None:
    with toy.open(APART) as session, session.dma_alloc(100) as buffer:
        buffer.write(0, b"hello")
        for container in session.space.containers:
            mapping = toy.mapped[container.label][buffer.iova]
            assert peek(mapping, 5) == b"hello"
            assert mapping.size == PAGE


def test_a_buffer_that_is_closed_is_unmapped_everywhere(toy: Toy) -> None:
    with toy.open(APART) as session:
        session.dma_alloc(PAGE).close()
        assert not any(toy.mapped.values())
        assert list(session.space.mappings) == []


def test_a_buffer_lives_no_longer_than_its_session(toy: Toy) -> None:
    with toy.open(ONE) as session:
        buffer = session.dma_alloc(PAGE)
    assert buffer.closed
    buffer.close()


def test_a_buffer_can_be_put_at_an_address(toy: Toy) -> None:
    with toy.open(ONE) as session:
        assert session.dma_alloc(PAGE, iova=0x10000).iova == 0x10000
        with pytest.raises(DmaOverlapError):
            session.dma_alloc(PAGE, iova=0x10000)


def test_a_buffer_can_be_asked_for_below_an_address_and_aligned(toy: Toy) -> None:
    with toy.open(ONE) as session:
        assert session.dma_alloc(PAGE, align=1 << 20).iova % (1 << 20) == 0
        with pytest.raises(DmaLimitError):
            session.dma_alloc(1 << 20, below=1 << 20)


def test_a_buffer_that_cannot_be_mapped_is_freed(toy: Toy) -> None:
    host = SimHost()
    before = open_fds()
    with toy.open(ONE, host=host) as session:
        toy.failing = {f"map 1 in container of {FIRST}": DmaError(errno.ENOMEM, "map", "toy")}
        with pytest.raises(DmaError):
            session.dma_alloc(PAGE, shared=True)
        assert list(session.space.mappings) == []
    assert open_fds() == before


def test_memory_that_is_not_to_be_had_is_a_kernel_error(toy: Toy) -> None:
    host = SimHost()
    with toy.open(ONE, host=host) as session:
        host.fail("mmap", errno.ENOMEM)
        with pytest.raises(KernelError, match=f"DMA buffer: mmap failed: {PAGE:#x} bytes"):
            session.dma_alloc(PAGE)
    host.fail("memfd", errno.EMFILE)
    with pytest.raises(KernelError, match=r'"ram" \(memory-backend-memfd\)'):
        toy.open("-object memory-backend-memfd,id=ram,size=1M", host=host)


def test_guest_memory_from_the_configuration_is_where_it_says(toy: Toy) -> None:
    line = "-object memory-backend-memfd,id=ram,size=1M,addr=16M,readonly=on"
    with toy.open(line, ONE) as session:
        (mapping,) = session.space.mappings
        assert (mapping.iova, mapping.size, mapping.access.name) == (16 << 20, 1 << 20, "READ")
        assert mapping.fd is not None


def test_guest_memory_that_is_added_later_reaches_the_devices(toy: Toy) -> None:
    host = SimHost()
    with toy.open(ONE, host=host) as session:
        ram = Ram("late", PAGE, backing=Backing.allocate(host, PAGE))
        session.memory.root.add(ram, 0)
        assert list(toy.mapped[f"container of {FIRST}"]) == [0]


# -- peers -----------------------------------------------------------------------------------------
def test_a_bar_is_shown_to_the_others_until_it_is_unmapped(toy: Toy) -> None:
    with toy.open(APART) as session:
        region = session["one"].region(0)
        region.map()
        peer = session.share_region(region)
        assert not peer.unreachable
        for container in session.space.containers:
            assert peer.iova in toy.mapped[container.label]
        region.unmap()
        assert not any(toy.mapped.values())
        peer.close()


def test_a_bar_is_hidden_when_the_peer_mapping_is_closed(toy: Toy) -> None:
    with toy.open(APART) as session:
        session["one"].region(0).map()
        with session.share_region(session["one"].region(0), iova=0x10000) as peer:
            assert peer.iova == 0x10000
        assert not any(toy.mapped.values())


def test_a_bar_goes_from_the_others_when_its_device_is_closed(toy: Toy) -> None:
    with toy.open(APART) as session:
        session["one"].region(0).map()
        session.share_region(session["one"].region(0))
        session.close_device("one")
        assert not any(toy.mapped.values())


def test_a_bar_that_cannot_be_shown_is_a_fact_told_once(toy: Toy) -> None:
    toy.capabilities = NO_CAPABILITY
    with toy.open(APART) as session:
        device = session["one"]
        assert not device.reaches_peers
        device.region(0).map()
        with pytest.warns(VfioWarning, match="PCI p2p DMA is unsupported in container of") as told:
            peer = session.share_region(device.region(0))
        assert len(told) == 1
        assert list(peer.unreachable) == [f"container of {FIRST}", f"container of {SECOND}"]
        assert not any(toy.mapped.values())


def test_only_a_mapped_region_can_be_shared(toy: Toy) -> None:
    with toy.open(ONE) as session, pytest.raises(UnsupportedError, match="is not mapped"):
        session.share_region(session["one"].region(0))


# -- migration -------------------------------------------------------------------------------------
def test_migration_is_a_fact_of_each_device(toy: Toy) -> None:
    toy.capabilities = Capability.DIRTY_TRACKING
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with toy.open(ONE) as session:
            assert session["one"].migration.enabled
        with toy.open(f"{ONE},enable-migration=off") as session:
            assert not session["one"].migration.enabled


# -- threads and the end ---------------------------------------------------------------------------
def test_a_closed_session_gives_no_memory_and_shows_no_bar(toy: Toy) -> None:
    session = toy.open(ONE)
    region = session["one"].region(0)
    session.close()
    with pytest.raises(ClosedError, match="the session is closed"):
        session.dma_alloc(PAGE)
    with pytest.raises(ClosedError):
        session.share_region(region)
    with pytest.raises(ClosedError):
        session.run_in_loop(lambda: None)
    with pytest.raises(KeyError, match="there are none"):
        session["one"]


def test_a_buffers_memory_outlives_what_devices_can_reach_of_it(toy: Toy) -> None:
    alive: list[bool] = []

    class Probe:
        @hookimpl(wrapper=True)
        def vfio_dma_unmap(self, container: object) -> object:
            alive.append(not buffer.closed)
            return (yield)

    framework = type(toy.framework())([toy, Probe()], autoload=False, host=SimHost())
    with framework.open(ONE) as session:
        buffer = session.dma_alloc(PAGE)
    assert alive == [True]


def test_an_address_is_chosen_and_taken_without_another_thread_in_between(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with toy.open(ONE) as session:
        real, seen = VfioAddressSpace.allocate, []

        def allocate(*args: object, **kwargs: object) -> int:
            seen.append(free(session.lock))
            return real(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(VfioAddressSpace, "allocate", allocate)
        session.dma_alloc(PAGE)
        assert seen == [False]


def test_hooks_run_under_the_sessions_lock(toy: Toy) -> None:
    seen: list[bool] = []

    class Probe:
        @hookimpl(wrapper=True)
        def vfio_dma_map(self, container: object) -> object:
            seen.append(free(session.lock))
            return (yield)

    framework = type(toy.framework())([toy, Probe()], autoload=False, host=SimHost())
    with framework.open(ONE) as session:
        session.dma_alloc(PAGE)
    assert seen == [False]


def test_many_threads_can_allocate_and_free(toy: Toy) -> None:
    def work() -> None:
        for _ in range(30):
            with session.dma_alloc(PAGE):
                pass

    with toy.open(APART) as session:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(session.space.mappings) == []
        assert not any(toy.mapped.values())


def test_a_call_from_another_thread_runs_in_the_loop(toy: Toy) -> None:
    with toy.open(ONE) as session:
        seen: list[int] = []
        thread = threading.Thread(target=session.run_in_loop, args=(seen.append, 1))
        thread.start()
        session.loop.run_once(5)
        thread.join()
        assert seen == [1]
