"""The machine that a `SimHost` simulates: its devices, their groups and drivers.

Build it in Python, or read it from TOML::

    topology = Topology().pci("0000:02:00.0", EduDevice, group=1)

    [[pci]]
    name = "0000:02:00.0"
    device = "edu"
    group = 1
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

from attrs import define, field, frozen

from vfiocore_sim.device import SimDevice, SysfsEntry
from vfiocore_sim.kernel.iommu import ARM_SOFTWARE_MSI, X86_MSI, IommuModel, ReservedRegion

__all__ = [
    "ARM_SOFTWARE_MSI",
    "X86_MSI",
    "DeviceSpec",
    "GroupSpec",
    "IommuModel",
    "MdevType",
    "ReservedRegion",
    "Topology",
    "TopologyError",
]

Program: TypeAlias = SimDevice | Callable[[], SimDevice]
"""A device, or what makes one: a factory gives each `SimHost` a device of its own."""

AP_MATRIX_UUID = "6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01"
CCW_DISK_UUID = "7e270a25-e163-4922-af60-757fc8ed48c6"
MATRIX = "matrix"
"""The name of the device that AP matrix mdevs are created on."""

_BUILT_IN = {
    "edu": "vfiocore_sim.devices:EduDevice",
    "ivshmem": "vfiocore_sim.devices:IvshmemDevice",
    "nvme": "vfiocore_sim.devices:NvmeDevice",
    "timer": "vfiocore_sim.devices:TimerDevice",
    "ap-matrix": "vfiocore_sim.devices:ApMatrixDevice",
    "ccw-disk": "vfiocore_sim.devices:CcwDiskDevice",
}


class TopologyError(ValueError):
    """A topology that cannot be built; the text says where and why."""


def _program(name: str, options: Mapping[str, Any]) -> Callable[[], SimDevice]:
    """The factory of a device that comes with this package, or of ``module:Class``."""

    def make() -> SimDevice:
        device = _imported(_BUILT_IN.get(name, name))(**options)
        if not isinstance(device, SimDevice):
            raise TopologyError(f"{name!r} does not make a SimDevice")
        return device

    return make


def _imported(path: str) -> Callable[..., SimDevice]:
    module, colon, attribute = path.partition(":")
    if not colon:
        known = ", ".join(sorted(_BUILT_IN))
        raise TopologyError(f"no device program {path!r}; known: {known}, or 'module:Class'")
    try:
        made: Callable[..., SimDevice] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise TopologyError(f"device program {path!r}: {error}") from error
    return made


@frozen
class MdevType:
    """A kind of mediated device that a parent device can make.

    `name` is the directory below mdev_supported_types, `instances` how many may exist at once.
    """

    name: str
    device_api: str
    driver: str
    program: Callable[[], SimDevice]
    instances: int = 1
    description: str = ""


@define
class DeviceSpec:
    """One device of a topology; made by `Topology.pci` and the others."""

    bus: str
    name: str
    parent: str
    program: Program | None
    driver: str | None
    group: int | None
    files: Mapping[str, SysfsEntry] = field(factory=dict)
    mdev_types: tuple[MdevType, ...] = ()
    #: For a mediated device, which of its parent's types it is.
    mdev_type: str | None = None


@define
class GroupSpec:
    """One IOMMU group of a topology."""

    iommu: IommuModel = field(factory=IommuModel)
    noiommu: bool = False


class Topology:
    """Devices, groups and drivers of a simulated machine. Each method returns the topology."""

    def __init__(self) -> None:
        self.devices: list[DeviceSpec] = []
        self.groups: dict[int, GroupSpec] = {}
        #: Keyword arguments for `SimHost`, from the TOML table ``host``.
        self.host_options: dict[str, Any] = {}

    # -- devices -----------------------------------------------------------------------------
    def pci(
        self,
        name: str,
        device: Program | None = None,
        *,
        group: int | None,
        driver: str | None = "vfio-pci",
        noiommu: bool = False,
        files: Mapping[str, SysfsEntry] | None = None,
    ) -> Topology:
        """A PCI function at ``DDDD:BB:DD.F``, behind a root port.

        `device` may be None for a function that stays on a host driver. `files` are attribute
        files besides those of the device program.
        """
        if not noiommu and group is not None and self._group(group).noiommu:
            raise TopologyError(f"group {group} is a no-IOMMU group")
        domain, bus, _function = name.split(":")
        parent = f"/sys/devices/pci{domain}:00/{domain}:00:{int(bus, 16) & 31:02x}.0"
        return self._add("pci", name, parent, device, driver, group, files, noiommu=noiommu)

    def platform(
        self,
        name: str,
        device: Program | None = None,
        *,
        group: int | None,
        driver: str | None = "vfio-platform",
        files: Mapping[str, SysfsEntry] | None = None,
    ) -> Topology:
        """A device of the platform bus, ``10000000.timer``."""
        return self._add(
            "platform", name, "/sys/devices/platform", device, driver, group, files, noiommu=False
        )

    def subchannel(
        self,
        name: str,
        *,
        driver: str | None = "vfio_ccw",
        device: Callable[[], SimDevice] | None = None,
    ) -> Topology:
        """An s390 I/O subchannel ``0.0.SSSS``, on which one mdev of type vfio_ccw-io can be made.

        `device` is what a new mdev runs; the CCW disk by default.
        """
        kind = MdevType(
            "vfio_ccw-io",
            "vfio-ccw",
            "vfio_ccw_mdev",
            device or _program("ccw-disk", {}),
            description="I/O subchannel (Non-QDIO)",
        )
        files = {"type": b"0\n", "modalias": b"css:t0\n", "chpids": b"00 00 00 00 00 00 00 00\n"}
        self._add("css", name, "/sys/devices/css0", None, driver, None, files, noiommu=False)
        self.devices[-1].mdev_types = (kind,)
        return self

    def mdev(
        self,
        uuid: str,
        device: Program | None = None,
        *,
        parent: str,
        type: str | None = None,  # noqa: A002
    ) -> Topology:
        """A mediated device that exists from the start, on a subchannel or other parent.

        `type` is one of the parent's types (its first by default), whose program is run unless
        `device` is given.
        """
        owner = self._parent(parent)
        kinds = {kind.name: kind for kind in owner.mdev_types}
        kind = kinds.get(type) if type else next(iter(kinds.values()), None)
        if kind is None:
            raise TopologyError(f"{parent} has no mdev type {type}; it has: {', '.join(kinds)}")
        path = f"{owner.parent}/{owner.name}"
        self._add(
            "mdev", uuid, path, device or kind.program, kind.driver, None, None, noiommu=False
        )
        self.devices[-1].mdev_type = kind.name
        return self

    def mdev_parent(self, name: str, *types: MdevType) -> Topology:
        """Let a device that was added before make mediated devices of `types`."""
        self._parent(name).mdev_types += types
        return self

    def ap_matrix(self, uuid: str | None = None, device: Program | None = None) -> Topology:
        """The s390 AP matrix, and, with `uuid`, a mediated device on it."""
        if not any(spec.name == MATRIX for spec in self.devices):
            self._add_matrix()
        return self if uuid is None else self.mdev(uuid, device, parent=MATRIX)

    def _add_matrix(self) -> None:
        kind = MdevType(
            "vfio_ap-passthrough",
            "vfio-ap",
            "vfio_ap_mdev",
            _program("ap-matrix", {}),
            instances=65536,
            description="VFIO AP Passthrough Device",
        )
        files = {"features": b"guest_matrix hotplug ap_config\n"}
        self._add(
            "matrix", MATRIX, "/sys/devices/vfio_ap", None, "vfio_ap", None, files, noiommu=False
        )
        self.devices[-1].mdev_types = (kind,)

    def iommu(self, group: int, model: IommuModel) -> Topology:
        """Put a group behind another IOMMU than the default."""
        self._group(group).iommu = model
        return self

    def _add(
        self,
        bus: str,
        name: str,
        parent: str,
        program: Program | None,
        driver: str | None,
        group: int | None,
        files: Mapping[str, SysfsEntry] | None,
        *,
        noiommu: bool,
    ) -> Topology:
        if any((spec.bus, spec.name) == (bus, name) for spec in self.devices):
            raise TopologyError(f"there are two {bus} devices {name}")
        if group is not None:
            self._group(group).noiommu = noiommu
        self.devices.append(DeviceSpec(bus, name, parent, program, driver, group, files or {}))
        return self

    def _group(self, number: int) -> GroupSpec:
        return self.groups.setdefault(number, GroupSpec())

    def _parent(self, name: str) -> DeviceSpec:
        for spec in self.devices:
            if spec.name == name and spec.bus != "mdev":
                return spec
        raise TopologyError(f"no device {name} to be the parent of an mdev")

    # -- ready-made --------------------------------------------------------------------------
    @classmethod
    def default(cls) -> Topology:
        """The machine of the examples.

        PCI: 02:00.0 edu (group 1), 03:00.0 NVMe (group 2), 04:00.0 edu beside 04:00.1 on a host
        driver (group 3, not viable), 05:00.0 edu (group 4), 06:00.0 and 06:00.1 two edus of
        group 5. Platform: 10000000.timer (group 6). Mediated: an AP matrix, and the disk
        0.0.1234 on subchannel 0.0.0001. Then, last so that the others keep their numbers, PCI
        07:00.0 ivshmem (group 9).
        """
        edu, nvme = _program("edu", {}), _program("nvme", {})
        network = {
            "vendor": b"0x8086\n",
            "device": b"0x10d3\n",
            "class": b"0x020000\n",
            "subsystem_vendor": b"0x8086\n",
            "subsystem_device": b"0xa01f\n",
            "revision": b"0x00\n",
            "numa_node": b"-1\n",
        }
        return (
            cls()
            .pci("0000:02:00.0", edu, group=1)
            .pci("0000:03:00.0", nvme, group=2)
            .pci("0000:04:00.0", edu, group=3)
            .pci("0000:04:00.1", group=3, driver="e1000e", files=network)
            .pci("0000:05:00.0", edu, group=4)
            .pci("0000:06:00.0", edu, group=5)
            .pci("0000:06:00.1", edu, group=5)
            .platform("10000000.timer", _program("timer", {}), group=6)
            .ap_matrix(AP_MATRIX_UUID)
            .subchannel("0.0.0001")
            .mdev(CCW_DISK_UUID, parent="0.0.0001")
            .pci("0000:07:00.0", _program("ivshmem", {}), group=9)
        )

    @classmethod
    def from_toml(cls, text: str) -> Topology:
        """Read a topology.

        Arrays of tables ``pci``, ``platform``, ``subchannel``, ``ap_matrix`` and ``mdev`` take
        what the methods of those names take; ``device`` is the name of a device program and
        ``options`` its keyword arguments. Tables ``groups.N`` take the fields of `IommuModel`,
        and ``host`` keyword arguments of `SimHost`.

        Raises:
            TopologyError: the text is not TOML, or names something that does not exist.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise TopologyError(f"not TOML: {error}") from error
        topology = cls()
        topology.host_options = dict(tables.pop("host", {}))
        groups = tables.pop("groups", {})
        for kind in ("pci", "platform", "subchannel", "ap_matrix", "mdev"):
            for number, table in enumerate(tables.pop(kind, [])):
                _add_table(topology, kind, table, f"{kind}[{number}]")
        if tables:
            raise TopologyError(f"unknown tables: {', '.join(sorted(tables))}")
        for number, table in groups.items():
            topology.iommu(int(number), _iommu_model(table, f"groups.{number}"))
        return topology


def _add_table(topology: Topology, kind: str, table: Mapping[str, Any], path: str) -> None:
    arguments = dict(table)
    options = arguments.pop("options", {})
    if "device" in arguments:
        arguments["device"] = _program(arguments["device"], options)
    if "files" in arguments:
        files = arguments["files"].items()
        arguments["files"] = {name: f"{text}\n".encode() for name, text in files}
    if kind == "ap_matrix":
        arguments["uuid"] = arguments.pop("name", None)
    elif kind == "mdev":
        arguments["uuid"] = arguments.pop("name", "")
    try:
        getattr(topology, kind)(**arguments)
    except TypeError as error:
        raise TopologyError(f"{path}: {error}") from error


def _iommu_model(table: Mapping[str, Any], path: str) -> IommuModel:
    arguments = dict(table)
    if "aperture" in arguments:
        arguments["aperture"] = tuple(arguments["aperture"])
    if "reserved" in arguments:
        regions = arguments["reserved"]
        arguments["reserved"] = tuple(ReservedRegion(**region) for region in regions)
    if "hw_info_data" in arguments:
        arguments["hw_info_data"] = bytes.fromhex(arguments["hw_info_data"])
    try:
        return IommuModel(**arguments)
    except TypeError as error:
        raise TopologyError(f"{path}: {error}") from error
