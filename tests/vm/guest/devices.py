"""The guest's devices, found in sysfs by what they are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

TYPES = {"pci": "vfio-pci", "platform": "vfio-platform", "css": "vfio-ccw"}
"""vfiocore's device type for the devices of a bus."""

MDEV_TYPES = {"vfio_ccw-io": "vfio-ccw"}
"""The same for mediated devices that are no PCI devices, by their mdev type."""

CCW_SECONDS = 20


@dataclass(frozen=True)
class Device:
    """A device of the guest: its bus, its name there, and the vfiocore type that drives it."""

    bus: str
    name: str
    type: str

    @property
    def path(self) -> Path:
        """Its folder in sysfs."""
        return Path("/sys/bus", self.bus, "devices", self.name)

    @property
    def selector(self) -> str:
        """What says which device it is in a configuration."""
        return f"sysfsdev={self.path}" if self.bus == "mdev" else f"host={self.name}"


def on_bus(bus: str, name: str) -> Device:
    """A device that has to be there."""
    device = Device(bus, name, TYPES[bus])
    assert device.path.exists(), f"the guest has no {device.path}"
    return device


def pci_functions(model: str) -> list[Device]:
    """The PCI functions of a model, ``vendor:device`` in hex, in the order of their addresses."""
    folders = sorted(Path("/sys/bus/pci/devices").iterdir())
    found = [on_bus("pci", folder.name) for folder in folders if model_of(folder) == model]
    assert found, f"the guest has no PCI function {model}"
    return found


def model_of(function: Path) -> str:
    """``vendor:device`` of a PCI function."""
    return ":".join(_text(function / name).removeprefix("0x") for name in ("vendor", "device"))


def platform_node(name: str) -> Device:
    """A device of the device tree."""
    return on_bus("platform", name)


def ccw_subchannel(device_number: str) -> Device:
    """The subchannel of a channel-attached device."""
    device = Path("/sys/bus/ccw/devices", device_number)
    # A subchannel that was given back gets its device again from a work queue.
    deadline = time.monotonic() + CCW_SECONDS
    while not device.exists():
        assert time.monotonic() < deadline, f"the guest has no {device}"
        time.sleep(0.05)
    return on_bus("css", device.resolve().parent.name)


def mdev(uuid: str) -> Device:
    """A mediated device."""
    path = Path("/sys/bus/mdev/devices", uuid)
    assert path.exists(), f"the guest has no {path}"
    kind = (path / "mdev_type").resolve().name
    return Device("mdev", uuid, MDEV_TYPES.get(kind, "vfio-pci"))


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
