from __future__ import annotations

import errno
from collections.abc import Callable

from attrs import define, field

from vfiocore.access import DeviceAccess, DeviceInfo, IrqInfo, RegionInfo
from vfiocore.capabilities import Capability
from vfiocore.errors import DeviceAccessError, UnsupportedError
from vfiocore.uapi import pci_regs as pci
from vfiocore.uapi import vfio

READ_WRITE = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
NAME = "0000:02:00.0"


class ConfigBytes(bytearray):
    """Configuration space, put together by hand."""

    def put(self, offset: int, value: int, size: int) -> ConfigBytes:
        self[offset : offset + size] = value.to_bytes(size, "little")
        return self

    def capability(self, offset: int, number: int, following: int = 0) -> ConfigBytes:
        self.put(pci.PCI_STATUS, pci.PCI_STATUS_CAP_LIST, 2)
        return self.put(offset, number, 1).put(offset + 1, following, 1)

    def extended(
        self, offset: int, number: int, following: int = 0, version: int = 1
    ) -> ConfigBytes:
        return self.put(offset, number | version << 16 | following << 20, 4)


@define(eq=False, kw_only=True)
class FakeFunction(DeviceAccess):
    """A PCI function in memory, with the kernel's rules where a test needs them."""

    flags: int = vfio.VFIO_DEVICE_FLAGS_PCI | vfio.VFIO_DEVICE_FLAGS_RESET
    num_regions: int = vfio.VFIO_PCI_NUM_REGIONS
    num_irqs: int = vfio.VFIO_PCI_NUM_IRQS
    capabilities: tuple[Capability, ...] = ()
    config: ConfigBytes = field(factory=lambda: ConfigBytes(256))
    regions: dict[int, RegionInfo] = field(factory=dict)
    irqs: dict[int, IrqInfo] = field(factory=dict)
    #: How many vectors the host can allocate, by index.
    available: dict[int, int] = field(factory=dict)
    enabled: dict[int, int] = field(factory=dict)
    calls: list[str] = field(factory=list)
    on_reset: Callable[[], None] = lambda: None

    def info(self) -> DeviceInfo:
        return DeviceInfo(self.flags, self.num_regions, self.num_irqs, self.capabilities)

    def region_info(self, index: int) -> RegionInfo:
        if index == vfio.VFIO_PCI_CONFIG_REGION_INDEX:
            return RegionInfo(index, READ_WRITE, len(self.config), index << 40)
        if index == vfio.VFIO_PCI_VGA_REGION_INDEX and index not in self.regions:
            raise DeviceAccessError(errno.EINVAL, "VFIO_DEVICE_GET_REGION_INFO", self.name)
        return self.regions.get(index, RegionInfo(index, 0, 0, index << 40))

    def irq_info(self, index: int) -> IrqInfo:
        if index == vfio.VFIO_PCI_ERR_IRQ_INDEX and index not in self.irqs:
            raise DeviceAccessError(errno.EINVAL, "VFIO_DEVICE_GET_IRQ_INFO", self.name)
        return self.irqs.get(index, IrqInfo(index, 0, 0))

    def set_irqs(
        self, index: int, action: int, *, start: int = 0, count: int = 1, data: bytes = b""
    ) -> int:
        self.calls.append(f"irq {index} {'on' if count else 'off'}")
        available = self.available.get(index, count)
        if count and not available:
            raise DeviceAccessError(errno.ENOSPC, "VFIO_DEVICE_SET_IRQS", self.name)
        if available < count:
            return available
        self.enabled[index] = count
        return 0

    def feature(self, feature: int, operation: int, payload: bytes = b"") -> bytes:
        raise UnsupportedError(errno.ENOTTY, "VFIO_DEVICE_FEATURE", self.name)

    def reset(self) -> None:
        self.calls.append("reset")
        self.on_reset()

    def pread(self, size: int, offset: int) -> bytes:
        start = offset & 0xFFF
        return bytes(self.config[start : start + size])

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        start = offset & 0xFFF
        self.config[start : start + len(data)] = data
        self.calls.append(f"config {start:#x} = {int.from_bytes(data, 'little'):#x}")
