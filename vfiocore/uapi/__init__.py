"""Kernel layouts and numbers, declared once, under the kernel's own names.

Each module mirrors one header of Linux 7.2 (``include/uapi/linux``): every ``struct`` is a
:class:`ctypes.Structure` of the same name, every ``#define`` and enum constant an ``int`` (or
``str``) of the same name. It is pure data and imports nothing of this package.

Byte order is the machine's own, alignment is natural, and the layouts are those of a 64-bit
process. Flexible array members are left out of ``_fields_``; a comment says what follows the
struct. :mod:`vfiocore.uapi.s390_cio` is the exception: channel subsystem structures are
big-endian by definition of the machine, whoever reads them.

"since" in a comment names the kernel release that brought an ioctl or a struct; no note means
Linux 3.6 for VFIO and 6.2 for iommufd.
"""

from __future__ import annotations

__all__ = [
    "ioctl",
    "iommufd",
    "kvm",
    "pci_regs",
    "s390_cio",
    "vfio",
    "vfio_ccw",
    "vfio_zdev",
]
