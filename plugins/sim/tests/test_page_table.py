"""What a simulated device reaches can be looked at."""

from __future__ import annotations

import pytest

from vfiocore import Framework
from vfiocore.log import VfioWarning
from vfiocore.memory import Access, DmaMapping
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost, Translated
from vfiocore_sim.topology import AP_MATRIX_UUID, Topology

EDU = "0000:02:00.0"
AP = f"/sys/bus/mdev/devices/{AP_MATRIX_UUID}"


@pytest.fixture
def host() -> SimHost:
    return SimHost()


def words(backend: str, device: str) -> str:
    if backend == "legacy":
        return f"-device {device}"
    return f"-object iommufd,id=iommufd0 -device {device},iommufd=iommufd0"


@pytest.mark.parametrize("backend", ["legacy", "iommufd"])
@pytest.mark.parametrize(
    "device", [f"vfio-pci,id=dev,host={EDU}", f"vfio-ap,id=dev,sysfsdev={AP}"], ids=["pci", "mdev"]
)
def test_neighbours_are_one_entry_where_their_access_is_the_same(
    host: SimHost, backend: str, device: str
) -> None:
    with (
        Framework(host=host).open(words(backend, device)) as session,
        session.dma_alloc(4096) as memory,
    ):
        container, name = session["dev"].container, session["dev"].name
        session.space.map(
            [
                DmaMapping(iova, 4096, memory.vaddr, access)
                for iova, access in (
                    (0x100000, Access.READ_WRITE),
                    (0x101000, Access.READ_WRITE),
                    (0x102000, Access.READ),
                    (0x104000, Access.READ),
                )
            ]
        )
        assert host.page_table(name) == (
            Translated(memory.iova, 4096),
            Translated(0x100000, 0x2000),
            Translated(0x102000, 0x1000, writable=False),
            Translated(0x104000, 0x1000, writable=False),
        )
        session.space.remove(container)
        assert host.page_table(name) == ()
        session.space.add(container)


def test_a_device_without_an_iommu_reaches_everything() -> None:
    host = SimHost(Topology().pci(EDU, EduDevice, group=1, noiommu=True))
    with (
        pytest.warns(VfioWarning, match="no IOMMU"),
        Framework(host=host).open(f"-device vfio-pci,host={EDU},noiommu=on"),
    ):
        assert host.page_table(EDU) == (Translated(0, 1 << 64),)


def test_a_device_that_is_not_open_reaches_nothing(host: SimHost) -> None:
    assert host.page_table(EDU) == ()


def test_there_is_no_page_table_of_a_device_that_is_not_there(host: SimHost) -> None:
    with pytest.raises(KeyError):
        host.page_table("0000:ff:00.0")
