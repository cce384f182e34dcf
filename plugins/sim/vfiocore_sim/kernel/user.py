"""The argument of an ioctl, as the kernel copies it from and to user memory."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING, TypeVar

from vfiocore_sim.kernel.intervals import U64_MAX
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore.host.protocol import IoctlArgument
    from vfiocore_sim.kernel.memory import ProcessMemory

S = TypeVar("S", bound=ctypes.Structure)

_U32 = struct.Struct("=I")


class UserArg:
    """One ioctl argument: a plain number, or the buffer it points to.

    A buffer of Python ends where it ends: what a struct claims beyond that is unreadable (EFAULT).
    """

    def __init__(self, raw: IoctlArgument, memory: ProcessMemory) -> None:
        self.raw = raw
        self._memory = memory
        if isinstance(raw, int):
            self.value = raw & U64_MAX
            self._view = None
            return
        self.value = 0
        # fcntl.ioctl copies an immutable buffer, so the kernel's answer is lost with the copy.
        writable = bytearray(raw) if isinstance(raw, bytes) else raw
        self._view = memoryview(writable).cast("B")

    @property
    def immutable(self) -> bool:
        """True for `bytes`: nothing can be handed back."""
        return isinstance(self.raw, bytes)

    def read(self, size: int, offset: int = 0) -> bytes:
        """``copy_from_user``."""
        if self._view is None:
            return self._memory.read(self.value + offset, size)
        if offset + size > len(self._view):
            raise refused(errno.EFAULT)
        return bytes(self._view[offset : offset + size])

    def write(self, data: bytes, offset: int = 0) -> None:
        """``copy_to_user``."""
        if self._view is None:
            self._memory.write(self.value + offset, data)
            return
        if offset + len(data) > len(self._view):
            raise refused(errno.EFAULT)
        self._view[offset : offset + len(data)] = data

    def string(self, limit: int) -> str:
        """``strndup_user``: the NUL-terminated string; EINVAL when longer than `limit`."""
        if self._view is None:
            data = b""
            while b"\0" not in data and len(data) <= limit:
                data += self._memory.read(self.value + len(data), 1)
        else:
            data = bytes(self._view)
            if b"\0" not in data and len(data) <= limit:
                raise refused(errno.EFAULT)
        text, nul, _rest = data.partition(b"\0")
        if not nul or len(text) >= limit:
            raise refused(errno.EINVAL)
        return text.decode("utf-8", "surrogateescape")

    def struct(self, kind: type[S], minimum: int | None = None) -> S:
        """A struct that begins with argsz, of which the first `minimum` bytes must be there.

        What lies beyond `minimum` is not read: it is zero.
        """
        minimum = ctypes.sizeof(kind) if minimum is None else minimum
        (argsz,) = _U32.unpack(self.read(4))
        if argsz < minimum:
            raise refused(errno.EINVAL)
        return kind.from_buffer_copy(self.read(minimum).ljust(ctypes.sizeof(kind), b"\0"))

    def sized(self, kind: type[S], minimum: int) -> S:
        """A struct that begins with its size (iommufd): ``copy_struct_from_user``.

        Bytes that the kernel does not know must be zero (E2BIG); missing ones read as zero.
        """
        (size,) = _U32.unpack(self.read(4))
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
