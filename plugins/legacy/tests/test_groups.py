"""Groups: who may have them, who is in the way, and what the errors say."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from vfiocore.container import Capability, DeviceTarget
from vfiocore.errors import (
    AccessDeniedError,
    BusyError,
    DeviceNotFoundError,
    GroupNotViableError,
    HostUnsupportedError,
    KernelError,
    UnsupportedError,
)
from vfiocore.log import VfioWarning
from vfiocore.memory.mapping import DmaMapping
from vfiocore.registration import ContextRequest
from vfiocore_legacy import plugin
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import MdevType, Topology

from .wiring import CARD, TWIN, Card, Mediated, Wiring, nothing_left

TOKEN = uuid.UUID("2f1b7a9c-0b1e-4c57-9a3f-0d5c6d1e2f30")


def on(topology: Topology, **options: Any) -> Wiring:
    return Wiring(SimHost(topology, **options))


# -- the device ------------------------------------------------------------------------------------
def test_a_device_without_a_group_says_that_the_iommu_is_off() -> None:
    wiring = on(Topology().pci(CARD, Card, group=None, driver=None))
    with pytest.raises(HostUnsupportedError, match="in no IOMMU group") as caught:
        wiring.open(CARD)
    assert caught.value.errno == errno.ENOENT
    assert "intel_iommu=on" in (caught.value.hint or "")


def test_a_device_on_a_host_driver_is_refused_by_the_name_of_that_driver() -> None:
    wiring = on(Topology().pci(CARD, Card, group=1, driver="e1000e"))
    with pytest.raises(HostUnsupportedError, match="bound to e1000e") as caught:
        wiring.open(CARD)
    assert "driver_override" in (caught.value.hint or "")
    assert wiring.host.call_names() == []


def test_a_device_on_no_driver_is_told_which_one_it_needs() -> None:
    wiring = on(Topology().platform("10000000.timer", Card, group=1, driver=None))
    with pytest.raises(HostUnsupportedError, match="no driver, and VFIO needs vfio-platform"):
        wiring.open("10000000.timer", bus="platform")


def test_a_variant_driver_of_vfio_is_a_vfio_driver() -> None:
    wiring = on(Topology().pci(CARD, Card, group=1, driver="mlx5_vfio_pci"))
    assert wiring.open(CARD).attachment.group.number == 1


def test_a_mediated_device_whose_driver_is_named_otherwise_is_opened_all_the_same() -> None:
    kind = MdevType("mtty-1", "vfio-pci", "mtty", Mediated)
    topology = Topology().pci(CARD, Card, group=1).mdev_parent(CARD, kind)
    wiring = on(topology.mdev(str(TOKEN), parent=CARD), without={"cdev"})
    assert wiring.open(str(TOKEN), bus="mdev").access.name == str(TOKEN)


def test_a_passed_device_fd_belongs_to_the_other_backend(host: SimHost) -> None:
    request = ContextRequest(
        host=host, target=DeviceTarget("VFIO_FD9", fd=9), backend_object=None, options={}
    )
    with pytest.raises(HostUnsupportedError, match="fd does not tell the group") as caught:
        plugin.vfio_setup_context(request)
    assert "iommufd=" in (caught.value.hint or "")


def test_a_device_is_opened_once_in_a_session(wiring: Wiring, host: SimHost) -> None:
    opened = wiring.open(TWIN)
    with pytest.raises(BusyError, match="open in this session already"):
        wiring.open(TWIN)
    assert opened.container.attachments == [opened.attachment]


# -- the node --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOENT, DeviceNotFoundError, "modprobe vfio-pci"),
        (errno.ENODEV, DeviceNotFoundError, "left its VFIO driver"),
        (errno.EACCES, AccessDeniedError, "udev"),
        (errno.EPERM, AccessDeniedError, "CAP_SYS_RAWIO"),
        (errno.EBUSY, BusyError, "another process"),
    ],
)
def test_a_group_that_cannot_be_opened_says_why(
    wiring: Wiring, host: SimHost, number: int, kind: type[KernelError], hint: str
) -> None:
    host.fail("open /dev/vfio/1", number)
    with pytest.raises(kind, match="/dev/vfio/1: open failed") as caught:
        wiring.open(CARD)
    assert caught.value.errno == number
    assert hint in (caught.value.hint or "")


def test_two_sessions_cannot_have_one_group(wiring: Wiring, host: SimHost) -> None:
    wiring.open(CARD)
    with pytest.raises(BusyError):
        Wiring(host).open(CARD)


# -- viability -------------------------------------------------------------------------------------
def not_viable() -> Topology:
    bridge = {"class": b"0x060400\n"}
    network = {"class": b"0x020000\n"}
    return (
        Topology()
        .pci(CARD, Card, group=3)
        .pci("0000:02:00.1", group=3, driver="e1000e", files=network)
        .pci("0000:02:00.2", group=3, driver="snd_hda_intel")
        .pci("0000:02:00.3", group=3, driver="pcieport", files=bridge)
        .pci("0000:02:00.4", group=3, driver="shpchp", files=bridge)
        .pci("0000:02:00.5", group=3, driver="pci-stub")
        .pci("0000:02:00.6", Card, group=3)
        .pci("0000:02:00.7", group=3, driver=None)
    )


def test_a_group_that_is_not_viable_lists_the_devices_in_the_way_and_their_drivers() -> None:
    wiring = on(not_viable())
    with pytest.raises(GroupNotViableError) as caught:
        wiring.open(CARD)
    assert caught.value.errno == errno.EPERM
    assert caught.value.detail == (
        "not viable: host drivers have 0000:02:00.1 (e1000e), 0000:02:00.2 (snd_hda_intel)"
    )
    assert "bind these devices to vfio-pci" in (caught.value.hint or "")
    nothing_left(wiring.host)


@pytest.mark.parametrize("driver", ["pcieport", "pci-stub", "vfio-pci", None])
def test_devices_that_leave_dma_alone_do_not_make_a_group_unviable(driver: str | None) -> None:
    topology = Topology().pci(CARD, Card, group=3)
    assert on(topology.pci("0000:02:00.1", group=3, driver=driver)).open(CARD)


def test_a_group_that_somebody_takes_after_its_status_was_read_is_not_viable_either(
    wiring: Wiring, host: SimHost
) -> None:
    host.fail("VFIO_GROUP_SET_CONTAINER", errno.EPERM)
    with pytest.raises(GroupNotViableError, match="belongs to somebody else"):
        wiring.open(CARD)
    nothing_left(host)


# -- without an IOMMU ------------------------------------------------------------------------------
@pytest.fixture
def bare() -> Wiring:
    return on(Topology().pci(CARD, Card, group=7, noiommu=True))


def test_a_group_without_an_iommu_has_to_be_allowed(bare: Wiring) -> None:
    with pytest.raises(HostUnsupportedError, match="group 7 is a no-IOMMU group") as caught:
        bare.open(CARD)
    assert "noiommu=on" in (caught.value.hint or "")
    assert bare.host.call_names() == []


def test_an_allowed_group_without_an_iommu_is_opened_with_a_warning(bare: Wiring) -> None:
    with pytest.warns(VfioWarning, match="group 7 has no IOMMU"):
        opened = bare.open(CARD, noiommu=True)
    assert "open /dev/vfio/noiommu-7" in bare.host.call_names()
    assert opened.container.capabilities == Capability.NO_IOMMU
    bare.close_all()
    nothing_left(bare.host)


@pytest.mark.filterwarnings("ignore::vfiocore.log.VfioWarning")
def test_nothing_can_be_mapped_without_an_iommu(
    bare: Wiring, page_at: Callable[[int], DmaMapping]
) -> None:
    container = bare.open(CARD, noiommu=True).container
    with pytest.raises(UnsupportedError, match="no IOMMU to map it in"):
        container.dma_map([page_at(0)])
    assert len(container.mappings) == 0


@pytest.mark.filterwarnings("ignore::vfiocore.log.VfioWarning")
def test_groups_with_and_without_an_iommu_never_share_a_container() -> None:
    topology = Topology().pci(CARD, Card, group=7, noiommu=True).pci(TWIN, Card, group=5)
    wiring = on(topology)
    bare, protected = wiring.open(CARD, noiommu=True), wiring.open(TWIN)
    assert bare.container is not protected.container
    wiring.close_all()
    nothing_left(wiring.host)


@pytest.mark.filterwarnings("ignore::vfiocore.log.VfioWarning")
def test_a_group_without_an_iommu_needs_a_capability_and_says_so() -> None:
    wiring = on(Topology().pci(CARD, Card, group=7, noiommu=True), cap_sys_rawio=False)
    with pytest.raises(AccessDeniedError) as caught:
        wiring.open(CARD, noiommu=True)
    assert "CAP_SYS_RAWIO" in (caught.value.hint or "")


def test_allowing_groups_without_an_iommu_changes_nothing_for_one_that_has_one(
    wiring: Wiring,
) -> None:
    opened = wiring.open(CARD, noiommu=True)
    assert Capability.NO_IOMMU not in opened.container.capabilities


# -- the device fd ---------------------------------------------------------------------------------
class Guarded(Card):
    """A function that wants a VF token."""

    options: str | None = None

    def token_check(self, name_options: str | None, token: bytes | None) -> None:
        self.options = name_options
        if name_options != f" vf_token={TOKEN}":
            raise OSError(errno.EACCES, "no token, no device")


def test_the_vf_token_goes_with_the_name() -> None:
    device = Guarded()
    on(Topology().pci(CARD, device, group=1)).open(CARD, vf_token=TOKEN)
    assert device.options == f" vf_token={TOKEN}"


def test_a_missing_vf_token_is_asked_for() -> None:
    wiring = on(Topology().pci(CARD, Guarded(), group=1))
    with pytest.raises(AccessDeniedError) as caught:
        wiring.open(CARD)
    assert "vf-token=" in (caught.value.hint or "")
    nothing_left(wiring.host)


def test_a_vf_token_for_a_device_that_takes_none_is_an_error(wiring: Wiring) -> None:
    with pytest.raises(UnsupportedError) as caught:
        wiring.open(CARD, vf_token=TOKEN)
    assert "leave vf-token= out" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENODEV, DeviceNotFoundError),
        (errno.EPERM, AccessDeniedError),
        (errno.EAGAIN, BusyError),
        (errno.EBUSY, BusyError),
        (errno.EINVAL, KernelError),
    ],
)
def test_a_device_that_does_not_open_gives_its_group_back(
    wiring: Wiring, host: SimHost, number: int, kind: type[KernelError]
) -> None:
    host.fail("VFIO_GROUP_GET_DEVICE_FD", number)
    with pytest.raises(kind, match=f"{CARD} of group 1"):
        wiring.open(CARD)
    nothing_left(host)


def test_leaving_a_container_while_a_device_is_open_elsewhere_is_an_error_and_closes_the_rest(
    wiring: Wiring, host: SimHost
) -> None:
    opened = wiring.open(CARD)
    copy = host.dup(opened.access.fd)
    with pytest.raises(BusyError, match="a device of the group is still open"):
        wiring.close(opened)
    assert opened.container.closed
    host.close(copy)
    nothing_left(host)
