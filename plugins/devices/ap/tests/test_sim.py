"""The whole path on the simulated host: option string, KVM, backend, matrix, interrupts."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import cast

import pytest

import vfiocore_ap.plugin
import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
from vfiocore.errors import DeviceAccessError
from vfiocore.framework import Framework
from vfiocore.session import Session
from vfiocore_ap.device import ApDevice
from vfiocore_ap.matrix import ApMatrix, ApQueue
from vfiocore_sim.devices import ApMatrixDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import AP_MATRIX_UUID, Topology

PLUGINS = (vfiocore_legacy.plugin, vfiocore_iommufd.plugin, vfiocore_ap.plugin)
MDEV = f"/sys/bus/mdev/devices/{AP_MATRIX_UUID}"
BACKENDS = {
    "legacy": f"-device vfio-ap,id=crypto,sysfsdev={MDEV}",
    "iommufd": f"-object iommufd,id=iommufd0 -device vfio-ap,id=crypto,sysfsdev={MDEV},iommufd=iommufd0",
}


@pytest.fixture(params=BACKENDS)
def options(request: pytest.FixtureRequest) -> str:
    return BACKENDS[cast("str", request.param)]


def machine(*, reset_fails: bool = False) -> SimHost:
    def matrix() -> ApMatrixDevice:
        return ApMatrixDevice(
            adapters=(5, 6), domains=(4,), control_domains=(4, 7), reset_fails=reset_fails
        )

    return SimHost(Topology().ap_matrix(AP_MATRIX_UUID, matrix))


@pytest.fixture
def host() -> SimHost:
    return machine()


@pytest.fixture
def session(host: SimHost, options: str) -> Iterator[Session]:
    with Framework(PLUGINS, autoload=False, host=host).open(options) as session:
        yield session


@pytest.fixture
def crypto(session: Session) -> ApDevice:
    return cast("ApDevice", session["crypto"])


def test_the_matrix_tells_adapters_domains_and_queues(crypto: ApDevice) -> None:
    assert crypto.matrix == ApMatrix((5, 6), (4,), (4, 7), (ApQueue(5, 4), ApQueue(6, 4)))
    assert crypto.guest_matrix == crypto.matrix


def test_a_changed_configuration_is_signalled_and_read(crypto: ApDevice, host: SimHost) -> None:
    assert crypto.config_changed is not None
    (vector,) = crypto.config_changed.enable()
    host.write_file(f"{MDEV}/unassign_adapter", b"0x06\n")
    assert vector.wait(5) == 1
    assert crypto.guest_matrix is not None
    assert crypto.guest_matrix.queues == (ApQueue(5, 4),)


def test_the_host_can_ask_for_the_device(crypto: ApDevice, host: SimHost) -> None:
    assert crypto.request is not None
    (vector,) = crypto.request.enable()
    host.device(AP_MATRIX_UUID).request(0)
    assert vector.wait(5) == 1


def test_a_disabled_interrupt_is_signalled_no_more(crypto: ApDevice, host: SimHost) -> None:
    assert crypto.config_changed is not None
    crypto.config_changed.enable()
    crypto.config_changed.disable()
    host.write_file(f"{MDEV}/unassign_adapter", b"0x06\n")
    (vector,) = crypto.config_changed.enable()
    assert vector.take() == 0


def test_the_queues_can_be_reset(crypto: ApDevice, host: SimHost) -> None:
    host.forget_calls()
    crypto.reset()
    assert host.call_names() == ["ioctl VFIO_DEVICE_RESET"]


def test_a_queue_that_does_not_come_back_fails_the_reset(options: str) -> None:
    with (
        Framework(PLUGINS, autoload=False, host=machine(reset_fails=True)).open(options) as session,
        pytest.raises(DeviceAccessError) as caught,
    ):
        session["crypto"].reset()
    assert caught.value.errno == errno.EIO


def test_there_are_no_regions(crypto: ApDevice) -> None:
    assert crypto.info.num_regions == 0
    with pytest.raises(DeviceAccessError):
        crypto.region(0)


def test_memory_may_be_taken_from_under_it(crypto: ApDevice) -> None:
    assert crypto.ram_discard_allowed


def test_a_passed_cdev_shows_no_matrix(host: SimHost) -> None:
    (cdev,) = host.listdir(f"{MDEV}/vfio-dev")
    fd = host.open(f"/dev/vfio/devices/{cdev}")
    options = f"-object iommufd,id=iommufd0 -device vfio-ap,id=crypto,fd={fd},iommufd=iommufd0"
    with Framework(PLUGINS, autoload=False, host=host).open(options) as session:
        assert session["crypto"].matrix is None
        assert session["crypto"].name == f"VFIO_FD{fd}"
    host.close(fd)
    assert host.open_files() == []


def test_interrupts_go_before_the_device_is_closed(host: SimHost, options: str) -> None:
    with Framework(PLUGINS, autoload=False, host=host).open(options) as session:
        session["crypto"].request.enable()
        session["crypto"].config_changed.enable()
        host.forget_calls()
    names = host.call_names()
    irqs = [at for at, name in enumerate(names) if "SET_IRQS" in name]
    closing = next(at for at, name in enumerate(names) if name == f"close device {AP_MATRIX_UUID}")
    assert len(irqs) == 2
    assert max(irqs) < closing


def test_nothing_is_left_behind(host: SimHost, options: str) -> None:
    with Framework(PLUGINS, autoload=False, host=host).open(options) as session:
        session["crypto"].request.enable()
    assert host.open_files() == []
