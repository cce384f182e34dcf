"""Devices come to a running session, and go: as when a machine is given a card while it runs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfiocore.errors import BusyError, ClosedError, ConfigError, DmaRangeError
from vfiocore.session import Session
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import IommuModel, Topology

from . import edu
from .machine import AP, EDU, NOTHING, NVME, OTHER_EDU, Way, installed, left_behind


@pytest.fixture(params=["legacy", "iommufd"])
def way(request: pytest.FixtureRequest, host: SimHost) -> Iterator[Way]:
    """Each backend; nothing may be left behind."""
    yield Way(request.param, host)
    assert left_behind(host) == NOTHING


def test_a_device_that_is_plugged_reaches_what_is_mapped(legacy: Way) -> None:
    with legacy.open(EDU) as session, session.dma_alloc(4096) as memory:
        (late,) = session.plug(legacy.words(OTHER_EDU))
        assert session["other"] is late
        with late.enable() as card:
            edu.store(session, card, memory.iova, b"late")
        assert memory.read(0, 4) == b"late"


def test_a_device_can_link_to_an_object_that_is_there(iommufd: Way) -> None:
    with iommufd.open(EDU) as session:
        (late,) = session.plug("-device vfio-pci,id=late,host=0000:05:00.0,iommufd=iommufd0")
        assert late.container is session["edu"].container


def test_objects_can_be_plugged_with_their_devices(iommufd: Way, host: SimHost) -> None:
    with iommufd.open(EDU) as session:
        session.plug(
            "-object iommufd,id=second -object memory-backend-ram,id=ram1,size=64K,addr=1M",
            "-device vfio-pci,id=late,host=0000:05:00.0,iommufd=second",
        )
        assert session["late"].container is not session["edu"].container
        assert host.page_table(EDU.name) == host.page_table(OTHER_EDU.name)
        assert host.page_table(EDU.name)[0].size == 64 << 10


def test_the_configuration_is_of_what_is_open(way: Way) -> None:
    with way.open(EDU) as session:
        before = session.config
        session.plug(f"-device vfio-pci,id=late,host={NVME.name}")
        assert [item.id for item in session.config.devices] == ["edu", "late"]
        session.close_device("late")
        assert session.config == before


def test_an_id_is_free_again_once_its_device_was_closed(way: Way) -> None:
    with way.open(EDU) as session:
        session.close_device("edu")
        (again,) = session.plug(f"-device vfio-pci,id=edu,host={EDU.name}")
        assert again.name == EDU.name


def test_devices_without_an_id_get_the_next_free_one(way: Way) -> None:
    with way.open(EDU) as session:
        session.plug(f"-device vfio-pci,host={NVME.name}")
        session.plug(f"-device vfio-pci,host={OTHER_EDU.name}")
        assert list(session.devices) == ["edu", "dev0", "dev1"]


# -- what goes wrong -------------------------------------------------------------------------------
def assert_as_before(session: Session, calls: list[str]) -> None:
    assert list(session.devices) == ["edu"]
    assert [item.id for item in session.config.devices] == ["edu"]
    assert session.host.open_files() == calls


@pytest.mark.parametrize(
    ("words", "path", "message"),
    [
        ("-device vfio-pci,id=edu,host=0000:03:00.0", '"edu" (vfio-pci).id', "already"),
        ("-device vfio-pci,id=late,host=0000:02:00.0", '"late" (vfio-pci)', "is the device of"),
        ("-device vfio-pci,id=late,host=0000:99:00.0", '"late" (vfio-pci).host', "there is no"),
        ("-device vfio-pci,id=late,host=0000:03:00.0,iommufd=no", ".iommufd", "no object"),
        ("-object memory-backend-ram,id=ram0,size=0", '"ram0"', "it is 0"),
    ],
)
def test_what_does_not_go_with_the_session_is_told_with_its_place(
    way: Way, words: str, path: str, message: str
) -> None:
    with way.open(EDU) as session:
        files = session.host.open_files()
        with pytest.raises(ConfigError) as caught:
            session.plug(words)
        (problem,) = caught.value.problems
        assert path in problem.path
        assert message in str(problem)
        assert_as_before(session, files)


def test_a_session_stays_on_its_host(way: Way, tmp_path: Path) -> None:
    (tmp_path / "late.toml").write_text('host = "linux"\n', encoding="utf-8")
    with way.open(EDU) as session, pytest.raises(ConfigError, match="keeps those it has"):
        session.plug(tmp_path / "late.toml")


def test_of_two_devices_none_is_plugged_if_one_fails(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session:
        files = session.host.open_files()
        host.fail("VFIO_GROUP_GET_DEVICE_FD", errno.EBUSY, after=1)
        with pytest.raises(BusyError):
            session.plug(
                f"-object memory-backend-ram,id=ram0,size=64K "
                f"-device vfio-pci,id=one,host={NVME.name} "
                f"-device vfio-pci,id=two,host={OTHER_EDU.name}"
            )
        assert_as_before(session, files)
        assert "ram0" not in [item.id for item in session.config.objects]
        assert not session.space.mappings


def test_a_device_that_cannot_have_all_memory_is_not_plugged() -> None:
    narrow = IommuModel(aperture=(0, (1 << 32) - 1))
    topology = Topology().iommu(2, narrow)
    for group in (1, 2):
        topology.pci(f"0000:0{group}:00.0", EduDevice, group=group)
    host = SimHost(topology)
    with installed().on(host).open("-device vfio-pci,host=0000:01:00.0") as session:
        session.dma_alloc(4096, iova=1 << 32)
        files = host.open_files()
        with pytest.raises(DmaRangeError):
            session.plug("-device vfio-pci,host=0000:02:00.0")
        assert host.open_files() == files
        assert list(session.devices) == ["dev0"]
    assert left_behind(host) == NOTHING


def test_a_link_to_kvm_is_made_when_the_first_device_wants_one(way: Way, host: SimHost) -> None:
    with way.open(EDU) as session:
        assert not [name for name in host.open_files() if "kvm" in name]
        session.plug(f"-device vfio-ap,sysfsdev={AP.path}")
        assert [name for name in host.open_files() if "kvm" in name]


def test_nothing_is_plugged_into_a_closed_session(way: Way) -> None:
    session = way.open(EDU)
    session.close()
    with pytest.raises(ClosedError):
        session.plug(f"-device vfio-pci,host={NVME.name}")
