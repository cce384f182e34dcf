"""What a sequence is written with: raw calls, each with its answer in words."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap as RegionMap  # noqa: N812 - `Script.mmap` hides its own name
from typing import TypeVar

from vfiocore.host.protocol import MAP_SHARED, POLLIN, PROT_READ, PROT_WRITE, Host
from vfiocore.uapi import iommufd, vfio

from .memory import Memory
from .roles import Roles

T = TypeVar("T")

FAILED = -1
"""What a call that failed gives where another gives an fd or a number."""


class Script:
    """One run of a sequence on one machine.

    Every call is answered, whatever happens: with the kernel's result, or the name of its errno.
    A struct is changed in place as the kernel changes it, and what was changed is in the answer.

    Attributes:
        calls: What was called, in words.
        answers: What came of each call.
        roles: Where the devices are.
        memory: Memory at fixed addresses.
    """

    def __init__(self, host: Host) -> None:
        self.calls: list[str] = []
        self.answers: list[str] = []
        self.roles = Roles(host)
        self.memory = Memory()
        self._host = host
        self._fds: list[int] = []
        self._maps: list[RegionMap] = []
        self._labels: dict[int, str] = {}
        self._secrets: dict[str, str] = {}

    def end(self) -> None:
        """Close what is open, the last first."""
        for mapping in self._maps:
            mapping.close()
        for fd in reversed(self._fds):
            self._host.close(fd)
        self._fds.clear()
        self.memory.close()

    # -- files -------------------------------------------------------------------------------------
    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        """Open a node; its fd."""
        label = self.roles.label(path)
        how = "" if flags == os.O_RDWR else f", {flags:#o}"
        return self._new_fd(label, f"open({label}{how})", lambda: self._host.open(path, flags))

    def last(self, label: str) -> int:
        """The file of a label that was opened last."""
        return [fd for fd in self._fds if self._labels[fd] == label][-1]

    def close(self, fd: int) -> None:
        """Close one fd."""
        call = f"close({self._label(fd)})"
        self._labels.pop(fd, None)
        if fd in self._fds:
            self._fds.remove(fd)
        self._say(call, lambda: self._host.close(fd), lambda _: "0", None)

    def dup(self, fd: int) -> int:
        """Duplicate an fd."""
        label = f"{self._label(fd)} again"
        return self._new_fd(label, f"dup({self._label(fd)})", lambda: self._host.dup(fd))

    def read(self, fd: int, size: int) -> bytes:
        """Read at the file's own position."""
        return self._say(
            f"read({self._label(fd)}, {size})", lambda: self._host.read(fd, size), _bytes, b""
        )

    def write(self, fd: int, data: bytes) -> int:
        """Write at the file's own position."""
        call = f"write({self._label(fd)}, {data.hex()})"
        return self._say(call, lambda: self._host.write(fd, data), str, FAILED)

    def pread(
        self, fd: int, size: int, offset: int, hide: Callable[[bytes], bytes] = bytes
    ) -> bytes:
        """Read; the bytes, with what differs from machine to machine hidden."""
        call = f"pread({self._label(fd)}, {size}, {offset:#x})"
        return self._say(
            call, lambda: self._host.pread(fd, size, offset), lambda data: _bytes(hide(data)), b""
        )

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write."""
        call = f"pwrite({self._label(fd)}, {data.hex()}, {offset:#x})"
        return self._say(call, lambda: self._host.pwrite(fd, data, offset), str, FAILED)

    def mmap(
        self,
        fd: int,
        length: int,
        offset: int = 0,
        *,
        prot: int = PROT_READ | PROT_WRITE,
        flags: int = MAP_SHARED,
    ) -> RegionMap | None:
        """Map."""
        call = f"mmap({self._label(fd)}, {length:#x}, {offset:#x}, prot={prot}, flags={flags})"
        found = self._say(
            call,
            lambda: self._host.mmap(fd, length, prot=prot, flags=flags, offset=offset),
            lambda _: "mapped",
            None,
        )
        if found is not None:
            self._maps.append(found)
        return found

    def address(self, mapping: RegionMap | None) -> int:
        """Where a mapping is; `calls` have its name instead."""
        if mapping is None:
            return 0
        found = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        self._secrets[f"{found:#x}"] = "mapping"
        return found

    # -- ioctls ------------------------------------------------------------------------------------
    def ioctl(
        self,
        fd: int,
        request: int,
        argument: int | ctypes.Structure = 0,
        tail: bytes = b"",
        hide: Callable[[bytes], bytes] = bytes,
    ) -> int:
        """An ioctl with a number or address, or a struct and what follows it in memory.

        What differs from machine to machine in what follows is hidden.
        """
        if isinstance(argument, int):
            call = self._ioctl_call(fd, request, f"{argument:#x}")
            return self._say(call, lambda: self._host.ioctl(fd, request, argument), str, FAILED)
        call = self._ioctl_call(
            fd, request, _struct(argument) + (f" + {_tail(tail)}" if tail else "")
        )
        before = bytes(argument) + tail
        after = bytearray(before)
        result, answer = _attempt(lambda: self._host.ioctl(fd, request, after), str, FAILED)
        size = ctypes.sizeof(argument)
        changed = _changes(argument, bytes(after[:size]))
        ctypes.memmove(ctypes.addressof(argument), bytes(after), size)
        if after[size:] != tail:
            changed.append(f"+{_tail(hide(bytes(after[size:])))}")
        self._note(call, " ".join([answer, *changed]))
        return result

    def ioctl_for_fd(
        self,
        fd: int,
        request: int,
        argument: bytes | ctypes.Structure,
        label: str,
        tail: bytes = b"",
    ) -> int:
        """An ioctl that gives an fd."""
        words = repr(argument) if isinstance(argument, bytes) else _struct(argument)
        call = self._ioctl_call(fd, request, words)
        buffer = bytearray(bytes(argument) + tail)
        return self._new_fd(label, call, lambda: self._host.ioctl(fd, request, buffer))

    def device_fd(self, group: int, role: str, options: str = "") -> int:
        """VFIO_GROUP_GET_DEVICE_FD."""
        name = self.roles.name(role) + options
        call = self._ioctl_call(group, vfio.VFIO_GROUP_GET_DEVICE_FD, repr(role + options))
        buffer = bytearray(name.encode() + b"\0")
        return self._new_fd(
            role, call, lambda: self._host.ioctl(group, vfio.VFIO_GROUP_GET_DEVICE_FD, buffer)
        )

    def fault_queue(self, context: int, request: iommufd.iommu_fault_alloc) -> int:
        """IOMMU_FAULT_QUEUE_ALLOC, which puts the fd into its struct; the fd."""
        buffer = bytearray(request)
        call = self._ioctl_call(context, iommufd.IOMMU_FAULT_QUEUE_ALLOC, _struct(request))

        def allocate() -> int:
            self._host.ioctl(context, iommufd.IOMMU_FAULT_QUEUE_ALLOC, buffer)
            reply = iommufd.iommu_fault_alloc.from_buffer_copy(buffer)
            request.out_fault_id = reply.out_fault_id
            return int(reply.out_fault_fd)

        return self._new_fd("fault queue", call, allocate)

    @staticmethod
    def pause(seconds: float) -> None:
        """Leave the kernel time for what it does in the background."""
        time.sleep(seconds)

    # -- events ------------------------------------------------------------------------------------
    def eventfd(self, initial: int = 0) -> int:
        """A new eventfd."""
        return self._new_fd("eventfd", f"eventfd({initial})", lambda: self._host.eventfd(initial))

    def memfd(self, size: int) -> int:
        """A new memory file."""
        return self._new_fd("memfd", f"memfd({size:#x})", lambda: self._host.memfd("memory", size))

    def count(self, fd: int, seconds: float = 0) -> int:
        """Wait for an eventfd and read how often it was signalled."""

        def wait() -> int:
            if not self._host.poll([(fd, POLLIN)], seconds):
                return 0
            return int.from_bytes(self._host.read(fd, 8), "little")

        return self._say(f"count({self._label(fd)})", wait, str, FAILED)

    def signal(self, fd: int) -> None:
        """Add one to an eventfd."""
        one = (1).to_bytes(8, "little")
        self._say(f"signal({self._label(fd)})", lambda: self._host.write(fd, one), str, FAILED)

    def pread_until(self, fd: int, wanted: bytes, offset: int, seconds: float = 5) -> None:
        """Read until it is what is wanted, as what another thread writes; what it was at last."""
        deadline = time.monotonic() + seconds

        def found() -> bytes:
            while True:
                data = self._host.pread(fd, len(wanted), offset)
                if data == wanted or time.monotonic() > deadline:
                    return data
                time.sleep(0.01)

        self._say(f"pread_until({self._label(fd)}, {offset:#x})", found, _bytes, b"")

    # -- sysfs -------------------------------------------------------------------------------------
    def exists(self, path: str) -> bool:
        """True if a path is there."""
        call = f"exists({self.roles.label(path)})"
        return self._say(call, lambda: self._host.exists(path), str, False)

    def listdir(self, path: str, among: tuple[str, ...]) -> None:
        """Which of some names a folder has."""

        def found() -> list[str]:
            return [name for name in self._host.listdir(path) if name in among]

        nothing: list[str] = []
        self._say(f"listdir({self.roles.label(path)})", found, " ".join, nothing)

    def link(self, path: str) -> None:
        """The last part of what a link points to."""
        call = f"readlink({self.roles.label(path)})"
        self._say(call, lambda: self._host.readlink(path), lambda to: to.rpartition("/")[2], "")

    def read_file(self, path: str) -> None:
        """The text of a file."""
        call = f"read({self.roles.label(path)})"
        self._say(call, lambda: self._host.read_file(path), lambda data: repr(data.decode()), b"")

    def write_file(self, path: str, data: bytes) -> None:
        """Store into a file."""
        call = f"write({self.roles.label(path)}, {data!r})"
        self._say(call, lambda: self._host.write_file(path, data), lambda _: "0", None)

    # -- memory ------------------------------------------------------------------------------------
    def look(self, address: int, size: int) -> None:
        """What is in memory."""
        self._note(f"memory({address:#x}, {size})", _bytes(self.memory.load(address, size)))

    # -- inside ------------------------------------------------------------------------------------
    def _label(self, fd: int) -> str:
        return self._labels.get(fd, str(fd))

    def _ioctl_call(self, fd: int, request: int, argument: str) -> str:
        label = self._label(fd)
        return f"ioctl({label}, {_request(request, label)}, {argument})"

    def _new_fd(self, label: str, call: str, do: Callable[[], int]) -> int:
        fd = self._say(
            call, do, lambda new: "inherited fd" if os.get_inheritable(new) else "fd", FAILED
        )
        if fd != FAILED:
            self._fds.append(fd)
            self._labels[fd] = label
        return fd

    def _say(self, call: str, do: Callable[[], T], words: Callable[[T], str], otherwise: T) -> T:
        result, answer = _attempt(do, words, otherwise)
        self._note(call, answer)
        return result

    def _note(self, call: str, answer: str) -> None:
        for secret, name in self._secrets.items():
            call = call.replace(secret, name)
        self.calls.append(call)
        self.answers.append(answer)


def _attempt(do: Callable[[], T], words: Callable[[T], str], otherwise: T) -> tuple[T, str]:
    try:
        result = do()
    except OSError as error:
        return otherwise, errno.errorcode[error.errno or 0]
    return result, words(result)


def _changes(struct: ctypes.Structure, after: bytes) -> list[str]:
    """The fields of a struct that are different after a call."""
    pairs = zip(_fields(struct), _fields(type(struct).from_buffer_copy(after)), strict=True)
    return [f"{name}={there:#x}" for (name, here), (_, there) in pairs if here != there]


def _struct(struct: ctypes.Structure) -> str:
    words = [f"{name}={value:#x}" for name, value in _fields(struct) if value]
    return f"{type(struct).__name__}({', '.join(words)})"


def _fields(struct: ctypes.Structure | ctypes.Union) -> list[tuple[str, int]]:
    """The numbers in a struct, those of what is in it too, and arrays as one number each."""
    found: list[tuple[str, int]] = []
    for name, *_ in struct._fields_:
        value = getattr(struct, name)
        if isinstance(value, ctypes.Union):
            found.append(_fields(value)[-1])  # what it means when it is handed back
        elif isinstance(value, int):
            found.append((name, value))
        else:
            found.append((name, int.from_bytes(bytes(value), "little")))
    return found


def _bytes(data: bytes) -> str:
    """How many bytes, and which; those that are repeated are said once."""
    if len(data) > 16 and data == data[:1] * len(data):
        return f"{len(data)}: {data[:1].hex()}..."
    return f"{len(data)}: {data.hex()}" if data else "0"


def _tail(data: bytes) -> str:
    """What follows a struct: words, without the zeros at the end."""
    words = [data[start : start + 4].hex() for start in range(0, len(data.rstrip(b"\0")), 4)]
    return "_".join(words) or "zeros"


_NAMES: dict[int, list[str]] = {}
_REQUEST = re.compile(r"(VFIO|IOMMU)_\w+")
for _module in (vfio, iommufd):
    for _name, _value in vars(_module).items():
        with suppress(TypeError):
            if (
                _REQUEST.fullmatch(_name)
                and _value >> 8 & 0xFF == vfio.VFIO_TYPE
                and _value < 1 << 16
            ):
                _NAMES.setdefault(_value, []).append(_name)


def _request(request: int, label: str) -> str:
    """A request's name: some numbers mean one thing to a container and another to a device."""
    names = _NAMES.get(request, [f"{request:#x}"])
    of_container = [name for name in names if name.startswith("VFIO_IOMMU")]
    to_container = label in ("container", "iommufd")
    chosen = [name for name in names if (name in of_container) == to_container]
    return (chosen or names)[0]
