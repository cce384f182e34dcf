"""/sys and /dev of the simulated machine, made from its state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vfiocore_sim.device import SysfsFile
from vfiocore_sim.kernel import mdev
from vfiocore_sim.kernel.container import ContainerFile
from vfiocore_sim.kernel.devicefile import DeviceFile
from vfiocore_sim.kernel.drivers import Drivers
from vfiocore_sim.kernel.group import Group, GroupFile
from vfiocore_sim.kernel.iommufd import Iommufd
from vfiocore_sim.kernel.kvm import KvmFile
from vfiocore_sim.kernel.tree import DeviceNode, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiocore_sim.kernel.files import OpenFile
    from vfiocore_sim.kernel.machine import Machine
    from vfiocore_sim.kernel.node import Node
    from vfiocore_sim.topology import MdevType

#: Misc devices have major 10; the others are dynamic, and these are what a machine may give.
_CONTAINER_NUMBER = os.makedev(10, 196)
_KVM_NUMBER = os.makedev(10, 232)
_IOMMU_NUMBER = os.makedev(10, 125)
_GROUP_MAJOR = 240
_CDEV_MAJOR = 511


def text(value: object) -> bytes:
    """An attribute's content: one line."""
    return f"{value}\n".encode()


class Sysfs:
    """Builds the tree, anew whenever the machine has changed."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._drivers = Drivers(machine)
        self._tree = Tree()
        self._built = -1

    def tree(self) -> Tree:
        """The tree as it is now."""
        if self._built != self._machine.generation:
            self._tree = Tree()
            self._built = self._machine.generation
            self._build()
        return self._tree

    def _build(self) -> None:
        self._tree.directory("/proc")  # which shows no process, as with hidepid=
        self._add_buses()
        for node in self._machine.devices.values():
            self._add_device(node)
        for group in self._machine.groups.values():
            self._add_group(group)
        self._add_modules()
        self._add_memory()
        self._add_nodes()

    # -- /dev --------------------------------------------------------------------------------
    def _add_nodes(self) -> None:
        machine = self._machine
        self._tree.directory("/dev/vfio")
        if machine.has("container"):
            number = _CONTAINER_NUMBER
            self._node("/dev/vfio/vfio", number, lambda: ContainerFile(machine, rdev=number))
        if machine.has("iommufd"):
            self._node("/dev/iommu", _IOMMU_NUMBER, lambda: Iommufd(machine, rdev=_IOMMU_NUMBER))
        if machine.has("kvm"):
            self._node("/dev/kvm", _KVM_NUMBER, lambda: KvmFile(machine, rdev=_KVM_NUMBER))
        for group in machine.groups.values():
            if group.on_vfio:
                self._add_group_node(group)
        for node in machine.devices.values():
            if node.cdev_index is not None:
                self._add_cdev_node(node, node.cdev_index)

    def _add_group_node(self, group: Group) -> None:
        number = os.makedev(_GROUP_MAJOR, group.number)
        path = f"/dev/vfio/{group.node_name}"
        self._node(path, number, lambda: GroupFile(self._machine, group, rdev=number))

    def _add_cdev_node(self, node: Node, index: int) -> None:
        number = os.makedev(_CDEV_MAJOR, index)
        path = f"/dev/vfio/devices/vfio{index}"
        self._node(path, number, lambda: DeviceFile(self._machine, node, rdev=number))

    def _node(self, path: str, number: int, make: Callable[[], OpenFile]) -> None:
        self._tree.put(path, DeviceNode(lambda: self._machine.files.install(make())))
        self._tree.link(f"/dev/char/{os.major(number)}:{os.minor(number)}", path)

    # -- buses and drivers -------------------------------------------------------------------
    def _add_buses(self) -> None:
        buses = {"pci", "platform", *(node.bus for node in self._machine.devices.values())}
        for bus in sorted(buses):
            root = f"/sys/bus/{bus}"
            self._tree.directory(f"{root}/devices")
            for driver in self._drivers.on(bus):
                self._add_driver(bus, driver)
            self._tree.put(f"{root}/drivers_probe", self._storing(self._drivers.probe, bus))
            self._tree.put(f"{root}/drivers_autoprobe", b"1\n")

    def _add_driver(self, bus: str, driver: str) -> None:
        root = f"/sys/bus/{bus}/drivers/{driver}"
        self._tree.put(f"{root}/bind", self._storing(self._drivers.bind, bus, driver))
        self._tree.put(f"{root}/unbind", self._storing(self._drivers.unbind, bus, driver))
        if bus == "pci":
            self._tree.put(f"{root}/new_id", self._storing(self._drivers.new_id, driver))
            self._tree.put(f"{root}/remove_id", self._storing(self._drivers.remove_id, driver))

    @staticmethod
    def _storing(store: Callable[..., None], *arguments: object) -> SysfsFile:
        return SysfsFile(write=lambda data: store(*arguments, data))

    # -- devices -----------------------------------------------------------------------------
    def _add_device(self, node: Node) -> None:
        tree, path = self._tree, node.path
        tree.directory(path)
        self._add_attributes(node)
        tree.link(f"{path}/subsystem", f"/sys/bus/{node.bus}")
        tree.link(f"/sys/bus/{node.bus}/devices/{node.name}", path)
        if node.bus in ("pci", "platform", "css"):
            shown = node.driver_override or "(null)"
            write = self._storing(self._override, node).write
            tree.put(f"{path}/driver_override", SysfsFile(lambda: text(shown), write))
        if node.driver is not None:
            driver = f"/sys/bus/{node.bus}/drivers/{node.driver}"
            tree.link(f"{path}/driver", driver)
            tree.link(f"{driver}/{node.name}", path)
        if node.group is not None:
            tree.link(f"{path}/iommu_group", f"/sys/kernel/iommu_groups/{node.group.number}")
        if node.vfio_index is not None:
            self._add_vfio_device(node, node.vfio_index)
        self._add_mdev(node)

    def _override(self, node: Node, data: bytes) -> None:
        self._drivers.override(node, data)
        self._machine.generation += 1

    def _add_attributes(self, node: Node) -> None:
        files = dict(self._machine.specs[node.bus, node.name].files)
        if node.program is not None:
            files.update(node.program.sysfs_files())
        if node.bus == "pci":
            files.setdefault("numa_node", b"-1\n")
        for name, entry in files.items():
            self._tree.put(f"{node.path}/{name}", entry)

    def _add_vfio_device(self, node: Node, index: int) -> None:
        root = f"{node.path}/vfio-dev/vfio{index}"
        if node.cdev_index is not None:
            self._tree.put(f"{root}/dev", text(f"{_CDEV_MAJOR}:{index}"))
        self._tree.link(f"{root}/device", node.path)
        self._tree.link(f"{root}/subsystem", "/sys/class/vfio-dev")
        self._tree.link(f"/sys/class/vfio-dev/vfio{index}", root)

    def _add_mdev(self, node: Node) -> None:
        machine, tree, path = self._machine, self._tree, node.path
        spec = machine.specs[node.bus, node.name]
        if spec.mdev_type is not None:
            tree.link(f"{path}/mdev_type", f"{node.parent}/mdev_supported_types/{spec.mdev_type}")
            tree.put(
                f"{path}/remove", SysfsFile(write=lambda data: mdev.remove(machine, node, data))
            )
        for kind in spec.mdev_types:
            self._add_mdev_type(node, kind)
        if spec.mdev_types:
            tree.link(f"/sys/class/mdev_bus/{node.name}", path)

    def _add_mdev_type(self, parent: Node, kind: MdevType) -> None:
        machine, tree = self._machine, self._tree
        root = f"{parent.path}/mdev_supported_types/{kind.name}"
        made = mdev.instances(machine, parent, kind)
        tree.put(f"{root}/name", text(kind.description or kind.name))
        tree.put(f"{root}/device_api", text(kind.device_api))
        tree.put(f"{root}/available_instances", text(kind.instances - len(made)))
        tree.put(
            f"{root}/create", SysfsFile(write=lambda data: mdev.create(machine, parent, kind, data))
        )
        tree.directory(f"{root}/devices")
        for node in made:
            tree.link(f"{root}/devices/{node.name}", node.path)

    # -- groups ------------------------------------------------------------------------------
    def _add_group(self, group: Group) -> None:
        tree, root = self._tree, f"/sys/kernel/iommu_groups/{group.number}"
        tree.directory(f"{root}/devices")
        for node in group.devices:
            tree.link(f"{root}/devices/{node.name}", node.path)
        if not group.translated:
            tree.put(f"{root}/name", b"vfio-noiommu\n")
            tree.put(f"{root}/reserved_regions", b"")
            return
        tree.put(f"{root}/type", SysfsFile(lambda: text("unmanaged" if group.claimed else "DMA")))
        lines = (
            f"0x{region.first:016x} 0x{region.last:016x} {region.kind}\n"
            for region in group.iommu.reserved
        )
        tree.put(f"{root}/reserved_regions", "".join(lines).encode())
        for node in group.devices:
            tree.link(f"/sys/class/iommu/iommu0/devices/{node.name}", node.path)

    def _add_modules(self) -> None:
        machine = self._machine
        parameters = {
            "vfio/parameters/enable_unsafe_noiommu_mode": machine.noiommu_enabled,
            "vfio_iommu_type1/parameters/allow_unsafe_interrupts": machine.allow_unsafe_interrupts,
            "vfio_iommu_type1/parameters/dma_entry_limit": machine.dma_entry_limit,
            "iommufd/parameters/allow_unsafe_interrupts": machine.iommufd_allow_unsafe_interrupts,
        }
        for name, value in parameters.items():
            shown = ("Y" if value else "N") if isinstance(value, bool) else value
            self._tree.put(f"/sys/module/{name}", text(shown))

    # -- memory ------------------------------------------------------------------------------
    def _add_memory(self) -> None:
        pools = self._machine.hugepages
        for size in pools.total:
            self._add_pool(size)
        lines = f"Hugepagesize: {pools.default >> 10:>7} kB\n" if pools.total else ""
        self._tree.put("/proc/meminfo", lines.encode())

    def _add_pool(self, size: int) -> None:
        """Pages count as used from when they are promised, which ``resv_hugepages`` then is not."""
        tree, pools = self._tree, self._machine.hugepages
        root = f"/sys/kernel/mm/hugepages/hugepages-{size >> 10}kB"
        total = SysfsFile(lambda: text(pools.total[size]), self._storing(pools.resize, size).write)
        tree.put(f"{root}/nr_hugepages", total)
        free = SysfsFile(lambda: text(pools.total[size] - pools.used[size]))
        tree.put(f"{root}/free_hugepages", free)
        tree.put(f"{root}/resv_hugepages", text(0))
