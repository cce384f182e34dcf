"""Take devices from their drivers, and give them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .devices import Device, mdev


@contextmanager
def given_to(driver: str, *devices: Device) -> Iterator[tuple[Device, ...]]:
    """Let a VFIO driver have some devices; whoever had them gets them back."""
    with ExitStack() as stack:
        for device in devices:
            stack.callback(give_back, device)
            give(device, driver)
        yield devices


def give(device: Device, driver: str) -> None:
    """Bind a device to a driver, and to no other."""
    _write(device.path / "driver_override", driver)
    _take_away(device)
    _probe(device)
    found = driver_of(device)
    assert found == driver, f"{device.name} is with {found}, not with {driver}"


def give_back(device: Device) -> None:
    """Let the driver have it that the kernel would choose."""
    # An empty write does nothing; a newline clears the override.
    _write(device.path / "driver_override", "\n")
    _take_away(device)
    _probe(device)


def driver_of(device: Device) -> str | None:
    """The driver that has a device."""
    link = device.path / "driver"
    return link.resolve().name if link.exists() else None


@contextmanager
def new_mdev(parent: Device, kind: str, uuid: str) -> Iterator[Device]:
    """A mediated device of a type, on a parent; gone afterwards."""
    _write(parent.path / "mdev_supported_types" / kind / "create", uuid)
    made = mdev(uuid)
    try:
        yield made
    finally:
        _write(made.path / "remove", "1")


@contextmanager
def setting(path: str, value: str) -> Iterator[None]:
    """A kernel parameter with another value for a while."""
    before = Path(path).read_text(encoding="ascii")
    _write(Path(path), value)
    try:
        yield
    finally:
        _write(Path(path), before)


def _take_away(device: Device) -> None:
    if driver_of(device):
        _write(device.path / "driver/unbind", device.name)


def _probe(device: Device) -> None:
    _write(device.path / "subsystem/drivers_probe", device.name)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")
