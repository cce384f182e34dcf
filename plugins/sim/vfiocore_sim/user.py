"""The argument of an ioctl: the caller's memory, as the kernel copies it in and out."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, Protocol, TypeVar

from vfiocore_sim.capchain import Capability, chained
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfiocore.host.protocol import IoctlArgument

S = TypeVar("S", bound=ctypes.Structure)

_U64_MAX = (1 << 64) - 1


class Memory(Protocol):
    """What an argument that is an address points into."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`; EFAULT."""

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`; EFAULT."""


class UserArg:
    """One ioctl argument: a plain number, or the buffer it points to.

    A buffer of Python ends where it ends: what a struct claims beyond that is unreadable (EFAULT).
    A number is an address in `memory`; without that it points nowhere. Immutable bytes can be
    read; what the kernel writes back to them is lost, as with ``fcntl.ioctl``.
    """

    def __init__(self, raw: IoctlArgument, memory: Memory | None = None) -> None:
        self.raw: IoctlArgument = raw
        self._memory = memory
        if isinstance(raw, int):
            self.value: int = raw & _U64_MAX
            self._view = None
            return
        self.value = 0
        writable = bytearray(raw) if isinstance(raw, bytes) else raw
        self._view = memoryview(writable).cast("B")

    @property
    def immutable(self) -> bool:
        """True for `bytes`: nothing can be handed back."""
        return isinstance(self.raw, bytes)

    def read(self, size: int, offset: int = 0) -> bytes:
        """``copy_from_user``."""
        if self._view is None:
            return self._pointed_to.read(self.value + offset, size)
        if offset + size > len(self._view):
            raise refused(errno.EFAULT)
        return bytes(self._view[offset : offset + size])

    def write(self, data: bytes, offset: int = 0) -> None:
        """``copy_to_user``."""
        if self._view is None:
            self._pointed_to.write(self.value + offset, data)
            return
        if offset + len(data) > len(self._view):
            raise refused(errno.EFAULT)
        self._view[offset : offset + len(data)] = data

    @property
    def _pointed_to(self) -> Memory:
        if self._memory is None:
            raise refused(errno.EFAULT)
        return self._memory

    def string(self, limit: int) -> str:
        """``strndup_user``: the NUL-terminated string; EINVAL when longer than `limit`."""
        if self._view is None:
            data = b""
            while b"\0" not in data and len(data) < limit:
                data += self.read(1, len(data))
        else:
            data = bytes(self._view)
            if b"\0" not in data and len(data) < limit:
                raise refused(errno.EFAULT)
        text, nul, _rest = data.partition(b"\0")
        if not nul or len(text) >= limit:
            raise refused(errno.EINVAL)
        return text.decode("utf-8", "surrogateescape")

    def struct(self, kind: type[S], minimum: int | None = None) -> S:
        """A struct that begins with argsz, of which the first `minimum` bytes must be there.

        What lies beyond `minimum` is not read: it is zero. EINVAL for an argsz below `minimum`.
        """
        minimum = ctypes.sizeof(kind) if minimum is None else minimum
        found = kind.from_buffer_copy(self.read(minimum).ljust(ctypes.sizeof(kind), b"\0"))
        if found.argsz < minimum:
            raise refused(errno.EINVAL)
        return found

    def sized(self, kind: type[S], minimum: int) -> S:
        """A struct that begins with its size (iommufd): ``copy_struct_from_user``.

        Bytes that the kernel does not know must be zero (E2BIG); missing ones read as zero.
        """
        size = ctypes.c_uint32.from_buffer_copy(self.read(4)).value
        known = ctypes.sizeof(kind)
        if size < minimum:
            raise refused(errno.EINVAL)
        if size > known and any(self.read(size - known, known)):
            raise refused(errno.E2BIG)
        return kind.from_buffer_copy(self.read(min(size, known)).ljust(known, b"\0"))

    def answer(self, reply: ctypes.Structure, size: int | None = None) -> None:
        """Copy a struct back, all of it or its first `size` bytes."""
        data = bytes(reply)
        self.write(data if size is None else data[:size])

    def append_capabilities(
        self, info: ctypes.Structure, caps: Sequence[Capability], caps_flag: int
    ) -> None:
        """Put `caps` behind `info`, or say in its argsz how much room they would need.

        Sets the CAPS flag and cap_offset of `info` and does not store it.
        ``vfio_main.c:vfio_info_add_capability``, ``vfio_pci_core.c:vfio_pci_ioctl_get_region_info``.
        """
        if not caps:
            return
        base = ctypes.sizeof(info)
        chain = chained([cap.data for cap in caps], base)
        info.flags |= caps_flag
        if info.argsz < base + len(chain):
            info.argsz = base + len(chain)
            info.cap_offset = 0
            return
        self.write(chain, base)
        info.cap_offset = base
