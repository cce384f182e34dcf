"""How Linux packs direction, size, type and number into one ioctl request.

``asm-generic/ioctl.h`` is what most machines use. powerpc, mips, sparc and alpha have their own
``asm/ioctl.h`` with three direction bits, where "no direction" is a set bit: there
``VFIO_GET_API_VERSION`` is 0x20003b64 and not 0x3b64.
"""

from __future__ import annotations

import platform
from typing import NamedTuple


class Encoding(NamedTuple):
    """The ``_IOC`` layout of a machine: direction codes and the width of the size field in bits."""

    none: int
    read: int
    write: int
    size_bits: int

    def encode(self, direction: int, ioc_type: int, nr: int, size: int) -> int:
        """The request number of ``_IOC(direction, ioc_type, nr, size)``; `size` in bytes."""
        return direction << (16 + self.size_bits) | size << 16 | ioc_type << 8 | nr


_GENERIC = Encoding(none=0, read=2, write=1, size_bits=14)
_THREE_DIRECTION_BITS = Encoding(none=1, read=2, write=4, size_bits=13)


def encoding_of(machine: str) -> Encoding:
    """The ioctl encoding of a machine, named as by :func:`platform.machine`."""
    if machine.startswith(("ppc", "powerpc", "mips", "sparc", "alpha")):
        return _THREE_DIRECTION_BITS
    return _GENERIC


_HERE = encoding_of(platform.machine())


def _IO(ioc_type: int, nr: int) -> int:  # noqa: N802
    return _HERE.encode(_HERE.none, ioc_type, nr, 0)


def _IOR(ioc_type: int, nr: int, size: int) -> int:  # noqa: N802
    return _HERE.encode(_HERE.read, ioc_type, nr, size)


def _IOW(ioc_type: int, nr: int, size: int) -> int:  # noqa: N802
    return _HERE.encode(_HERE.write, ioc_type, nr, size)


def _IOWR(ioc_type: int, nr: int, size: int) -> int:  # noqa: N802
    return _HERE.encode(_HERE.read | _HERE.write, ioc_type, nr, size)
