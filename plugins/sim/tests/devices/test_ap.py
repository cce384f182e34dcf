"""The AP matrix: vfio-ap's answers and the attributes of its mdev."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.uapi.vfio import (
    VFIO_AP_CFG_CHG_IRQ_INDEX,
    VFIO_AP_REQ_IRQ_INDEX,
    VFIO_DEVICE_FLAGS_AP,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_NONE,
)
from vfiocore_sim.device import SysfsFile
from vfiocore_sim.devices import ApHost, ApMatrixDevice
from vfiocore_sim.devices.ap import NOTIFIED
from vfiocore_sim.vfio.bench import Bench, fired

Refused: TypeAlias = Callable[[int], AbstractContextManager[None]]
Matrix: TypeAlias = Bench[ApMatrixDevice]
UUID = "6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01"


def matrix_bench(device: ApMatrixDevice, machine: object | None = None) -> Matrix:
    bench = Bench(device, name=UUID)
    bench.kernel.machine = machine
    return bench


@pytest.fixture
def matrix() -> Iterator[Matrix]:
    with matrix_bench(ApMatrixDevice(adapters=(5, 6), domains=(4, 0xAB)), object()) as bench:
        yield bench


def attribute(device: ApMatrixDevice, name: str) -> SysfsFile:
    file = device.sysfs_files()[name]
    assert isinstance(file, SysfsFile)
    return file


def show(device: ApMatrixDevice, name: str) -> str:
    read = attribute(device, name).read
    assert read
    return read().decode()


def store(device: ApMatrixDevice, name: str, text: str) -> None:
    write = attribute(device, name).write
    assert write
    write(text.encode())


def test_it_describes_itself(matrix: Matrix) -> None:
    info = matrix.info()
    assert info.flags == VFIO_DEVICE_FLAGS_AP | VFIO_DEVICE_FLAGS_RESET
    assert (info.num_regions, info.num_irqs) == (0, 2)
    assert (matrix.irq(0).count, matrix.irq(0).flags) == (1, VFIO_IRQ_INFO_EVENTFD)


def test_it_cannot_be_opened_without_a_kvm(refused: Refused) -> None:
    device = ApMatrixDevice()
    assert device.needs_kvm()
    with refused(errno.EINVAL), matrix_bench(device):
        pass


def test_a_kvm_takes_one_matrix_only(refused: Refused) -> None:
    host, machine = ApHost(), object()
    first = ApMatrixDevice(adapters=(1,), host=host)
    second = ApMatrixDevice(adapters=(2,), host=host)
    with matrix_bench(first, machine):
        with refused(errno.EPERM), matrix_bench(second, machine):
            pass
        with matrix_bench(second, object()):
            pass
    with matrix_bench(second, machine):
        pass


def test_it_has_no_region_at_all(matrix: Matrix, refused: Refused) -> None:
    with refused(errno.EINVAL):
        matrix.region(0)
    with refused(errno.EINVAL):
        matrix.device.pread(4, 0)
    with refused(errno.EINVAL):
        matrix.device.pwrite(b"x", 0)
    with refused(errno.EINVAL):
        matrix.device.mmap(mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, 0)


def test_an_unknown_ioctl_is_not_supported(matrix: Matrix, refused: Refused) -> None:
    with refused(errno.EOPNOTSUPP):
        matrix.ioctl(0x3B70, bytearray(32))


@pytest.mark.parametrize(
    "flags",
    [
        VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
        VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER,
        VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK,
    ],
)
def test_only_eventfds_can_be_set(matrix: Matrix, refused: Refused, flags: int) -> None:
    with refused(errno.EINVAL):
        matrix.set_irqs(VFIO_AP_REQ_IRQ_INDEX, flags, b"\1", count=1)


def test_a_request_is_signalled(matrix: Matrix) -> None:
    (event,) = matrix.listen(VFIO_AP_REQ_IRQ_INDEX)
    matrix.device.request(1)
    assert fired(event) == 1


def test_a_change_of_the_matrix_is_signalled_once(matrix: Matrix) -> None:
    (event,) = matrix.listen(VFIO_AP_CFG_CHG_IRQ_INDEX)
    store(matrix.device, "assign_adapter", "7\n")
    store(matrix.device, "assign_adapter", "0x07\n")
    assert fired(event) == 1
    store(matrix.device, "unassign_adapter", "7")
    store(matrix.device, "unassign_adapter", "7")
    assert fired(event) == 1


def test_minus_one_takes_the_eventfd_away(matrix: Matrix, refused: Refused) -> None:
    (event,) = matrix.listen(VFIO_AP_CFG_CHG_IRQ_INDEX)
    matrix.attach(VFIO_AP_CFG_CHG_IRQ_INDEX, [-1])
    store(matrix.device, "assign_domain", "1")
    assert fired(event) == 0
    with refused(errno.EINVAL):
        matrix.attach(VFIO_AP_CFG_CHG_IRQ_INDEX, [-2])


def test_a_failing_reset_is_an_io_error(refused: Refused) -> None:
    with matrix_bench(ApMatrixDevice(reset_fails=True), object()) as bench, refused(errno.EIO):
        bench.reset()


def test_the_matrix_lists_every_queue(matrix: Matrix) -> None:
    assert show(matrix.device, "matrix") == "05.0004\n05.00ab\n06.0004\n06.00ab\n"
    assert show(matrix.device, "guest_matrix") == show(matrix.device, "matrix")


def test_half_a_matrix_lists_what_there_is() -> None:
    assert show(ApMatrixDevice(domains=()), "matrix") == "05.\n"
    assert show(ApMatrixDevice(adapters=()), "matrix") == ".0004\n"


def test_control_domains_are_listed() -> None:
    device = ApMatrixDevice()
    store(device, "assign_control_domain", "0xff")
    assert show(device, "control_domains") == "00ff\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [("", errno.EINVAL), ("five", errno.EINVAL), ("09", errno.EINVAL), ("256", errno.ENODEV)],
)
@pytest.mark.parametrize("name", ["assign_adapter", "unassign_domain", "assign_control_domain"])
def test_a_bad_number_is_refused(refused: Refused, name: str, text: str, code: int) -> None:
    with refused(code):
        store(ApMatrixDevice(), name, text)


def test_a_queue_of_the_host_is_not_available(refused: Refused) -> None:
    device = ApMatrixDevice(host=ApHost(host_queues=frozenset({(6, 4)})))
    with refused(errno.EADDRNOTAVAIL):
        store(device, "assign_adapter", "6")
    assert show(device, "matrix") == "05.0004\n"


def test_a_queue_of_another_matrix_is_in_use(refused: Refused) -> None:
    host = ApHost()
    device = ApMatrixDevice(host=host)
    ApMatrixDevice(adapters=(6,), host=host)
    with refused(errno.EADDRINUSE):
        store(device, "assign_adapter", "6")
    assert show(device, "matrix") == "05.0004\n"


def test_ap_config_shows_masks_whose_leftmost_bit_is_zero() -> None:
    adapters, domains, control = show(ApMatrixDevice(), "ap_config").strip().split(",")
    assert adapters == "0x04" + "0" * 62
    assert domains == "0x08" + "0" * 62
    assert control == "0x" + "0" * 64


@given(*[st.sets(st.integers(0, 255), max_size=5)] * 3)
def test_ap_config_reads_back_what_was_written(
    adapters: set[int], domains: set[int], control: set[int]
) -> None:
    text = show(
        ApMatrixDevice(adapters=adapters, domains=domains, control_domains=control), "ap_config"
    )
    device = ApMatrixDevice()
    store(device, "ap_config", text)
    assert (device.adapters, device.domains, device.control_domains) == (
        adapters,
        domains,
        control,
    )


@pytest.mark.parametrize("text", ["", "0x1,0x2", "1,2,3", "0x1,0x2,0x3,0x4", "0xzz,0x0,0x0"])
def test_a_malformed_ap_config_is_refused_whole(refused: Refused, text: str) -> None:
    device = ApMatrixDevice()
    with refused(errno.EINVAL):
        store(device, "ap_config", text)
    assert show(device, "matrix") == "05.0004\n"


def test_an_ap_config_that_takes_a_host_queue_changes_nothing(refused: Refused) -> None:
    device = ApMatrixDevice(host=ApHost(host_queues=frozenset({(0, 0)})))
    before = show(device, "ap_config")
    with refused(errno.EADDRNOTAVAIL):
        store(device, "ap_config", "0x8,0x8,0x8")
    assert show(device, "ap_config") == before


def test_an_ap_config_above_the_maximum_has_no_device(refused: Refused) -> None:
    device = ApMatrixDevice(host=ApHost(max_adapter=63))
    with refused(errno.ENODEV):
        store(device, "ap_config", "0x" + "0" * 63 + "1,0x0,0x0")


def test_a_queue_sets_the_indicator_that_the_guest_named(matrix: Matrix) -> None:
    matrix.device.enable_notification((5, 4), 0x3000)
    matrix.device.complete((5, 4))
    matrix.device.complete((6, 4))
    assert matrix.memory.read(0x3000, 2) == bytes([NOTIFIED, 0])
    assert matrix.memory.pinned == [(0x3000, 1)]


def test_a_new_indicator_replaces_the_one_before(matrix: Matrix) -> None:
    matrix.device.enable_notification((5, 4), 0x3000)
    matrix.device.enable_notification((5, 4), 0x4000)
    matrix.device.complete((5, 4))
    assert matrix.memory.read(0x3000, 1) == b"\0"
    assert matrix.memory.pinned == [(0x4000, 1)]


def test_a_queue_that_is_not_assigned_cannot_notify(matrix: Matrix) -> None:
    with pytest.raises(KeyError):
        matrix.device.enable_notification((9, 9), 0x3000)


def test_an_unmapped_indicator_ends_the_notification(matrix: Matrix) -> None:
    matrix.device.enable_notification((5, 4), 0x3000)
    matrix.device.dma_unmapped(0x3000, 0x1000)
    matrix.device.complete((5, 4))
    assert matrix.memory.read(0x3000, 1) == b"\0"
    assert matrix.memory.pinned == []


def test_a_reset_ends_every_notification(matrix: Matrix) -> None:
    matrix.device.enable_notification((5, 4), 0x3000)
    matrix.device.enable_notification((6, 4), 0x3001)
    matrix.device.reset()
    assert matrix.memory.pinned == []
