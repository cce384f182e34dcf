"""The attribute files of a PCI function."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vfiocore_sim.device import SysfsEntry, SysfsFile
from vfiocore_sim.refusal import fail

if TYPE_CHECKING:
    from vfiocore_sim.vfio.pci.device import PciDevice
    from vfiocore_sim.vfio.pci.layout import Bar

# include/linux/ioport.h
_IORESOURCE_IO = 0x100
_IORESOURCE_MEM = 0x200
_IORESOURCE_PREFETCH = 0x2000
_IORESOURCE_SIZEALIGN = 0x40000
_IORESOURCE_MEM_64 = 0x100000
#: BARs, ROM, then the windows and SR-IOV BARs that a plain endpoint leaves empty.
_RESOURCES = 13


def pci_sysfs_files(device: PciDevice) -> Mapping[str, SysfsEntry]:
    """The files by name (``drivers/pci/pci-sysfs.c``)."""
    ident = device.identity
    modalias = (
        f"pci:v{ident.vendor_id:08X}d{ident.device_id:08X}"
        f"sv{ident.subsystem_vendor_id:08X}sd{ident.subsystem_id:08X}"
        f"bc{ident.class_code >> 16:02X}sc{ident.class_code >> 8 & 0xFF:02X}"
        f"i{ident.class_code & 0xFF:02X}\n"
    )
    files: dict[str, SysfsEntry] = {
        "vendor": _hex(ident.vendor_id, 4),
        "device": _hex(ident.device_id, 4),
        "subsystem_vendor": _hex(ident.subsystem_vendor_id, 4),
        "subsystem_device": _hex(ident.subsystem_id, 4),
        "class": _hex(ident.class_code, 6),
        "revision": _hex(ident.revision, 2),
        "irq": b"0\n",
        "numa_node": b"-1\n",
        "modalias": modalias.encode(),
        "resource": SysfsFile(read=lambda: _resources(device)),
        "config": SysfsFile(read=device.config_bytes),
    }
    if device.supported_resets:
        files["reset_method"] = SysfsFile(
            read=lambda: _load_reset_method(device),
            write=lambda data: _store_reset_method(device, data),
        )
    return files


def _hex(value: int, digits: int) -> bytes:
    return f"0x{value:0{digits}x}\n".encode()


def _resources(device: PciDevice) -> bytes:
    lines = ["0x0000000000000000 0x0000000000000000 0x0000000000000000\n"] * _RESOURCES
    for bar in device.bars:
        start = device.function.addresses[bar.index]
        lines[bar.index] = f"0x{start:016x} 0x{start + bar.size - 1:016x} 0x{_flags(bar):016x}\n"
    return "".join(lines).encode()


def _flags(bar: Bar) -> int:
    if bar.io:
        return _IORESOURCE_IO | _IORESOURCE_SIZEALIGN | bar.type_bits
    flags = _IORESOURCE_MEM | _IORESOURCE_SIZEALIGN | bar.type_bits
    if bar.wide:
        flags |= _IORESOURCE_MEM_64
    return flags | (_IORESOURCE_PREFETCH if bar.prefetchable else 0)


def _load_reset_method(device: PciDevice) -> bytes:
    """``drivers/pci/pci.c:reset_method_show``."""
    return f"{' '.join(_chosen(device))}\n".encode()


def _chosen(device: PciDevice) -> list[str]:
    return [method for method in device.reset_methods if method in device.supported_resets]


def _store_reset_method(device: PciDevice, data: bytes) -> None:
    """``drivers/pci/pci.c:reset_method_store``."""
    names = tuple(data.decode(errors="replace").split())
    supported = device.supported_resets
    if names == ("default",):
        device.reset_methods = type(device).reset_methods
        return
    if not set(names) <= set(supported):
        fail(errno.EINVAL)
    device.reset_methods = names
