"""Configuration space of one function, built from what its author declared."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import field, frozen

from vfiocore.uapi.pci_regs import (
    PCI_AF_CAP,
    PCI_AF_CAP_FLR,
    PCI_AF_CAP_TP,
    PCI_AF_CTRL,
    PCI_AF_CTRL_FLR,
    PCI_AF_LENGTH,
    PCI_BASE_ADDRESS_0,
    PCI_CACHE_LINE_SIZE,
    PCI_CAP_ID_AF,
    PCI_CAP_ID_EXP,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_PM,
    PCI_CAP_ID_VNDR,
    PCI_CLASS_REVISION,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_SERR,
    PCI_DEVICE_ID,
    PCI_ERR_COR_MASK,
    PCI_ERR_UNCOR_MASK,
    PCI_ERR_UNCOR_SEVER,
    PCI_EXP_DEVCAP,
    PCI_EXP_DEVCAP_FLR,
    PCI_EXP_DEVCAP_RBER,
    PCI_EXP_DEVCTL,
    PCI_EXP_DEVCTL_READRQ_512B,
    PCI_EXP_FLAGS,
    PCI_EXP_LNKCAP,
    PCI_EXP_LNKSTA,
    PCI_EXT_CAP_ID_DSN,
    PCI_EXT_CAP_ID_ERR,
    PCI_HEADER_TYPE,
    PCI_HEADER_TYPE_MFD,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_MSI_ADDRESS_HI,
    PCI_MSI_ADDRESS_LO,
    PCI_MSI_DATA_64,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_64BIT,
    PCI_MSIX_FLAGS,
    PCI_MSIX_PBA,
    PCI_MSIX_TABLE,
    PCI_PM_CTRL,
    PCI_PM_CTRL_NO_SOFT_RESET,
    PCI_PM_CTRL_STATE_MASK,
    PCI_PM_PMC,
    PCI_SUBSYSTEM_ID,
    PCI_SUBSYSTEM_VENDOR_ID,
    PCI_VENDOR_ID,
)
from vfiocore_sim.vfio.pci.config import CONFIG_SIZE, EXTENDED_SIZE, ConfigSpace
from vfiocore_sim.vfio.pci.layout import Bar, MsixTable

_COMMAND_WRITABLE = (
    PCI_COMMAND_IO
    | PCI_COMMAND_MEMORY
    | PCI_COMMAND_MASTER
    | PCI_COMMAND_SERR
    | PCI_COMMAND_INTX_DISABLE
)
_PM_SIZE = 8
_MSI_SIZE_64 = 14
_MSIX_SIZE = 12
_AF_SIZE = 6
_EXPRESS_SIZE_V2 = 60
_AER_SIZE = 72
_DSN_SIZE = 12
_NAME = re.compile(r"[0-9a-f]{4,}:([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")


@frozen(kw_only=True)
class Identity:
    """The numbers of a function's header."""

    vendor_id: int
    device_id: int
    class_code: int
    revision: int = 0
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    interrupt_pin: int = 0
    multifunction: bool = False


@frozen(kw_only=True)
class Function:
    """A function's configuration space and where its capabilities are (None: it has none)."""

    space: ConfigSpace
    pm: int | None = None
    msi: int | None = None
    msix: int | None = None
    express: int | None = None
    af: int | None = None
    addresses: dict[int, int] = field(factory=dict)


@frozen(kw_only=True)
class FunctionLayout:
    """All that a function's configuration space is built from."""

    identity: Identity
    bars: Sequence[Bar]
    msi_vectors: int
    msix: MsixTable | None
    express: bool
    power_management: bool
    soft_reset: bool
    flr: bool
    serial: int | None
    vendor_data: bytes
    spare_bytes: bool

    def build(self, name: str) -> Function:
        """A fresh configuration space for the function at address `name`."""
        space = ConfigSpace(EXTENDED_SIZE if self.express else CONFIG_SIZE)
        _header(space, self.identity)
        addresses = bar_addresses(name, self.bars)
        for bar in self.bars:
            _bar(space, bar, addresses[bar.index])
        function = Function(
            space=space,
            pm=_power_management(space, soft_reset=self.soft_reset)
            if self.power_management
            else None,
            msi=_msi(space, self.msi_vectors) if self.msi_vectors else None,
            msix=_msix(space, self.msix) if self.msix else None,
            express=_express(space, flr=self.flr) if self.express else None,
            af=_advanced_features(space) if self.flr and not self.express else None,
            addresses=addresses,
        )
        if self.vendor_data:
            _vendor(space, self.vendor_data)
        if self.express:
            _error_reporting(space)
        if self.express and self.serial is not None:
            offset = space.add_extended(PCI_EXT_CAP_ID_DSN, 1, _DSN_SIZE)
            space.set(offset + 4, self.serial, 8)
        if self.spare_bytes:
            space.open_spare_bytes()
        return function


def bar_addresses(name: str, bars: Sequence[Bar]) -> dict[int, int]:
    """The addresses that firmware gave the BARs, by index: apart from each other per function."""
    match = _NAME.fullmatch(name)
    bus, slot, number = (int(part, 16) for part in match.groups()) if match else (0, 0, 0)
    memory = 0x8000_0000 + ((((bus << 3) | number) ^ (slot << 5)) & 0x1FF) * 0x40_0000
    port = 0xC000 + (((bus << 3) | number) & 0x3F) * 0x100
    addresses = {}
    for bar in sorted(bars, key=lambda bar: -bar.size):
        if bar.io:
            addresses[bar.index] = port
            port += bar.size
        else:
            memory = -(-memory // bar.size) * bar.size
            addresses[bar.index] = memory
            memory += bar.size
    return addresses


def _header(space: ConfigSpace, identity: Identity) -> None:
    space.set(PCI_VENDOR_ID, identity.vendor_id, 2)
    space.set(PCI_DEVICE_ID, identity.device_id, 2)
    space.set(PCI_CLASS_REVISION, identity.class_code << 8 | identity.revision, 4)
    space.set(PCI_SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor_id, 2)
    space.set(PCI_SUBSYSTEM_ID, identity.subsystem_id, 2)
    space.define(PCI_COMMAND, 0, 2, _COMMAND_WRITABLE)
    space.define(PCI_CACHE_LINE_SIZE, 0, 1, 0xFF)
    space.define(PCI_INTERRUPT_LINE, 0, 1, 0xFF)
    space.set(PCI_INTERRUPT_PIN, identity.interrupt_pin, 1)
    space.set(PCI_HEADER_TYPE, PCI_HEADER_TYPE_MFD if identity.multifunction else 0, 1)


def _bar(space: ConfigSpace, bar: Bar, address: int) -> None:
    size = 8 if bar.wide else 4
    mask = ((1 << size * 8) - 1) & ~(bar.size - 1)
    space.define(PCI_BASE_ADDRESS_0 + 4 * bar.index, address | bar.type_bits, size, mask)


def _power_management(space: ConfigSpace, *, soft_reset: bool) -> int:
    offset = space.add_capability(PCI_CAP_ID_PM, _PM_SIZE)
    space.set(offset + PCI_PM_PMC, 3, 2)
    # Without NoSoftRst the way from D3hot to D0 is a reset: the "pm" method of the kernel.
    keeps_state = 0 if soft_reset else PCI_PM_CTRL_NO_SOFT_RESET
    space.define(offset + PCI_PM_CTRL, keeps_state, 2, PCI_PM_CTRL_STATE_MASK)
    return offset


def _msi(space: ConfigSpace, vectors: int) -> int:
    offset = space.add_capability(PCI_CAP_ID_MSI, _MSI_SIZE_64)
    log2 = (vectors - 1).bit_length()
    space.define(
        offset + PCI_MSI_FLAGS,
        PCI_MSI_FLAGS_64BIT | log2 << 1,
        2,
        0x00FF,  # init_pci_cap_msi_perm: all of the lower byte is the user's own copy
    )
    space.define(offset + PCI_MSI_ADDRESS_LO, 0, 4, 0xFFFF_FFFF)
    space.define(offset + PCI_MSI_ADDRESS_HI, 0, 4, 0xFFFF_FFFF)
    space.define(offset + PCI_MSI_DATA_64, 0, 2, 0xFFFF)
    return offset


def _msix(space: ConfigSpace, msix: MsixTable) -> int:
    offset = space.add_capability(PCI_CAP_ID_MSIX, _MSIX_SIZE)
    # vfio-pci lets nobody write MSI-X control: SET_IRQS owns it.
    space.set(offset + PCI_MSIX_FLAGS, msix.vectors - 1, 2)
    space.set(offset + PCI_MSIX_TABLE, msix.table | msix.bar, 4)
    space.set(offset + PCI_MSIX_PBA, msix.pba | msix.bar, 4)
    return offset


def _express(space: ConfigSpace, *, flr: bool) -> int:
    offset = space.add_capability(PCI_CAP_ID_EXP, _EXPRESS_SIZE_V2)
    space.set(offset + PCI_EXP_FLAGS, 2, 2)  # version 2, endpoint
    capabilities = PCI_EXP_DEVCAP_RBER | (PCI_EXP_DEVCAP_FLR if flr else 0)
    space.set(offset + PCI_EXP_DEVCAP, capabilities, 4)
    space.define(offset + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_READRQ_512B, 2, 0xFFFF)
    space.set(offset + PCI_EXP_LNKCAP, 0x11, 4)  # 2.5 GT/s, one lane
    space.set(offset + PCI_EXP_LNKSTA, 0x11, 2)
    return offset


def _advanced_features(space: ConfigSpace) -> int:
    offset = space.add_capability(PCI_CAP_ID_AF, _AF_SIZE)
    space.set(offset + PCI_AF_LENGTH, _AF_SIZE, 1)
    space.set(offset + PCI_AF_CAP, PCI_AF_CAP_TP | PCI_AF_CAP_FLR, 1)
    space.define(offset + PCI_AF_CTRL, 0, 1, PCI_AF_CTRL_FLR)
    return offset


def _vendor(space: ConfigSpace, data: bytes) -> None:
    offset = space.add_capability(PCI_CAP_ID_VNDR, 3 + len(data))
    space.set(offset + 2, 3 + len(data), 1)
    for position, byte in enumerate(data, offset + 3):
        space.define(position, byte, 1, 0xFF)


def _error_reporting(space: ConfigSpace) -> None:
    offset = space.add_extended(PCI_EXT_CAP_ID_ERR, 2, _AER_SIZE)
    space.define(offset + PCI_ERR_UNCOR_MASK, 0, 4, 0xFFFF_FFFF)
    space.define(offset + PCI_ERR_UNCOR_SEVER, 0x0046_2030, 4, 0xFFFF_FFFF)
    space.define(offset + PCI_ERR_COR_MASK, 0x2000, 4, 0xFFFF_FFFF)
