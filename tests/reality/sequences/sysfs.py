"""What sysfs says of devices, groups and drivers, and what it lets be written."""

from __future__ import annotations

from tests.reality.script import Script
from tests.reality.sequence import sequence, sequences

PCI = "/sys/bus/pci"
DRIVER = f"{PCI}/drivers/vfio-pci"
CARDS = ("edu", "left", "right", "nvme", "ivshmem", "testdev")
FILES = ("class", "device", "revision", "subsystem_device", "subsystem_vendor", "vendor")
ENTRIES = (
    *FILES,
    "config",
    "driver",
    "driver_override",
    "iommu_group",
    "irq",
    "modalias",
    "reset_method",
    "resource",
    "subsystem",
    "vfio-dev",
)


@sequences({role: {"role": role} for role in CARDS})
def a_card(s: Script, role: str) -> None:
    folder = s.roles.folder(role)
    s.listdir(folder, ENTRIES)
    for name in FILES:
        s.read_file(f"{folder}/{name}")
    s.link(f"{folder}/driver")
    s.link(f"{folder}/subsystem")


@sequences({role: {"role": role} for role in ("edu", "left", "right", "ivshmem")})
def how_a_card_can_be_reset(s: Script, role: str) -> None:
    method = f"{s.roles.folder(role)}/reset_method"
    s.read_file(method)
    s.write_file(method, b"flr\n")
    s.write_file(method, b"nonsense\n")


@sequence
def the_group_of_a_card(s: Script) -> None:
    group = f"{s.roles.folder('edu')}/iommu_group"
    s.listdir(group, ("devices", "name", "reserved_regions", "type"))
    s.read_file(f"{group}/reserved_regions")
    s.read_file(f"{group}/name")
    s.exists(f"{group}/devices/{s.roles.name('edu')}")


@sequence
def two_functions_share_a_group(s: Script) -> None:
    group = f"{s.roles.folder('left')}/iommu_group"
    for role in ("left", "right", "edu"):
        s.exists(f"{group}/devices/{s.roles.name(role)}")


@sequences(
    {
        "bind": {"file": f"{DRIVER}/bind"},
        "unbind": {"file": f"{DRIVER}/unbind"},
        "probe": {"file": f"{PCI}/drivers_probe"},
    }
)
def a_device_that_does_not_exist(s: Script, file: str) -> None:
    s.write_file(file, b"0000:ff:1f.7")
    s.write_file(file, b"nonsense")


@sequence
def a_device_that_is_bound_already(s: Script) -> None:
    name = s.roles.name("edu").encode()
    s.write_file(f"{DRIVER}/bind", name)
    s.write_file(f"{PCI}/drivers_probe", name)
    s.link(f"{s.roles.folder('edu')}/driver")


@sequence
def a_device_is_taken_from_its_driver_and_given_back(s: Script) -> None:
    folder, name = s.roles.folder("ivshmem"), s.roles.name("ivshmem").encode()
    cdev = s.roles.cdev("ivshmem")
    group = s.roles.group("ivshmem")
    s.write_file(f"{DRIVER}/unbind", name)
    s.exists(f"{folder}/driver")
    s.exists(f"{folder}/vfio-dev")
    s.exists(cdev)
    s.exists(group)
    s.write_file(f"{DRIVER}/unbind", name)
    s.write_file(f"{PCI}/drivers_probe", name)
    s.link(f"{folder}/driver")
    s.exists(group)


@sequence
def a_driver_that_is_asked_for(s: Script) -> None:
    file = f"{s.roles.folder('edu')}/driver_override"
    s.read_file(file)
    s.write_file(file, b"something-else")
    s.read_file(file)
    s.write_file(file, b"\n")
    s.read_file(file)
    s.write_file(file, b"vfio-pci\n")
    s.read_file(file)


@sequences(
    {
        "one number": {"data": b"1234"},
        "nothing": {"data": b"\n"},
        "words": {"data": b"a card"},
    }
)
def new_ids_of(s: Script, data: bytes) -> None:
    s.write_file(f"{DRIVER}/new_id", data)


@sequence
def a_new_id(s: Script) -> None:
    s.write_file(f"{DRIVER}/remove_id", b"abcd 1234")
    s.write_file(f"{DRIVER}/new_id", b"abcd 1234")
    s.write_file(f"{DRIVER}/new_id", b"abcd 1234")
    s.write_file(f"{DRIVER}/remove_id", b"abcd 1234")
    s.write_file(f"{DRIVER}/remove_id", b"abcd 1234")


@sequence
def files_that_cannot_be_read_or_written(s: Script) -> None:
    folder = s.roles.folder("edu")
    s.read_file(f"{DRIVER}/bind")
    s.write_file(f"{folder}/vendor", b"x")
    s.write_file(f"{folder}/nothing", b"x")
    s.read_file(f"{folder}/nothing")
    s.read_file(f"{folder}/driver")
    s.read_file(folder)


@sequence
def the_settings_of_modules(s: Script) -> None:
    s.read_file("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
    s.read_file("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts")
    s.read_file("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
    s.read_file("/sys/module/iommufd/parameters/allow_unsafe_interrupts")
