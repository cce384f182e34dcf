"""Several devices in one session, and one after the other."""

from __future__ import annotations

import os

import pytest
from attrs import evolve

from vfiocore.errors import BusyError, ConfigError, GroupNotViableError, KernelError
from vfiocore.framework import Framework
from vfiocore.memory import Access
from vfiocore_sim.host import SimHost

from . import edu
from .machine import EDU, NOTHING, OTHER_EDU, TWIN_0, TWIN_1, UNVIABLE, Way, left_behind


# -- one address space -----------------------------------------------------------------------------
def test_two_cards_pass_data_on_through_the_same_address(way: Way) -> None:
    data = os.urandom(600)
    with way.open(EDU, OTHER_EDU) as session:
        first, second = session["edu"], session["other"]
        with first.enable(), second.enable():
            memory = session.dma_alloc(4096)
            edu.store(session, first, memory.iova, data)
            assert edu.fetch(session, second, memory.iova, len(data)) == data


def test_memory_of_two_cards_is_pinned_once(way: Way, host: SimHost) -> None:
    with way.open(EDU, OTHER_EDU) as session:
        assert session["edu"].container is session["other"].container
        memory = session.dma_alloc(4 * host.page_size)
        assert host.pinned_bytes == memory.length


def test_two_iommufds_stand_side_by_side_and_pin_memory_twice(iommufd: Way, host: SimHost) -> None:
    words = (
        "-object iommufd,id=iommufd0 -object iommufd,id=iommufd1"
        f" -device vfio-pci,id=edu,host={EDU.name},iommufd=iommufd0"
        f" -device vfio-pci,id=other,host={OTHER_EDU.name},iommufd=iommufd1"
    )
    with iommufd.framework.open(words) as session:
        first, second = session["edu"], session["other"]
        assert first.container is not second.container
        assert host.open_files().count("iommufd") == 2
        with first.enable(), second.enable():
            memory = session.dma_alloc(4096)
            assert host.pinned_bytes == 2 * memory.length
            edu.store(session, first, memory.iova, b"from one to the other")
            assert edu.fetch(session, second, memory.iova, 21) == b"from one to the other"


def test_two_iommufds_with_one_passed_fd_pin_memory_once(iommufd: Way, host: SimHost) -> None:
    fd = host.open("/dev/iommu")
    words = (
        f"-object iommufd,id=iommufd0,fd={fd} -object iommufd,id=iommufd1,fd={fd}"
        f" -device vfio-pci,id=edu,host={EDU.name},iommufd=iommufd0"
        f" -device vfio-pci,id=other,host={OTHER_EDU.name},iommufd=iommufd1"
    )
    with iommufd.framework.open(words) as session:
        first, second = session["edu"], session["other"]
        assert first.container is not second.container
        with first.enable(), second.enable():
            memory = session.dma_alloc(4096)
            assert host.pinned_bytes == memory.length
            edu.store(session, first, memory.iova, b"from one to the other")
            assert edu.fetch(session, second, memory.iova, 21) == b"from one to the other"
    host.close(fd)
    assert left_behind(host) == NOTHING


def test_both_backends_serve_one_session(host: SimHost) -> None:
    words = (
        "-object iommufd,id=iommufd0"
        f" -device vfio-pci,id=edu,host={EDU.name},iommufd=iommufd0"
        f" -device vfio-pci,id=other,host={OTHER_EDU.name}"
    )
    with Framework(host=host).open(words) as session:
        assert [device.container.backend for device in session] == ["iommufd", "legacy"]
        first, second = session["edu"], session["other"]
        with first.enable(), second.enable():
            memory = session.dma_alloc(4096)
            edu.store(session, first, memory.iova, b"through both")
            assert edu.fetch(session, second, memory.iova, 12) == b"through both"
    assert left_behind(host) == NOTHING


# -- groups ----------------------------------------------------------------------------------------
def test_devices_of_one_group_work_side_by_side(way: Way) -> None:
    with way.open(TWIN_0, TWIN_1) as session:
        first, second = session["twin0"], session["twin1"]
        assert first.container is second.container
        with first.enable(), second.enable():
            memory = session.dma_alloc(4096)
            edu.store(session, first, memory.iova, b"twins")
            assert edu.fetch(session, second, memory.iova, 5) == b"twins"


def test_one_device_of_a_group_may_leave_the_other_alone(way: Way) -> None:
    with way.open(TWIN_0, TWIN_1) as session, session["twin0"].enable() as card:
        session.close_device("twin1")
        memory = session.dma_alloc(4096)
        edu.store(session, card, memory.iova, b"alone")
        assert memory.read(0, 5) == b"alone"


@pytest.mark.parametrize("name", ["legacy", "iommufd"])
def test_a_group_that_is_not_viable_names_the_devices_in_the_way(host: SimHost, name: str) -> None:
    with pytest.raises(GroupNotViableError) as caught:
        Way(name, host).open(UNVIABLE)
    assert "0000:04:00.1 (e1000e)" in str(caught.value)
    assert "vfio-pci" in (caught.value.hint or "")
    assert left_behind(host) == NOTHING


@pytest.mark.parametrize("name", ["legacy", "iommufd"])
def test_a_device_that_is_named_twice_is_a_mistake_of_the_configuration(
    host: SimHost, name: str
) -> None:
    with pytest.raises(ConfigError, match=f'{EDU.name} is the device of .*"edu".* already'):
        Way(name, host).open(EDU, evolve(EDU, id="again"))
    assert host.call_names() == []


def test_two_fds_of_one_device_are_refused_by_the_kernel(host: SimHost) -> None:
    way = Way("passed", host)
    with pytest.raises(KernelError, match="open or bound already"):
        way.open(EDU, evolve(EDU, id="again"))
    way.close_passed()
    assert left_behind(host) == NOTHING


def test_a_group_serves_one_session_at_a_time(legacy: Way) -> None:
    with legacy.open(TWIN_0):
        with pytest.raises(BusyError) as caught:
            legacy.open(TWIN_1)
        assert "/dev/vfio/5" in str(caught.value)


def test_a_device_of_one_backend_is_refused_to_the_other(host: SimHost) -> None:
    with Way("legacy", host).open(EDU), pytest.raises(BusyError):
        Way("iommufd", host).open(EDU)
    with Way("iommufd", host).open(EDU), pytest.raises(BusyError):
        Way("legacy", host).open(EDU)
    assert left_behind(host) == NOTHING


# -- coming and going ------------------------------------------------------------------------------
def test_closing_one_device_leaves_the_others_and_their_memory(way: Way, host: SimHost) -> None:
    with way.open(EDU, OTHER_EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(4096)
        session.close_device("other")
        assert list(session.devices) == ["edu"]
        edu.store(session, card, memory.iova, b"still here")
        assert memory.read(0, 10) == b"still here"
        assert host.pinned_bytes == memory.length


def test_memory_outlives_the_last_device_of_a_session(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session:
        memory = session.dma_alloc(4096)
        session.close_device("edu")
        assert host.pinned_bytes == 0
        memory.write(0, b"mine")
        assert memory.read(0, 4) == b"mine"


def test_a_container_that_comes_late_has_the_memory_that_was_there(host: SimHost) -> None:
    words = (
        "-object memory-backend-ram,id=ram0,size=64K,addr=1M -object iommufd,id=iommufd0"
        f" -device vfio-pci,id=edu,host={EDU.name}"
        f" -device vfio-pci,id=late,host={OTHER_EDU.name},iommufd=iommufd0"
    )
    with Framework(host=host).open(words) as session:
        early, late = session["edu"], session["late"]
        assert early.container is not late.container
        with early.enable(), late.enable():
            edu.store(session, early, 0x100000, b"seen by both")
            assert edu.fetch(session, late, 0x100000, 12) == b"seen by both"
    assert host.faults == []


def test_a_session_can_be_opened_again_after_it_was_closed(way: Way) -> None:
    for round_ in (b"one", b"two"):
        with way.open(EDU) as session, session["edu"].enable() as card:
            memory = session.dma_alloc(4096)
            edu.store(session, card, memory.iova, round_)
            assert memory.read(0, 3) == round_
        way.close_passed()


def test_two_frameworks_in_one_process_do_not_meet(way: Way) -> None:
    stranger = SimHost()
    with (
        way.open(EDU) as mine,
        Way("legacy", stranger).open(EDU) as theirs,
        mine["edu"].enable() as card,
    ):
        memory, other = mine.dma_alloc(4096), theirs.dma_alloc(4096)
        assert memory.iova == other.iova
        edu.store(mine, card, memory.iova, b"mine")
        assert memory.read(0, 4) == b"mine"
        assert other.read(0, 4) == bytes(4)
    assert left_behind(stranger) == NOTHING


def test_memory_that_devices_may_only_read_is_safe_from_them(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session, session["edu"].enable() as card:
        memory = session.dma_alloc(4096, access=Access.READ)
        memory.write(0, b"constant")
        assert edu.fetch(session, card, memory.iova, 8) == b"constant"
        edu.store(session, card, memory.iova, b"scribble")
        assert memory.read(0, 8) == b"constant"
        assert [fault.write for fault in host.faults] == [True]
