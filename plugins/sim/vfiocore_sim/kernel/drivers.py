"""Binding drivers through sysfs (drivers/base/bus.c, drivers/pci/pci-driver.c)."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from vfiocore_sim.kernel.node import Node, is_vfio_driver
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.machine import Machine

_ALWAYS = {
    "pci": ("vfio-pci", "pci-stub"),
    "platform": ("vfio-platform",),
    "css": ("vfio_ccw", "io_subchannel"),
    "mdev": ("vfio_ap_mdev", "vfio_ccw_mdev"),
}
#: Drivers that take any device of their bus; the others wait to be told by override or id.
_TAKE_ALL = frozenset({"vfio_ccw", "io_subchannel", "vfio_ap_mdev", "vfio_ccw_mdev"})


class Drivers:
    """The drivers of each bus and which devices they match."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        #: Vendor and device ids added through new_id, by driver.
        self._ids: dict[str, list[tuple[int, int]]] = {}

    def on(self, bus: str) -> list[str]:
        """The drivers of a bus."""
        nodes = self._machine.on_bus(bus)
        native = [self._machine.specs[bus, node.name].driver for node in nodes]
        now = [node.driver for node in nodes]
        return sorted({*_ALWAYS.get(bus, ()), *filter(None, [*native, *now])})

    def bind(self, bus: str, driver: str, data: bytes) -> None:
        """``bus.c:bind_store``: ENODEV when they do not match, EBUSY when another has it."""
        node = self._named(bus, data)
        if not self._matches(driver, node):
            raise refused(errno.ENODEV)
        if node.driver is not None:
            raise refused(errno.EBUSY)
        self._machine.bind(node, driver)

    def unbind(self, bus: str, driver: str, data: bytes) -> None:
        """``bus.c:unbind_store``: ENODEV when this driver does not have the device."""
        node = self._named(bus, data)
        if node.driver != driver:
            raise refused(errno.ENODEV)
        self._machine.unbind(node)

    def probe(self, bus: str, data: bytes) -> None:
        """``bus.c:drivers_probe_store``: the first driver that matches takes the device."""
        node = self._named(bus, data)
        if node.driver is None:
            self._probe(node)

    def _probe(self, node: Node) -> None:
        # A host driver is found before vfio, which only matches what it was told to.
        for driver in sorted(self.on(node.bus), key=is_vfio_driver):
            if self._matches(driver, node):
                self._machine.bind(node, driver)
                return

    def override(self, node: Node, data: bytes) -> None:
        """``driver_set_override``: which driver alone may have the device; empty clears."""
        text = data.decode().strip("\n")
        node.driver_override = text or None

    def new_id(self, driver: str, data: bytes) -> None:
        """``pci-driver.c:new_id_store``: more ids for a driver, which then takes what matches."""
        pair = _ids(data)
        known = self._ids.setdefault(driver, [])
        if pair in known:
            raise refused(errno.EEXIST)
        known.append(pair)
        for node in self._machine.on_bus("pci"):
            if node.driver is None and self._matches(driver, node):
                self._machine.bind(node, driver)

    def remove_id(self, driver: str, data: bytes) -> None:
        """``pci-driver.c:remove_id_store``."""
        pair = _ids(data)
        if pair not in self._ids.get(driver, []):
            raise refused(errno.ENODEV)
        self._ids[driver].remove(pair)

    def _named(self, bus: str, data: bytes) -> Node:
        node = self._machine.device(bus, data.decode().strip())
        if node is None:
            raise refused(errno.ENODEV)
        return node

    def _matches(self, driver: str, node: Node) -> bool:
        if node.driver_override is not None:
            return node.driver_override == driver
        if driver in _TAKE_ALL or device_ids(node) in self._ids.get(driver, []):
            return True
        native = self._machine.specs[node.bus, node.name].driver
        return driver == native and not is_vfio_driver(driver)


def device_ids(node: Node) -> tuple[int, int] | None:
    """Vendor and device id of a PCI function, from its attribute files."""
    files = {**node.machine.specs[node.bus, node.name].files}
    if node.program is not None:
        files.update(node.program.sysfs_files())
    vendor, device = files.get("vendor"), files.get("device")
    if not isinstance(vendor, bytes) or not isinstance(device, bytes):
        return None
    return int(vendor, 16), int(device, 16)


def _ids(data: bytes) -> tuple[int, int]:
    fields = re.findall(rb"[0-9a-fA-F]+", data)
    if len(fields) < 2:
        raise refused(errno.EINVAL)
    return int(fields[0], 16), int(fields[1], 16)
