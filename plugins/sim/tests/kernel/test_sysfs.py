"""/sys and /dev of the simulated machine."""

from __future__ import annotations

import errno
import threading
import time
from typing import Any

import pytest

from vfiocore import sysfs
from vfiocore_sim.device import SysfsFile
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology

A, HOST_DRIVEN = "0000:01:00.0", "0000:04:00.1"
DEVICES = "/sys/bus/pci/devices"


def store(kernel: Any, path: str, text: str) -> None:
    kernel.host.write_file(path, text.encode())


def driver_of(kernel: Any, name: str) -> str | None:
    return sysfs.read_device(kernel.host, f"{DEVICES}/{name}").driver


# -- what is there -----------------------------------------------------------------------------
def test_a_device_shows_its_driver_group_and_cdev(kernel: Any) -> None:
    device = sysfs.read_device(kernel.host, f"{DEVICES}/{A}")
    assert device.path == "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
    assert (device.bus, device.driver, device.group) == ("pci", "vfio-pci", 1)
    assert device.cdev == "vfio0"
    assert sysfs.read_device(kernel.host, f"{DEVICES}/{HOST_DRIVEN}").cdev is None


def test_a_group_lists_its_devices_and_what_it_reserves(kernel: Any) -> None:
    host = kernel.host
    names = [device.name for device in sysfs.group_devices(host, 4)]
    assert names == ["0000:04:00.0", HOST_DRIVEN]
    regions = host.read_file("/sys/kernel/iommu_groups/4/reserved_regions")
    assert regions == b"0x00000000fee00000 0x00000000feefffff msi\n"


def test_the_type_of_a_group_changes_when_vfio_owns_it(kernel: Any) -> None:
    path = "/sys/kernel/iommu_groups/1/type"
    assert kernel.host.read_file(path) == b"DMA\n"
    kernel.container_with(1)
    assert kernel.host.read_file(path) == b"unmanaged\n"


def test_nodes_are_those_of_groups_and_devices_on_vfio(kernel: Any) -> None:
    assert kernel.host.listdir("/dev/vfio") == ["1", "2", "3", "4", "5", "devices", "vfio"]
    cdevs = [f"vfio{number}" for number in range(6)]
    assert kernel.host.listdir("/dev/vfio/devices") == cdevs


@pytest.mark.parametrize(
    ("feature", "path"),
    [
        ("iommufd", "/dev/iommu"),
        ("container", "/dev/vfio/vfio"),
        ("cdev", "/dev/vfio/devices"),
        ("cdev", f"{DEVICES}/{A}/vfio-dev"),
    ],
)
def test_an_older_kernel_lacks_nodes(machine: Any, feature: str, path: str) -> None:
    assert machine().host.exists(path)
    assert not machine(without={feature}).host.exists(path)


def test_module_parameters_are_shown(machine: Any) -> None:
    host = machine(dma_entry_limit=7, allow_unsafe_interrupts=True).host
    root = "/sys/module/vfio_iommu_type1/parameters"
    assert host.read_file(f"{root}/dma_entry_limit") == b"7\n"
    assert host.read_file(f"{root}/allow_unsafe_interrupts") == b"Y\n"


# -- as a file system --------------------------------------------------------------------------
def test_paths_resolve_through_links_and_dots(kernel: Any) -> None:
    host = kernel.host
    assert host.realpath(f"{DEVICES}/{A}/driver/../../devices/{A}") == host.realpath(
        f"{DEVICES}/{A}"
    )
    assert host.realpath(f"{DEVICES}/{A}/nothing/here").endswith(f"/{A}/nothing/here")
    assert host.readlink(f"{DEVICES}/{A}").startswith("../../../devices/")


@pytest.mark.parametrize(
    ("call", "path", "code"),
    [
        ("listdir", f"{DEVICES}/nothing", errno.ENOENT),
        ("listdir", f"{DEVICES}/{A}/numa_node", errno.ENOTDIR),
        ("listdir", f"{DEVICES}/{A}/numa_node/x", errno.ENOTDIR),
        ("read_file", DEVICES, errno.EISDIR),
        ("read_file", "/sys/bus/pci/drivers_probe", errno.EACCES),
        ("readlink", DEVICES, errno.EINVAL),
        ("open", f"{DEVICES}", errno.EISDIR),
        ("open", "/dev/vfio/99", errno.ENOENT),
    ],
)
def test_what_cannot_be_read_says_why(
    kernel: Any, refused: Any, call: str, path: str, code: int
) -> None:
    with refused(code):
        getattr(kernel.host, call)(path)


def test_what_cannot_be_written_says_why(kernel: Any, refused: Any) -> None:
    with refused(errno.EACCES):
        store(kernel, f"{DEVICES}/{A}/numa_node", "0")
    with refused(errno.EISDIR):
        store(kernel, DEVICES, "0")


def test_a_device_program_adds_its_own_files(machine: Any) -> None:
    base: Any = machine().device(A).__class__
    stored: list[bytes] = []

    class Speaking(base):  # type: ignore[misc]
        def sysfs_files(self) -> Any:
            return {"of_node/compatible": b"acme,x\0", "knob": SysfsFile(write=stored.append)}

    kernel = machine(Topology().platform("1.x", Speaking, group=1))
    root = "/sys/bus/platform/devices/1.x"
    assert kernel.host.read_file(f"{root}/of_node/compatible") == b"acme,x\0"
    store(kernel, f"{root}/knob", "turned")
    assert stored == [b"turned"]


# -- drivers -----------------------------------------------------------------------------------
def test_a_device_moves_to_vfio_by_override(kernel: Any, refused: Any) -> None:
    root = f"{DEVICES}/{HOST_DRIVEN}"
    with refused(errno.EBUSY):
        store(kernel, "/sys/bus/pci/drivers/e1000e/bind", HOST_DRIVEN)
    store(kernel, f"{root}/driver/unbind", HOST_DRIVEN)
    with refused(errno.ENODEV):
        store(kernel, "/sys/bus/pci/drivers/vfio-pci/bind", HOST_DRIVEN)
    assert kernel.host.read_file(f"{root}/driver_override") == b"(null)\n"
    store(kernel, f"{root}/driver_override", "vfio-pci\n")
    assert kernel.host.read_file(f"{root}/driver_override") == b"vfio-pci\n"
    store(kernel, "/sys/bus/pci/drivers_probe", HOST_DRIVEN)
    assert driver_of(kernel, HOST_DRIVEN) == "vfio-pci"
    store(kernel, f"{root}/driver_override", "\n")
    assert kernel.host.read_file(f"{root}/driver_override") == b"(null)\n"
    kernel.container_with(4)


def test_without_an_override_the_host_driver_comes_back(kernel: Any) -> None:
    store(kernel, "/sys/bus/pci/drivers/e1000e/unbind", HOST_DRIVEN)
    store(kernel, "/sys/bus/pci/drivers_probe", HOST_DRIVEN)
    assert driver_of(kernel, HOST_DRIVEN) == "e1000e"


def test_a_host_driver_does_not_bind_in_a_group_that_vfio_owns(kernel: Any, refused: Any) -> None:
    store(kernel, "/sys/bus/pci/drivers/e1000e/unbind", HOST_DRIVEN)
    kernel.container_with(4)
    with refused(errno.EBUSY):
        store(kernel, "/sys/bus/pci/drivers/e1000e/bind", HOST_DRIVEN)
    assert driver_of(kernel, HOST_DRIVEN) is None


def test_unbinding_the_wrong_driver_or_nothing_is_refused(kernel: Any, refused: Any) -> None:
    for name in (A, "0000:ff:00.0"):
        with refused(errno.ENODEV):
            store(kernel, "/sys/bus/pci/drivers/e1000e/unbind", name)
    with refused(errno.ENODEV):
        store(kernel, "/sys/bus/pci/drivers_probe", "0000:ff:00.0")


def test_new_ids_let_a_driver_take_free_devices(machine: Any, refused: Any) -> None:
    base: Any = machine().device(A).__class__

    class Named(base):  # type: ignore[misc]
        def sysfs_files(self) -> Any:
            return {"vendor": b"0x1234\n", "device": b"0x11e8\n"}

    kernel = machine(Topology().pci(A, Named, group=1, driver=None))
    root = "/sys/bus/pci/drivers/vfio-pci"
    with refused(errno.EINVAL):
        store(kernel, f"{root}/new_id", "1234")
    store(kernel, f"{root}/new_id", "1234 11e8")
    assert driver_of(kernel, A) == "vfio-pci"
    with refused(errno.EEXIST):
        store(kernel, f"{root}/new_id", "1234 11e8")
    store(kernel, f"{root}/remove_id", "1234 11e8")
    with refused(errno.ENODEV):
        store(kernel, f"{root}/remove_id", "1234 11e8")


def test_a_vfio_driver_wants_an_iommu_group(machine: Any, refused: Any) -> None:
    program = machine().device(A).__class__
    topology = Topology().pci(A, program, group=None, driver=None)
    kernel = machine(topology)
    store(kernel, f"{DEVICES}/{A}/driver_override", "vfio-pci")
    with refused(errno.EINVAL):
        store(kernel, "/sys/bus/pci/drivers/vfio-pci/bind", A)
    allowing = machine(topology, noiommu=True)
    store(allowing, f"{DEVICES}/{A}/driver_override", "vfio-pci")
    store(allowing, "/sys/bus/pci/drivers/vfio-pci/bind", A)
    assert "noiommu-1" in allowing.host.listdir("/dev/vfio")


def test_unbinding_asks_for_the_device_and_waits_until_it_is_closed(kernel: Any) -> None:
    device = kernel.cdev(A)
    kernel.bind(device, kernel.open("/dev/iommu"))
    unbinding = threading.Thread(
        target=store, args=(kernel, "/sys/bus/pci/drivers/vfio-pci/unbind", A)
    )
    unbinding.start()
    deadline = time.monotonic() + 10
    while "request 0" not in kernel.device(A).diary and time.monotonic() < deadline:
        time.sleep(0.001)
    assert unbinding.is_alive()
    kernel.close(device)
    unbinding.join(10)
    assert kernel.device(A).diary == ["open", "request 0", "close"]
    assert driver_of(kernel, A) is None
    assert "1" not in kernel.host.listdir("/dev/vfio")


# -- mediated devices --------------------------------------------------------------------------
PARENT = "/sys/bus/pci/devices/0000:09:00.0/mdev_supported_types/plain-1"
UUID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


def test_a_mediated_device_is_made_and_removed(with_mdev: Any) -> None:
    kernel = with_mdev
    host = kernel.host
    assert host.read_file(f"{PARENT}/available_instances") == b"1\n"
    assert host.read_file(f"{PARENT}/device_api") == b"vfio-pci\n"
    store(kernel, f"{PARENT}/create", UUID + "\n")
    device = sysfs.read_device(host, f"/sys/bus/mdev/devices/{UUID}")
    assert (device.bus, device.driver, device.group) == ("mdev", "mtty", 3)
    assert host.listdir(f"{PARENT}/devices") == [kernel.mdev, UUID]
    assert host.read_file("/sys/kernel/iommu_groups/3/name") == b"vfio-noiommu\n"
    kernel.attached(UUID)
    host.exit_process()
    store(kernel, f"/sys/bus/mdev/devices/{UUID}/remove", "0")
    store(kernel, f"/sys/bus/mdev/devices/{UUID}/remove", "1")
    assert host.listdir("/sys/bus/mdev/devices") == [kernel.mdev]
    assert not host.exists("/sys/kernel/iommu_groups/3")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("short", errno.EINVAL),
        ("x" * 36, errno.EINVAL),
        ("11111111-2222-3333-4444-555555555555", errno.EEXIST),
    ],
)
def test_a_mediated_device_that_cannot_be_made_is_refused(
    with_mdev: Any, refused: Any, text: str, code: int
) -> None:
    with refused(code):
        store(with_mdev, f"{PARENT}/create", text)


def test_a_type_has_a_number_of_instances(with_mdev: Any, refused: Any) -> None:
    store(with_mdev, f"{PARENT}/create", UUID)
    with refused(errno.EUSERS):
        store(with_mdev, f"{PARENT}/create", UUID.replace("a", "f"))


def test_remove_takes_a_number(with_mdev: Any, refused: Any) -> None:
    with refused(errno.EINVAL):
        store(with_mdev, f"/sys/bus/mdev/devices/{with_mdev.mdev}/remove", "yes")


def test_a_device_without_an_iommu_has_the_folder_of_a_cdev_and_no_cdev() -> None:
    host = SimHost(Topology().pci("0000:02:00.0", EduDevice, group=1, noiommu=True))
    folder = "/sys/bus/pci/devices/0000:02:00.0/vfio-dev"
    assert host.listdir(folder) == ["vfio0"]
    assert host.listdir("/sys/class/vfio-dev") == ["vfio0"]
    assert not host.exists(f"{folder}/vfio0/dev")
    assert not host.exists("/dev/vfio/devices")
