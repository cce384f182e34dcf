"""Order is the API: what is asked of the kernel, from the first open to the last close.

The rule for the end: irqs off, BAR mappings, device fd, group or detach, container or IOAS,
iommufd. Detaching is an ioctl of the device, so on iommufd it comes right before its fd is closed.
"""

from __future__ import annotations

from itertools import groupby

import pytest

from vfiocore.session import Session
from vfiocore_sim.host import SimHost

from .cards import machine_with_memory
from .machine import AP, EDU, OTHER_EDU, TIMER, TWIN_0, TWIN_1, Part, Way

ASKING = (
    "VFIO_DEVICE_GET_INFO",
    "VFIO_DEVICE_FEATURE",
    "VFIO_DEVICE_GET_REGION_INFO",
    "VFIO_DEVICE_GET_IRQ_INFO",
)
"""What only asks an open device, and is of no concern here."""

MEMORY = "-object memory-backend-ram,id=ram0,size=64K"


@pytest.fixture
def host() -> SimHost:
    return SimHost(machine_with_memory())


def calls(host: SimHost) -> list[str]:
    """What was asked since the last look; the ioctls without that word, repetitions once."""
    names = [name.removeprefix("ioctl ") for name in host.call_names()]
    host.forget_calls()
    return [name for name, _ in groupby(name for name in names if name not in ASKING)]


def use(session: Session, part: Part) -> None:
    """Map a BAR and enable an interrupt."""
    card = session[part.id]
    card.memory_decode = True
    card.bars[0].map()
    card.msi.enable()


# -- legacy ----------------------------------------------------------------------------------------
LEGACY_OPENING = [
    "open /dev/vfio/1",
    "VFIO_GROUP_GET_STATUS",
    "open /dev/vfio/vfio",
    "VFIO_GET_API_VERSION",
    "VFIO_CHECK_EXTENSION",
    "VFIO_GROUP_SET_CONTAINER",
    "VFIO_SET_IOMMU",
    "VFIO_CHECK_EXTENSION",
    "VFIO_IOMMU_GET_INFO",
    "VFIO_IOMMU_MAP_DMA",
    "VFIO_GROUP_GET_DEVICE_FD",
]
LEGACY_CLOSING = [
    "VFIO_DEVICE_SET_IRQS",
    f"munmap device {EDU.name}",
    f"close device {EDU.name}",
    "VFIO_IOMMU_UNMAP_DMA",
    "VFIO_GROUP_UNSET_CONTAINER",
    "close container",
    "close group 1",
]


def test_legacy_maps_memory_before_it_opens_the_device(legacy: Way, host: SimHost) -> None:
    with legacy.open(EDU, first=MEMORY):
        assert calls(host) == LEGACY_OPENING


def test_legacy_closes_in_reverse(legacy: Way, host: SimHost) -> None:
    with legacy.open(EDU, first=MEMORY) as session:
        use(session, EDU)
        calls(host)
    assert calls(host) == LEGACY_CLOSING


def test_a_second_group_joins_the_container(legacy: Way, host: SimHost) -> None:
    with legacy.open(EDU, OTHER_EDU, first=MEMORY):
        assert calls(host) == [
            *LEGACY_OPENING,
            "open /dev/vfio/4",
            "VFIO_GROUP_GET_STATUS",
            "VFIO_GROUP_SET_CONTAINER",
            "VFIO_IOMMU_GET_INFO",
            "VFIO_GROUP_GET_DEVICE_FD",
        ]


def test_groups_leave_in_reverse_and_the_last_one_takes_the_container_down(
    legacy: Way, host: SimHost
) -> None:
    with legacy.open(EDU, OTHER_EDU, first=MEMORY) as session:
        use(session, EDU)
        use(session, OTHER_EDU)
        calls(host)
    assert calls(host) == [
        "VFIO_DEVICE_SET_IRQS",
        f"munmap device {OTHER_EDU.name}",
        f"close device {OTHER_EDU.name}",
        "VFIO_GROUP_UNSET_CONTAINER",
        "VFIO_IOMMU_GET_INFO",
        "close group 4",
        *LEGACY_CLOSING,
    ]


def test_a_second_device_of_a_group_only_opens_its_fd(legacy: Way, host: SimHost) -> None:
    with legacy.open(TWIN_0, TWIN_1):
        opening = calls(host)
    assert opening.count("open /dev/vfio/5") == 1
    assert opening[-1] == "VFIO_GROUP_GET_DEVICE_FD"
    assert calls(host) == [
        f"close device {TWIN_1.name}",
        f"close device {TWIN_0.name}",
        "VFIO_GROUP_UNSET_CONTAINER",
        "close container",
        "close group 5",
    ]


def test_legacy_tells_kvm_of_the_group_before_the_device_is_opened(
    legacy: Way, host: SimHost
) -> None:
    with legacy.open(AP):
        opening = calls(host)
    closing = calls(host)
    assert opening[:3] == ["open /dev/kvm", "KVM_CREATE_VM", "KVM_CREATE_DEVICE"]
    assert opening[-2:] == ["KVM_SET_DEVICE_ATTR", "VFIO_GROUP_GET_DEVICE_FD"]
    assert closing == [
        f"close device {AP.name}",
        "KVM_SET_DEVICE_ATTR",
        "VFIO_GROUP_UNSET_CONTAINER",
        "close container",
        "close group 7",
        "close kvm-vfio",
        "close kvm-vm",
        "close kvm",
    ]


# -- iommufd ---------------------------------------------------------------------------------------
IOMMUFD_OPENING = [
    "open /dev/iommu",
    "open /dev/vfio/devices/vfio0",
    "VFIO_DEVICE_BIND_IOMMUFD",
    "IOMMU_GET_HW_INFO",
    "IOMMU_IOAS_ALLOC",
    "IOMMU_HWPT_ALLOC",
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
    "IOMMU_IOAS_MAP_FILE",  # too short on purpose: does the kernel know it?
    "IOMMU_IOAS_IOVA_RANGES",
    "IOMMU_IOAS_MAP",
]
IOMMUFD_CLOSING = [
    "VFIO_DEVICE_SET_IRQS",
    f"munmap device {EDU.name}",
    "VFIO_DEVICE_DETACH_IOMMUFD_PT",
    "IOMMU_DESTROY",  # the HWPT
    f"close device {EDU.name}",
    "IOMMU_IOAS_UNMAP",
    "IOMMU_DESTROY",  # the IOAS
    "close iommufd",
]


def test_iommufd_binds_attaches_and_maps(iommufd: Way, host: SimHost) -> None:
    with iommufd.open(EDU, first=MEMORY):
        assert calls(host) == IOMMUFD_OPENING


def test_iommufd_closes_in_reverse(iommufd: Way, host: SimHost) -> None:
    with iommufd.open(EDU, first=MEMORY) as session:
        use(session, EDU)
        calls(host)
    assert calls(host) == IOMMUFD_CLOSING


def test_a_second_device_joins_the_ioas_and_its_page_table(iommufd: Way, host: SimHost) -> None:
    with iommufd.open(EDU, OTHER_EDU, first=MEMORY):
        assert calls(host) == [
            *IOMMUFD_OPENING,
            "open /dev/vfio/devices/vfio3",
            "VFIO_DEVICE_BIND_IOMMUFD",
            "IOMMU_GET_HW_INFO",
            "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
            "IOMMU_IOAS_IOVA_RANGES",
        ]


def test_devices_leave_in_reverse_and_the_last_one_takes_the_ioas_down(
    iommufd: Way, host: SimHost
) -> None:
    with iommufd.open(EDU, OTHER_EDU, first=MEMORY) as session:
        use(session, EDU)
        use(session, OTHER_EDU)
        calls(host)
    assert calls(host) == [
        "VFIO_DEVICE_SET_IRQS",
        f"munmap device {OTHER_EDU.name}",
        "VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "IOMMU_IOAS_IOVA_RANGES",
        f"close device {OTHER_EDU.name}",
        *IOMMUFD_CLOSING,
    ]


def test_iommufd_tells_kvm_of_the_device_before_it_is_bound(iommufd: Way, host: SimHost) -> None:
    with iommufd.open(AP):
        opening = calls(host)
    closing = calls(host)
    bind = opening.index("VFIO_DEVICE_BIND_IOMMUFD")
    assert opening[bind - 2 : bind] == ["open /dev/vfio/devices/vfio7", "KVM_SET_DEVICE_ATTR"]
    assert closing == [
        "VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "KVM_SET_DEVICE_ATTR",
        f"close device {AP.name}",
        "IOMMU_DESTROY",
        "close iommufd",
        "close kvm-vfio",
        "close kvm-vm",
        "close kvm",
    ]


def test_passed_fds_are_detached_and_never_closed(host: SimHost) -> None:
    way = Way("passed", host)
    words = way.words(EDU)
    host.forget_calls()
    with way.framework.open(f"{MEMORY} {words}"):
        opening = calls(host)
    assert opening == ["IOMMU_DESTROY", *IOMMUFD_OPENING[2:]]  # is the passed fd an iommufd?
    assert calls(host) == [
        "VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "IOMMU_DESTROY",
        "IOMMU_IOAS_UNMAP",
        "IOMMU_DESTROY",
    ]
    way.close_passed()


# -- both ------------------------------------------------------------------------------------------
def test_a_device_that_is_closed_alone_goes_the_same_way(way: Way, host: SimHost) -> None:
    with way.open(EDU, OTHER_EDU) as session:
        use(session, EDU)
        calls(host)
        session.close_device("edu")
        alone = calls(host)
    assert alone[:2] == ["VFIO_DEVICE_SET_IRQS", f"munmap device {EDU.name}"]
    assert not {"close container", "close iommufd", "VFIO_IOMMU_UNMAP_DMA"} & set(alone)


def test_a_session_closes_once(way: Way, host: SimHost) -> None:
    session = way.open(EDU)
    session.close()
    calls(host)
    session.close()
    assert calls(host) == []


@pytest.mark.parametrize("name", ["legacy", "iommufd"])
def test_devices_close_in_reverse_of_their_opening(host: SimHost, name: str) -> None:
    with Way(name, host).open(EDU, TIMER, OTHER_EDU):
        calls(host)
    closed = [name for name in calls(host) if name.startswith("close device")]
    assert closed == [f"close device {part.name}" for part in (OTHER_EDU, TIMER, EDU)]


def test_an_error_in_the_body_is_raised_after_everything_was_closed(way: Way) -> None:
    def body() -> None:
        with way.open(EDU) as session:
            use(session, EDU)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        body()
