"""The caller's memory behind an ioctl argument, and the argsz protocol on top of it."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, NoReturn, TypeVar

from attrs import frozen

from vfiocore.uapi.vfio import vfio_info_cap_header
from vfiocore_sim.capchain import chained
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfiocore.host.protocol import IoctlArgument

StructT = TypeVar("StructT", bound=ctypes.Structure)


def fail(number: int) -> NoReturn:
    """Raise OSError with `number` and its usual text."""
    raise refused(number)


@frozen
class Capability:
    """One entry of an info ioctl's capability chain: `body` is what follows the header."""

    ident: int
    body: bytes = b""
    version: int = 1

    @property
    def data(self) -> bytes:
        """Header, whose `next` is still open, and body."""
        return bytes(vfio_info_cap_header(id=self.ident, version=self.version)) + self.body


class UserBuffer:
    """What an ioctl argument points to. Touching memory past its end is EFAULT.

    An integer is no pointer to memory of the simulated process: every access is EFAULT. Immutable
    bytes can be read; what the kernel writes back to them is lost, as with ``fcntl.ioctl``.
    """

    def __init__(self, arg: IoctlArgument) -> None:
        if isinstance(arg, int):
            self._view = memoryview(b"")
        elif isinstance(arg, bytes):
            self._view = memoryview(bytearray(arg))
        else:
            self._view = memoryview(arg).cast("B")

    def read(self, offset: int, size: int) -> bytes:
        """``copy_from_user``: `size` bytes at `offset`.

        Raises:
            OSError: EFAULT when the memory ends before.
        """
        if offset + size > len(self._view):
            fail(errno.EFAULT)
        return bytes(self._view[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """``copy_to_user``: store `data` at `offset`.

        Raises:
            OSError: EFAULT when the memory ends before.
        """
        if offset + len(data) > len(self._view):
            fail(errno.EFAULT)
        self._view[offset : offset + len(data)] = data

    def load(self, kind: type[StructT], minsz: int) -> StructT:
        """The first `minsz` bytes as a `kind`, the rest zero, after the argsz check.

        Raises:
            OSError: EFAULT for unreadable memory; EINVAL for an argsz below `minsz`.
        """
        data = self.read(0, minsz).ljust(ctypes.sizeof(kind), b"\0")
        struct = kind.from_buffer_copy(data)
        if struct.argsz < minsz:
            fail(errno.EINVAL)
        return struct

    def store(self, struct: ctypes.Structure, size: int | None = None) -> None:
        """Copy the first `size` bytes of `struct` back (default: all of it)."""
        self.write(0, bytes(struct)[:size])

    def append_capabilities(
        self, struct: ctypes.Structure, caps: Sequence[Capability], caps_flag: int
    ) -> None:
        """Put `caps` behind `struct`, or say in its argsz how much room they would need.

        Sets the CAPS flag and cap_offset of `struct` and does not store it.
        ``vfio_main.c:vfio_info_add_capability``, ``vfio_pci_core.c:vfio_pci_ioctl_get_region_info``.
        """
        if not caps:
            return
        base = ctypes.sizeof(struct)
        chain = chained([cap.data for cap in caps], base)
        struct.flags |= caps_flag
        if struct.argsz < base + len(chain):
            struct.argsz = base + len(chain)
            struct.cap_offset = 0
            return
        self.write(base, chain)
        struct.cap_offset = base
