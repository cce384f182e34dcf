"""The simulated machine as a whole: what its kernel knows."""

from __future__ import annotations

import errno
import mmap
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from vfiocore_sim.kernel.accounting import LockedMemory
from vfiocore_sim.kernel.files import FileTable
from vfiocore_sim.kernel.group import Group
from vfiocore_sim.kernel.hugepages import HugePagePools
from vfiocore_sim.kernel.iommu import IommuModel
from vfiocore_sim.kernel.kernelport import KernelSide
from vfiocore_sim.kernel.memory import ProcessMemory
from vfiocore_sim.kernel.node import Node, is_vfio_driver
from vfiocore_sim.kernel.translation import Fault, PhysicalMemory, Port
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.device import SimDevice
    from vfiocore_sim.topology import DeviceSpec, Topology

MAXIMUM_FAULTS = 4096
_REQUEST_SECONDS = 10.0


def _by_size(pages: Mapping[Any, int]) -> dict[int, int]:
    return {int(size): count for size, count in pages.items()}  # a key is a string in TOML


@frozen(kw_only=True)
class KernelOptions:
    """What the kernel was built with, its module parameters, and the process's privileges.

    Sizes are in bytes. `without` names what an older kernel lacks: ioctls (answered with ENOTTY),
    extensions (``VFIO_UNMAP_ALL``: 0), the device feature ``VFIO_DEVICE_FEATURE_DMA_BUF``, and
    ``iommufd``, ``cdev``, ``container``, ``kvm``, whose nodes are missing, or
    ``MADV_POPULATE_WRITE``. `hugepages` has the number of huge pages in the pool of each size;
    without, as on a kernel without CONFIG_HUGETLBFS, there is no pool.
    """

    page_size: int = mmap.PAGESIZE
    memlock_limit: int | None = None
    cap_sys_rawio: bool = True
    cap_ipc_lock: bool = False
    cap_sys_resource: bool = True
    dma_entry_limit: int = 65535
    hugepages: Mapping[int, int] = field(factory=lambda: {2 << 20: 0}, converter=_by_size)
    noiommu: bool | None = None
    allow_unsafe_interrupts: bool = False
    iommufd_allow_unsafe_interrupts: bool = False
    without: frozenset[str] = field(factory=frozenset, converter=frozenset)


class Machine:
    """Devices, groups, open files, and the accounts of the one process on the machine."""

    def __init__(self, topology: Topology, options: KernelOptions) -> None:
        if options.page_size % mmap.PAGESIZE:
            text = f"a simulated page must be a multiple of the real one, {mmap.PAGESIZE} bytes"
            raise ValueError(text)
        self.options = options
        self.page_size: int = options.page_size
        self.cap_sys_rawio: bool = options.cap_sys_rawio
        self.cap_sys_resource: bool = options.cap_sys_resource
        self.dma_entry_limit: int = options.dma_entry_limit
        self.allow_unsafe_interrupts: bool = options.allow_unsafe_interrupts
        self.iommufd_allow_unsafe_interrupts: bool = options.iommufd_allow_unsafe_interrupts
        self.lock: threading.RLock = threading.RLock()
        self._files_closed = threading.Condition(self.lock)
        self.files: FileTable = FileTable()
        self.memory: ProcessMemory = ProcessMemory(mmap.PAGESIZE)
        self.physical: PhysicalMemory = PhysicalMemory(self.memory)
        self.locked: LockedMemory = LockedMemory(options.memlock_limit, options.cap_ipc_lock)
        self.hugepages: HugePagePools = HugePagePools(options.hugepages)
        self.faults: list[Fault] = []
        self.specs: dict[tuple[str, str], DeviceSpec] = {
            (spec.bus, spec.name): spec for spec in topology.devices
        }
        self.devices: dict[tuple[str, str], Node] = {}
        self.groups: dict[int, Group] = {}
        wanted = any(spec.noiommu for spec in topology.groups.values())
        self.noiommu_enabled: bool = wanted if options.noiommu is None else options.noiommu
        #: Counts changes of what sysfs shows.
        self.generation: int = 0
        for number, group in topology.groups.items():
            self.groups[number] = Group(number, group.iommu, noiommu=group.noiommu, emulated=False)
        for spec in topology.devices:
            self.add_device(spec)

    def has(self, feature: str) -> bool:
        """False for what `KernelOptions.without` names."""
        return feature not in self.options.without

    # -- devices -----------------------------------------------------------------------------
    def add_device(self, spec: DeviceSpec) -> Node:
        """A device appears, and its driver binds."""
        program = spec.program() if callable(spec.program) else spec.program
        node = Node(self, spec.bus, spec.name, parent=spec.parent, program=program)
        self.specs[spec.bus, spec.name] = spec
        self.devices[spec.bus, spec.name] = node
        if program is not None:
            self._connect(program, node)
        if spec.group is not None:
            self.join(node, self.groups[spec.group])
        if spec.driver is not None:
            self.bind(node, spec.driver)
        self.generation += 1
        return node

    def _connect(self, program: SimDevice, node: Node) -> None:
        if hasattr(program, "kernel"):
            text = f"{node.name}: the device program is in use; give the topology a factory"
            raise ValueError(text)
        program.name = node.name
        program.bus = node.bus
        program.dma = Port(node)
        program.kernel = KernelSide(node)

    def remove_device(self, node: Node) -> None:
        """A device disappears, once nobody has it open."""
        self.unbind(node)
        del self.devices[node.bus, node.name]
        self.generation += 1

    def device(self, bus: str, name: str) -> Node | None:
        """The device of a bus and name."""
        return self.devices.get((bus, name))

    def on_bus(self, bus: str) -> list[Node]:
        """The devices of a bus."""
        return [node for node in self.devices.values() if node.bus == bus]

    # -- groups ------------------------------------------------------------------------------
    def join(self, node: Node, group: Group) -> None:
        """``iommu.c:iommu_group_add_device``."""
        node.group = group
        group.devices.append(node)

    def leave(self, node: Node, group: Group) -> None:
        """``iommu.c:iommu_group_remove_device``; a group that was made for VFIO goes too."""
        group.devices.remove(node)
        node.group = None
        if not group.devices and not group.translated:
            del self.groups[group.number]

    def _made_group(self, *, noiommu: bool) -> Group:
        """``group.c:vfio_noiommu_group_alloc``: the lowest free number, from 1."""
        number = next(number for number in _from_one() if number not in self.groups)
        group = Group(number, IommuModel(), noiommu=noiommu, emulated=not noiommu)
        self.groups[number] = group
        return group

    # -- drivers -----------------------------------------------------------------------------
    def bind(self, node: Node, driver: str) -> None:
        """A driver takes a device (``vfio_main.c:__vfio_register_dev`` for a VFIO one).

        Raises:
            OSError: EBUSY for a host driver while VFIO owns the group; EINVAL for a VFIO driver
                without an IOMMU group.
        """
        if is_vfio_driver(driver) and node.program is not None:
            self._register(node)
        previous, node.driver = node.driver, driver
        if node.owns_dma and node.group is not None and node.group.claimed:
            node.driver = previous
            raise refused(errno.EBUSY)
        self.generation += 1

    def _register(self, node: Node) -> None:
        if node.group is None:
            if not node.emulated and not self.noiommu_enabled:
                raise refused(errno.EINVAL)
            self.join(node, self._made_group(noiommu=not node.emulated))
        if self.has("cdev"):
            taken = {other.vfio_index for other in self.devices.values()}
            node.vfio_index = next(number for number in _from_zero() if number not in taken)

    def unbind(self, node: Node) -> None:
        """Take a device from its driver; a VFIO driver gives it back when its files are closed.

        ``vfio_main.c:vfio_unregister_group_dev``: the driver is asked at once and every ten
        seconds, and this waits as long as it takes.
        """
        asked = 0
        while node.on_vfio and node.files:
            node.vfio_program().request(asked)
            asked += 1
            self._files_closed.wait(_REQUEST_SECONDS)
        node.driver = None
        node.vfio_index = None
        if node.group is not None:
            self._left_vfio(node, node.group)
        self.generation += 1

    def _left_vfio(self, node: Node, group: Group) -> None:
        if group.file is not None and not group.on_vfio:
            group.file.revoke()
        if not group.translated:
            self.leave(node, group)

    def device_closed(self) -> None:
        """A device file was closed."""
        self._files_closed.notify_all()

    def add_fault(self, fault: Fault) -> None:
        """Record a refused DMA access; the oldest are forgotten."""
        if len(self.faults) == MAXIMUM_FAULTS:
            del self.faults[0]
        self.faults.append(fault)


def _from_one() -> Iterator[int]:
    return iter(range(1, 1 << 20))


def _from_zero() -> Iterator[int]:
    return iter(range(1 << 20))
