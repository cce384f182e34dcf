"""The frontend against a stand-in for the device file; `test_sim.py` has the whole path."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator

import pytest
from attrs import Factory, define

from vfiocore.access import ACCESS_KINDS, DeviceAccess, DeviceInfo, IrqInfo
from vfiocore.config import Device, OnOffAuto
from vfiocore.container import Container, DeviceTarget
from vfiocore.errors import (
    DeviceAccessError,
    DeviceNotFoundError,
    KernelError,
    UnsupportedError,
    kernel_error,
)
from vfiocore.host import LinuxHost
from vfiocore.registration import DeviceSetup
from vfiocore.sysfs import HostDevice
from vfiocore.uapi import vfio
from vfiocore_ap.device import ApDevice
from vfiocore_ap.matrix import ApMatrix, ApQueue

UUID = "6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01"
PATH = f"/sys/devices/vfio_ap/matrix/{UUID}"


class HostWithFiles(LinuxHost):
    """The eventfds of this machine, and a sysfs of its own."""

    def __init__(self) -> None:
        self.files = {"matrix": b"05.0004\n05.0005\n", "control_domains": b"0005\n"}

    def exists(self, path: str) -> bool:
        return path.removeprefix(f"{PATH}/") in self.files

    def read_file(self, path: str) -> bytes:
        if not self.exists(path):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return self.files[path.removeprefix(f"{PATH}/")]


@define(eq=False, kw_only=True)
class FakeMatrix(DeviceAccess):
    """A device file that answers as vfio_ap does."""

    flags: int = vfio.VFIO_DEVICE_FLAGS_AP | vfio.VFIO_DEVICE_FLAGS_RESET
    num_irqs: int = 2
    eventfds: dict[int, int] = Factory(dict)
    refusal: int | None = None

    def info(self) -> DeviceInfo:
        return DeviceInfo(self.flags, 0, self.num_irqs)

    def irq_info(self, index: int) -> IrqInfo:
        return IrqInfo(index, vfio.VFIO_IRQ_INFO_EVENTFD, 1)

    def set_irqs(
        self, index: int, action: int, *, start: int = 0, count: int = 1, data: bytes = b""
    ) -> int:
        wanted = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
        if self.refusal is not None or action != wanted:
            raise self.error(self.refusal or errno.EINVAL, "VFIO_DEVICE_SET_IRQS")
        self.eventfds[index] = int.from_bytes(data, sys.byteorder, signed=True)
        return 0

    def feature(self, feature: int, operation: int, payload: bytes = b"") -> bytes:
        raise self.error(errno.ENOTTY, "VFIO_DEVICE_FEATURE")

    def error(self, number: int, operation: str) -> KernelError:
        return kernel_error(OSError(number, ""), operation, self.name, kinds=ACCESS_KINDS)


Opener = Callable[..., ApDevice]


@pytest.fixture
def host() -> HostWithFiles:
    return HostWithFiles()


@pytest.fixture
def file(host: HostWithFiles) -> FakeMatrix:
    return FakeMatrix(host=host, fd=-1, name=UUID)


@pytest.fixture
def opened(file: FakeMatrix) -> Iterator[Opener]:
    made: list[ApDevice] = []

    def open_(*, in_sysfs: bool = True) -> ApDevice:
        known = HostDevice(UUID, "mdev", PATH, "vfio_ap_mdev", 9, None) if in_sysfs else None
        setup = DeviceSetup(
            config=Device("vfio-ap", "crypto", {"enable-migration": OnOffAuto.AUTO}),
            target=DeviceTarget(UUID, known),
            access=file,
            container=Container(host=file.host, backend="legacy", label="container"),
            ram_discard_allowed=True,
        )
        made.append(ApDevice(setup))
        return made[-1]

    yield open_
    file.refusal = None
    for device in made:
        device.release()


@pytest.fixture
def crypto(opened: Opener) -> ApDevice:
    return opened()


# -- what it is --------------------------------------------------------------------------------
def test_a_device_of_another_kind_is_refused(opened: Opener, file: FakeMatrix) -> None:
    file.flags = vfio.VFIO_DEVICE_FLAGS_CCW
    with pytest.raises(UnsupportedError, match="not an AP matrix"):
        opened()


@pytest.mark.parametrize(("num_irqs", "there"), [(0, []), (1, ["request"])])
def test_an_old_kernel_has_fewer_interrupts(
    opened: Opener, file: FakeMatrix, num_irqs: int, there: list[str]
) -> None:
    file.num_irqs = num_irqs
    crypto = opened()
    names = ["request", "config_changed"]
    assert [name for name in names if getattr(crypto, name) is not None] == there


# -- the matrix --------------------------------------------------------------------------------
def test_the_matrix_is_read_from_sysfs(crypto: ApDevice) -> None:
    assert crypto.matrix == ApMatrix((5,), (4, 5), (5,), (ApQueue(5, 4), ApQueue(5, 5)))


def test_the_matrix_is_read_anew_each_time(crypto: ApDevice, host: HostWithFiles) -> None:
    assert crypto.matrix is not None
    host.files["matrix"] = b"05.\n"
    assert crypto.matrix == ApMatrix((5,), (), (5,), ())


def test_the_guest_has_the_queues_that_exist(crypto: ApDevice, host: HostWithFiles) -> None:
    host.files["guest_matrix"] = b"05.0004\n"
    assert crypto.guest_matrix is not None
    assert crypto.guest_matrix.queues == (ApQueue(5, 4),)


def test_an_old_kernel_does_not_tell_what_the_guest_has(crypto: ApDevice) -> None:
    assert crypto.guest_matrix is None


def test_with_an_fd_alone_no_matrix_is_known(opened: Opener) -> None:
    crypto = opened(in_sysfs=False)
    assert crypto.matrix is None
    assert crypto.guest_matrix is None


def test_a_matrix_that_cannot_be_read_is_an_error(crypto: ApDevice, host: HostWithFiles) -> None:
    del host.files["matrix"]
    with pytest.raises(DeviceNotFoundError, match="matrix"):
        _ = crypto.matrix


# -- interrupts --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["request", "config_changed"])
def test_an_interrupt_is_taken_away_by_minus_one(
    crypto: ApDevice, file: FakeMatrix, name: str
) -> None:
    irq = getattr(crypto, name)
    (vector,) = irq.enable()
    assert file.eventfds == {irq.index: vector.fd}
    irq.disable()
    assert file.eventfds == {irq.index: -1}
    assert vector.closed


def test_disabling_twice_is_fine(crypto: ApDevice) -> None:
    assert crypto.request is not None
    crypto.request.enable()
    crypto.request.disable()
    crypto.request.disable()


def test_an_interrupt_that_cannot_be_registered_is_an_error(
    crypto: ApDevice, file: FakeMatrix
) -> None:
    assert crypto.request is not None
    file.refusal = errno.EINVAL
    with pytest.raises(DeviceAccessError):
        crypto.request.enable()
    assert crypto.request.vectors == ()


def test_an_eventfd_is_closed_also_if_the_kernel_keeps_it(
    crypto: ApDevice, file: FakeMatrix
) -> None:
    assert crypto.request is not None
    (vector,) = crypto.request.enable()
    file.refusal = errno.EINVAL
    with pytest.raises(DeviceAccessError):
        crypto.request.disable()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.host.read(vector.fd, 8)


def test_messages_name_the_interrupts(crypto: ApDevice) -> None:
    assert [crypto.irq(index).name for index in range(2)] == [
        f"{UUID} request",
        f"{UUID} configuration change",
    ]
