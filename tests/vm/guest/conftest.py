"""What tests in a guest are given: its devices, bound to VFIO's drivers and given back afterwards.

A test runs on the machines that have every device among its fixtures (``tests/vm/bed/machines.py``).
A device that a machine has and a test cannot find is an error, never a reason to skip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.vm.bed.machines import MACHINES
from vfiocore import Framework

from .binding import given_to, new_mdev, setting
from .devices import Device, ccw_subchannel, mdev, pci_functions, platform_node
from .failing import FailingHost, allocations_may_fail
from .way import MAPS_NO_BARS, WAYS, Way

if "VFIOCORE_VM_MACHINE" not in os.environ:
    raise pytest.UsageError("tests/vm/guest runs in guests: make test-vm ARGS='-k ...'")

HERE = frozenset(os.environ["VFIOCORE_VM_FIXTURES"].split())
"""The devices of this machine."""

DEVICES = frozenset(name for machine in MACHINES.values() for name in machine.fixtures)
"""The devices of all machines."""

AS_POWERED_ON = "test_reality.py"
"""Recorded answers have in them what registers and memory of cards were, which no reset sets back."""

UNSAFE_NOIOMMU = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"

MTTY = "11111111-0000-4000-8000-000000000001"
MDPY = "11111111-0000-4000-8000-000000000002"
CCW_UUID = "11111111-0000-4000-8000-000000000003"
CCW_NIC_UUIDS = (
    "11111111-0000-4000-8000-000000000004",
    "11111111-0000-4000-8000-000000000005",
)


# -- which tests run -------------------------------------------------------------------------------
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for other machines; first comes what wants cards as they power on."""
    elsewhere = [item for item in items if not wanted(item) <= HERE]
    items[:] = [item for item in items if wanted(item) <= HERE]
    items.sort(key=lambda item: item.path.name != AS_POWERED_ON)
    config.hook.pytest_deselected(items=elsewhere)


def wanted(item: pytest.Item) -> frozenset[str]:
    """The devices that a test needs, here or elsewhere."""
    return DEVICES & set(getattr(item, "fixturenames", ()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test that takes a ``way`` run on each that its devices have."""
    if "way" not in metafunc.fixturenames:
        return
    # A driver that pins pages itself is refused them by version 1
    # (vfio_iommu_type1.c:vfio_iommu_type1_pin_pages).
    unable = {"type1"} if {"ccw", "ccw_nics"} & set(metafunc.fixturenames) else set()
    if "maps_bars" in metafunc.fixturenames:
        unable |= MAPS_NO_BARS
    if "maps_no_bars" in metafunc.fixturenames:
        unable |= set(WAYS) - MAPS_NO_BARS
    metafunc.parametrize("way", [name for name in WAYS if name not in unable], indirect=True)


def pytest_report_header() -> str:
    """Which guest this is."""
    return f"guest: {os.environ['VFIOCORE_VM_MACHINE']}, Linux {os.uname().release}"


# -- devices: a fixture of each name in machines.py ------------------------------------------------
@pytest.fixture
def edu() -> Iterator[Device]:
    """QEMU's edu card, alone in its group."""
    with given_to("vfio-pci", pci_functions("1234:11e8")[0]) as (card,):
        yield card


@pytest.fixture
def twins() -> Iterator[tuple[Device, Device]]:
    """Two edu functions of one slot, in one group."""
    with given_to("vfio-pci", *pci_functions("1234:11e8")[1:3]) as (first, second):
        yield first, second


@pytest.fixture
def mixed_slot() -> tuple[Device, Device]:
    """An edu card and an NVMe controller in one slot, so in one group; as after booting."""
    return pci_functions("1234:11e8")[3], pci_functions("1b36:0010")[1]


@pytest.fixture
def edu_noiommu() -> Iterator[Device]:
    """An edu card behind nothing."""
    with (
        setting(UNSAFE_NOIOMMU, "Y"),
        given_to("vfio-pci", pci_functions("1234:11e8")[0]) as (card,),
    ):
        yield card


@pytest.fixture
def fault_reports() -> None:
    """The IOMMU reports transfers that it refused."""


@pytest.fixture
def maps_bars() -> None:
    """The ways of the test show BARs to other devices."""


@pytest.fixture
def maps_no_bars() -> None:
    """The ways of the test do not show BARs to other devices."""


@pytest.fixture
def huge_pages() -> None:
    """The processor has pages of several sizes; the s390x that QEMU emulates has not."""


@pytest.fixture
def unisolated_interrupts() -> None:
    """Nothing keeps a device from interrupting as another."""


@pytest.fixture
def root_ports() -> None:
    """PCI cards are behind ports of their own, whose buses can be reset."""


@pytest.fixture
def nvme() -> Iterator[Device]:
    with given_to("vfio-pci", pci_functions("1b36:0010")[0]) as (controller,):
        yield controller


@pytest.fixture
def testdev() -> Iterator[Device]:
    """QEMU's pci-testdev: registers that count writes."""
    with given_to("vfio-pci", *pci_functions("1b36:0005")) as (card,):
        yield card


@pytest.fixture
def ivshmem() -> Iterator[Device]:
    """A card whose BAR 2 is memory."""
    with given_to("vfio-pci", *pci_functions("1af4:1110")) as (card,):
        yield card


@pytest.fixture
def e1000e() -> Iterator[Device]:
    with given_to("vfio-pci", *pci_functions("8086:10d3")) as (card,):
        yield card


@pytest.fixture
def virtio_disks() -> Iterator[tuple[Device, Device]]:
    """Two virtio disks, each alone in its group."""
    with given_to("vfio-pci", *pci_functions("1af4:1042")) as (first, second):
        yield first, second


@pytest.fixture
def zpci() -> Iterator[Device]:
    """A network card as a PCI function of s390."""
    with given_to("vfio-pci", *pci_functions("1af4:1041")) as (card,):
        yield card


@pytest.fixture
def platform() -> Iterator[Device]:
    """A virtio-mmio device behind the SMMU."""
    with given_to("vfio-platform", platform_node("a003e00.virtio_mmio")) as (node,):
        yield node


@pytest.fixture
def platform_noiommu() -> Iterator[Device]:
    """The same, behind nothing: VFIO takes it while it is allowed to do without an IOMMU."""
    with (
        setting(UNSAFE_NOIOMMU, "Y"),
        given_to("vfio-platform", platform_node("a003e00.virtio_mmio")) as (node,),
    ):
        yield node


@pytest.fixture(scope="session")
def subchannels() -> Iterator[tuple[Device, ...]]:
    """The subchannels that tests use, bound until the last test is over.

    Back with its own driver a subchannel becomes a disk or a network card in the background. With
    one taken and given back for each test the kernel crashed.
    """
    numbers = ("0.0.1234", "0.0.1235", "0.0.1236")
    with given_to("vfio_ccw", *map(ccw_subchannel, numbers)) as bound:
        yield bound


@pytest.fixture
def ccw(subchannels: tuple[Device, ...]) -> Iterator[Device]:
    """The disk's subchannel, as the mediated device that vfio_ccw makes of it."""
    with new_mdev(subchannels[0], "vfio_ccw-io", CCW_UUID) as disk:
        yield disk


@pytest.fixture
def ccw_nics(subchannels: tuple[Device, ...]) -> Iterator[tuple[Device, Device]]:
    """Two channel-attached network cards, as mediated devices."""
    with (
        new_mdev(subchannels[1], "vfio_ccw-io", CCW_NIC_UUIDS[0]) as first,
        new_mdev(subchannels[2], "vfio_ccw-io", CCW_NIC_UUIDS[1]) as second,
    ):
        yield first, second


@pytest.fixture
def no_adapters() -> None:
    """A kernel that knows cryptographic adapters, on a machine without the instructions for them."""
    assert not os.path.exists("/sys/bus/ap")


@pytest.fixture
def mtty() -> Device:
    """The kernel's sample serial card."""
    return mdev(MTTY)


@pytest.fixture
def mdpy() -> Device:
    """The kernel's sample display."""
    return mdev(MDPY)


@pytest.fixture
def injectors() -> Iterator[None]:
    """A kernel that can be made to fail."""
    with allocations_may_fail():
        yield


@pytest.fixture
def failing_host(way: Way, injectors: None) -> Iterator[FailingHost]:
    """The host of the way, as it is until it is armed."""
    host = FailingHost(way.framework.make_host())
    yield host
    host.end()


@pytest.fixture
def fault_edu(injectors: None) -> Iterator[Device]:
    """An edu card alone in its group, for a kernel that fails."""
    with given_to("vfio-pci", pci_functions("1234:11e8")[0]) as (card,):
        yield card


@pytest.fixture
def fault_twins(injectors: None) -> Iterator[tuple[Device, Device]]:
    """Two edu functions of one group, for a kernel that fails."""
    with given_to("vfio-pci", *pci_functions("1234:11e8")[1:]) as (first, second):
        yield first, second


# -- vfiocore --------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def framework() -> Framework:
    """Whatever is installed, on this machine."""
    return Framework(host="linux")


@pytest.fixture
def way(request: pytest.FixtureRequest, framework: Framework) -> Way:
    """Each way to an address space; see `pytest_generate_tests`."""
    return Way.called(request.param, framework)


@pytest.fixture(params=["type1v2", "iommufd"])
def backend(request: pytest.FixtureRequest, framework: Framework) -> Way:
    """Each backend on this machine as it is, for what does not let itself be given another host."""
    return Way.called(request.param, framework)


@pytest.fixture
def noiommu(framework: Framework) -> Way:
    """Without an IOMMU."""
    return Way.called("noiommu", framework)
