"""A configuration that the machine does not allow: each message says what stands in the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from vfiocore.errors import (
    AccessDeniedError,
    BusyError,
    ConfigError,
    DeviceNotFoundError,
    GroupNotViableError,
    HostUnsupportedError,
    KernelError,
    UnsupportedError,
)
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.kernel.iommu import IommuModel
from vfiocore_sim.topology import AP_MATRIX_UUID, CCW_DISK_UUID, Topology

from .reading import (
    CARD,
    IOMMUFD,
    LINKED,
    WAYS,
    assert_says,
    machine,
    opened,
    refused,
    refused_open,
)

MDEVS = "/sys/bus/mdev/devices"


@pytest.fixture(params=WAYS)
def words(request: pytest.FixtureRequest) -> str:
    """The card, on either backend."""
    return WAYS[request.param]


# -- fds -------------------------------------------------------------------------------------------
@pytest.fixture
def pipe() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for end in ends:
        os.close(end)


def passed(fd: int | str, more: str = "") -> str:
    return f"{IOMMUFD} -device vfio-pci,id=card,iommufd=iommufd0,fd={fd}{more}"


def refused_fd(host: SimHost, kind: type[KernelError], words: str) -> str:
    """Passed fds stay open, whatever becomes of the session."""
    before = host.open_files()
    text = refused(kind, lambda: opened(words, host))
    assert host.open_files() == before
    return text


def test_a_number_that_is_no_open_fd_is_told_with_what_fd_takes() -> None:
    text = refused_fd(SimHost(), KernelError, passed(999))
    assert_says(text, "fd 999", "Bad file descriptor", "EBADF", "an opened /dev/vfio/devices/vfio")


def test_an_fd_of_something_else_is_told_with_what_fd_takes(pipe: int) -> None:
    text = refused_fd(SimHost(), KernelError, passed(pipe))
    assert_says(text, f"fd {pipe}", "not a character device", "an opened /dev/vfio/devices/vfio")


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ("/dev/vfio/1", UnsupportedError),
        ("/dev/null", UnsupportedError),
        ("/dev/vfio/vfio", KernelError),
    ],
)
def test_an_fd_of_a_node_that_is_no_device_is_told_with_what_fd_takes(
    node: str, kind: type[KernelError]
) -> None:
    host = SimHost()
    fd = host.open(node)
    text = refused_fd(host, kind, passed(fd))
    assert_says(text, f"VFIO_FD{fd}", "VFIO_DEVICE_BIND_IOMMUFD")
    assert_says(text, f"fd {fd} is no VFIO device", "an opened /dev/vfio/devices/vfio")
    host.close(fd)


def test_an_fd_of_another_device_than_sysfs_means_is_told_with_both_numbers() -> None:
    host = SimHost()
    fd = host.open("/dev/vfio/devices/vfio0")
    other = "/sys/bus/pci/devices/0000:05:00.0"
    text = refused_fd(host, DeviceNotFoundError, passed(fd, f",sysfsdev={other}"))
    assert_says(text, "0000:05:00.0", f"fd {fd}", "it is device 511:0, sysfs means 511:3")
    host.close(fd)


def test_a_name_that_no_fd_has_is_told_with_how_to_give_it_one() -> None:
    text = refused_open(ConfigError, passed("card"))
    assert_says(text, ".fd: no fd named 'card' was passed", "LISTEN_FDNAMES", "FdTable")


def test_an_fd_without_an_iommufd_is_told_with_what_to_add() -> None:
    text = refused_open(ConfigError, "-device vfio-pci,fd=9")
    assert_says(text, "only with an iommufd object", "add an iommufd object and iommufd=ID")


@pytest.mark.parametrize("node", ["/dev/vfio/vfio", "/dev/vfio/1", "/dev/null"])
def test_an_fd_that_is_no_iommufd_is_told_with_what_the_objects_fd_takes(node: str) -> None:
    host = SimHost()
    fd = host.open(node)
    text = refused_fd(host, KernelError, LINKED.replace("iommufd0 ", f"iommufd0,fd={fd} ", 1))
    assert_says(text, "iommufd iommufd0", f"fd {fd} is not an iommufd", "an opened /dev/iommu")
    host.close(fd)


def test_an_iommufd_that_is_closed_is_told_with_what_the_objects_fd_takes() -> None:
    text = refused_fd(SimHost(), KernelError, LINKED.replace("iommufd0 ", "iommufd0,fd=999 ", 1))
    assert_says(text, "fd 999 is not open", "an opened /dev/iommu")


# -- drivers and groups ----------------------------------------------------------------------------
def test_a_device_on_a_host_driver_is_told_with_the_driver_and_the_way_out(words: str) -> None:
    text = refused_open(HostUnsupportedError, words, machine(driver="e1000e"))
    assert_says(text, "0000:02:00.0", "bound to e1000e", "vfio-pci", "bind")


def test_a_device_without_a_driver_is_told_with_the_way_out(words: str) -> None:
    text = refused_open(HostUnsupportedError, words, machine(driver=None))
    assert_says(text, "0000:02:00.0", "bound to no driver", "vfio-pci", "bind")


def test_the_way_from_a_host_driver_is_told_with_its_files() -> None:
    text = refused_open(HostUnsupportedError, CARD, machine(driver="e1000e"))
    assert_says(text, "/driver_override", "/sys/bus/pci/drivers_probe")


def test_a_group_that_is_not_viable_is_told_with_who_is_in_the_way(words: str) -> None:
    text = refused_open(GroupNotViableError, words.replace(":02:", ":04:"))
    assert_says(text, "group 3", "0000:04:00.1 (e1000e)", "to vfio-pci, or to no driver")


def test_a_device_that_somebody_has_open_is_told_with_who_may_have_it(words: str) -> None:
    host = SimHost()
    fd = host.open("/dev/vfio/1")
    text = refused(BusyError, lambda: opened(words, host))
    assert_says(text, "/dev/vfio/1", "EBUSY", "open")
    host.close(fd)
    opened(words, host).close()


def test_a_device_that_does_not_exist_is_told_with_how_to_list_those_that_do() -> None:
    text = refused_open(ConfigError, CARD.replace(":02:", ":99:"))
    assert_says(text, '"card"', "/sys/bus/pci/devices/0000:99:00.0", "`vfiocore devices`")


# -- the wrong kind --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("vfio-platform,sysfsdev=/sys/bus/pci/devices/0000:02:00.0", "not a platform device"),
        ("vfio-pci,sysfsdev=/sys/bus/platform/devices/10000000.timer", "not a PCI device"),
    ],
)
def test_a_device_of_another_type_is_told_with_what_to_look_at(words: str, what: str) -> None:
    text = refused_open(UnsupportedError, f"-device {words}")
    assert_says(text, what, "another device type fits it, or sysfsdev= or fd= is of another")


@pytest.mark.parametrize(
    ("type_", "uuid", "what"),
    [
        ("vfio-ap", CCW_DISK_UUID, "vfio-ccw"),
        ("vfio-ccw", AP_MATRIX_UUID, "vfio-ap"),
        ("vfio-pci", AP_MATRIX_UUID, "vfio-ap"),
    ],
)
def test_a_mediated_device_of_another_type_is_told_with_what_it_is(
    type_: str, uuid: str, what: str
) -> None:
    text = refused_open(ConfigError, f"-device {type_},sysfsdev={MDEVS}/{uuid}")
    assert_says(text, f"{uuid} is a mediated device that says it is {what}", f"{type_} needs one")


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/sys/bus/pci/devices/0000:02:00.0", "is no mediated device but one of the pci bus"),
        ("/sys/bus/css/devices/0.0.0001", "is no mediated device but one of the css bus"),
        (f"{MDEVS}/{CCW_DISK_UUID}", "is a mediated device that says it is vfio-ccw"),
    ],
)
def test_what_is_no_ap_matrix_is_told_before_a_virtual_machine_is_missed(
    path: str, what: str
) -> None:
    host = SimHost(without={"kvm"})
    text = refused_open(ConfigError, f"-device vfio-ap,sysfsdev={path}", host)
    assert_says(text, path, what, "vfio-ap needs one")
    assert "KVM" not in text


# -- permissions -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "node"),
    [
        (CARD, "/dev/vfio/1"),
        (CARD, "/dev/vfio/vfio"),
        (LINKED, "/dev/iommu"),
        (LINKED, "/dev/vfio/devices/vfio0"),
    ],
)
def test_a_node_without_permission_is_told_with_how_to_get_it(words: str, node: str) -> None:
    host = SimHost()
    host.fail(f"open {node}", errno.EACCES)
    text = refused_open(AccessDeniedError, words, host)
    assert_says(text, node, "Permission denied", "EACCES", "udev rule", "--device")


def test_interrupts_that_are_not_isolated_are_told_with_the_risk_to_take(words: str) -> None:
    model = IommuModel(msi_isolated=False)
    host = SimHost(Topology().pci("0000:02:00.0", EduDevice, group=1).iommu(1, model))
    text = refused_open(AccessDeniedError, words, host)
    assert_says(text, "EPERM", "interrupts", "allow_unsafe_interrupts=1")


def test_a_no_iommu_group_without_the_privilege_is_told() -> None:
    topology = Topology().pci("0000:02:00.0", EduDevice, group=1, noiommu=True)
    host = SimHost(topology, cap_sys_rawio=False)
    with pytest.warns(UserWarning, match="no IOMMU"), pytest.raises(AccessDeniedError) as caught:
        opened(f"{CARD},noiommu=on", host)
    assert_says(str(caught.value), "/dev/vfio/noiommu-1", "EPERM", "CAP_SYS_RAWIO")


# -- machines that lack something ------------------------------------------------------------------
def test_a_machine_without_an_iommu_is_told_with_how_to_turn_it_on(words: str) -> None:
    host = machine(group=None, driver="e1000e")
    text = refused_open(HostUnsupportedError, words, host)
    assert_says(text, "in no IOMMU group", "off or missing", "firmware", "intel_iommu=on")


def test_a_group_without_an_iommu_is_not_taken_unasked(words: str) -> None:
    text = refused_open(HostUnsupportedError, words, machine(noiommu=True))
    assert_says(text, "group 1 is a no-IOMMU group", "turn on the IOMMU", "noiommu=on")


@pytest.mark.parametrize(
    ("lacking", "words", "node"),
    [("container", CARD, "/dev/vfio/vfio"), ("iommufd", LINKED, "/dev/iommu")],
)
def test_a_machine_without_the_interface_is_told_with_the_module_and_the_simulation(
    lacking: str, words: str, node: str
) -> None:
    text = refused_open(HostUnsupportedError, words, SimHost(without={lacking}))
    assert_says(text, node, "missing here", "load the module", "--host sim")


def test_a_kernel_without_cdevs_is_told_with_the_version_and_the_other_backend() -> None:
    text = refused_open(HostUnsupportedError, LINKED, SimHost(without={"cdev"}))
    assert_says(text, "no VFIO character device", "Linux 6.6", "legacy backend (no iommufd=)")
    assert "bind it" not in text


def test_a_machine_without_kvm_is_told_by_a_device_that_needs_it() -> None:
    words = f"-device vfio-ap,sysfsdev={MDEVS}/{AP_MATRIX_UUID}"
    text = refused_open(DeviceNotFoundError, words, SimHost(without={"kvm"}))
    assert_says(text, "/dev/kvm", "only opens for a virtual machine", "enable KVM", "kvm_fd=")


# -- the rest of the path still works --------------------------------------------------------------


def test_what_was_refused_works_once_it_is_put_right(words: str) -> None:
    host = machine(driver="e1000e")
    refused_open(HostUnsupportedError, words, host)
    device = "/sys/bus/pci/devices/0000:02:00.0"
    host.write_file(f"{device}/driver_override", b"vfio-pci\n")
    host.write_file(f"{device}/driver/unbind", b"0000:02:00.0\n")
    host.write_file("/sys/bus/pci/drivers_probe", b"0000:02:00.0\n")
    opened(words, host).close()
