"""A host that simulates a machine with VFIO devices: everything answers as the kernel would."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve

from vfiocore.host import (
    EVENTFD_DEFAULT,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    FileStat,
    LinuxHost,
)
from vfiocore_sim.device import DeviceMapping
from vfiocore_sim.kernel.machine import KernelOptions, Machine
from vfiocore_sim.kernel.memory import addresses
from vfiocore_sim.kernel.record import Call, Recorder
from vfiocore_sim.kernel.sysfs import Sysfs
from vfiocore_sim.kernel.translation import Fault, Translated
from vfiocore_sim.kernel.tree import DeviceNode, Tree
from vfiocore_sim.refusal import refused
from vfiocore_sim.topology import Topology
from vfiocore_sim.user import UserArg

if TYPE_CHECKING:
    from vfiocore.host.protocol import IoctlArgument
    from vfiocore_sim.device import SimDevice
    from vfiocore_sim.kernel.files import OpenFile
    from vfiocore_sim.kernel.node import Node

__all__ = ["Call", "Fault", "SimHost", "Translated"]

T = TypeVar("T")
_SIMULATED = ("/sys", "/proc", "/dev/vfio", "/dev/iommu", "/dev/kvm", "/dev/char")
_REAL_FLAGS = MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS
_RECORD_LIMIT = 100_000
_IOC_NUMBER = 0xFFFF


class SimHost:
    """A simulated machine, seen through the `Host` protocol.

    /sys, /proc (the sizes of huge pages, and no process), /dev/vfio, /dev/iommu, /dev/kvm and
    /dev/char are the simulated machine's; every other path, memory and eventfds are those of the
    machine that this runs on. Huge pages are counted as theirs, and are ordinary memory. Safe to
    use from any thread.

    Args:
        topology: The machine; `Topology.default()` if None.
        record: Keep the calls, for `calls` and `call_names`; the last 100000 of them.
        **options: See `KernelOptions`: ``memlock_limit`` (bytes), ``page_size`` (bytes),
            ``hugepages`` (``{2 << 20: 8}`` is a pool of eight), ``cap_sys_rawio``,
            ``dma_entry_limit``, ``noiommu``, ``without``...
    """

    name = "sim"

    def __init__(
        self, topology: Topology | None = None, *, record: bool = True, **options: Any
    ) -> None:
        self._system = LinuxHost()
        self._machine = Machine(topology or Topology.default(), KernelOptions(**options))
        self._sysfs = Sysfs(self._machine)
        self._lock = self._machine.lock
        self._recorder = Recorder(_RECORD_LIMIT)
        self._recording = record
        self._open: list[OpenFile] = []
        self._mappings: dict[int, OpenFile] = {}

    @property
    def page_size(self) -> int:
        """The size of a page of the simulated machine, in bytes."""
        return self._machine.page_size

    @property
    def huge_page_size(self) -> int | None:
        """The size of a transparent huge page of the machine that this runs on, in bytes."""
        return self._system.huge_page_size

    # -- for tests ---------------------------------------------------------------------------
    @property
    def calls(self) -> list[Call]:
        """What was asked so far, oldest first."""
        return list(self._recorder.calls)

    def call_names(self) -> list[str]:
        """`calls` in words: ``open /dev/vfio/1``, ``ioctl VFIO_SET_IOMMU``, ``close group 1``."""
        return [call.name for call in self._recorder.calls]

    def forget_calls(self) -> None:
        """Begin the record anew."""
        self._recorder.calls.clear()

    @property
    def faults(self) -> list[Fault]:
        """DMA that the IOMMU refused, oldest first; the last 4096."""
        return list(self._machine.faults)

    def open_files(self) -> list[str]:
        """The simulated files that are open, each once however many fds it has, by name."""
        with self._lock:
            self._reap()
            return [str(file) for file in self._open if not file.released]

    @property
    def pinned_bytes(self) -> int:
        """Memory that the simulated kernel keeps pinned for DMA, in bytes."""
        return self._machine.locked.pinned

    def live_mappings(self) -> list[str]:
        """The mmaps of device regions that exist, each by the name of its file."""
        with self._lock:
            return [str(file) for file in self._mappings.values()]

    def fail(self, operation: str, errno: int, *, after: int = 0, times: int = 1) -> None:
        """Let calls fail, before the simulated kernel sees them.

        Args:
            operation: A call as `call_names` has it, without ``ioctl``: ``VFIO_IOMMU_MAP_DMA``,
                ``open /dev/iommu``, ``close group 1``, ``mmap device 0000:02:00.0``; or its first
                word for all of them: ``open``, ``mmap``, ``eventfd``. A close that fails has
                closed all the same, as on Linux.
            errno: What the OSError has.
            after: How many calls still go through.
            times: How many fail after that; `clear_failures` ends it earlier.
        """
        self._recorder.trap(operation, errno, after=after, times=times)

    def clear_failures(self) -> None:
        """Let every call through again: forget what `fail` was told and has not happened yet."""
        self._recorder.clear_traps()

    def exit_process(self) -> None:
        """Drop every simulated mapping and file of this process, as the end of a process does.

        No call is recorded and none can be made to fail, as a process that ends makes no calls. An
        `mmap` object that Python still has then keeps nothing open any more.
        """
        with self._lock:
            while self._mappings:
                _key, file = self._mappings.popitem()
                file.drop()
            self._machine.files.close_all()
            self._reap()

    def device(self, name: str) -> SimDevice:
        """The program of a device, by its name; KeyError."""
        program = self._node(name).program
        assert program is not None
        return program

    def page_table(self, name: str) -> tuple[Translated, ...]:
        """What a device reaches by DMA, by rising IOVA; neighbours of one kind are one.

        Empty for a device that is attached to nothing; KeyError if there is none of that name.
        """
        with self._lock:
            translation = self._node(name).translation()
            return tuple(_joined(translation.entries())) if translation else ()

    # -- files -------------------------------------------------------------------------------
    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        """Open a node; ENOENT, or what the driver's open says."""
        with self._lock:
            return self._call(f"open {path}", path, lambda: self._do_open(path, flags))

    def _do_open(self, path: str, flags: int) -> int:
        if not _is_simulated(path):
            return self._system.open(path, flags)
        entry = self._tree().find(path)
        if isinstance(entry, DeviceNode):
            self._reap()
            fd = entry.open()
            self._note_new_files()
            return fd
        raise refused(errno.EISDIR if isinstance(entry, dict) else errno.EACCES)

    def close(self, fd: int) -> None:
        """Close an fd; when it was the last one of its file, the file is released."""
        with self._lock:
            file = self._machine.files.find(fd)
            if file is None:
                os.close(fd)
                return
            operation = f"close {file}"
            os.close(fd)
            try:
                self._call(operation, str(file), lambda: None)
            finally:
                self._reap()

    def dup(self, fd: int) -> int:
        """Another fd of the same open file."""
        return os.dup(fd)

    def fstat(self, fd: int) -> FileStat:
        """Type and device number of the file behind an fd."""
        with self._lock:
            file = self._machine.files.find(fd)
        return FileStat(file.mode, file.rdev) if file else self._system.fstat(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Give a real file a size; EINVAL for a simulated one."""
        with self._lock:
            if self._machine.files.find(fd) is not None:
                raise refused(errno.EINVAL)
        self._system.truncate(fd, size)

    def read(self, fd: int, size: int) -> bytes:
        """Read at the file's own position."""
        with self._lock:
            file = self._machine.files.find(fd)
            if file is not None:
                return file.read(size)
        return os.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        """Write at the file's own position."""
        with self._lock:
            file = self._machine.files.find(fd)
            if file is not None:
                return file.write(bytes(data))
        return os.write(fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read from a device, or a real file."""
        with self._lock:
            file = self._machine.files.find(fd)
            if file is not None:
                self._recorder.check(f"pread {file}")
                return file.pread(size, offset)
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write to a device, or a real file."""
        with self._lock:
            file = self._machine.files.find(fd)
            if file is not None:
                self._recorder.check(f"pwrite {file}")
                return file.pwrite(bytes(data), offset)
        return os.pwrite(fd, data, offset)

    def ioctl(self, fd: int, request: int, arg: IoctlArgument = 0) -> int:
        """Answer an ioctl from the raw bytes; ENOTTY for a file that has none."""
        with self._lock:
            file = self._machine.files.find(fd)
            if file is None:
                raise refused(errno.ENOTTY)
            operation = file.requests.get(request, f"{request & _IOC_NUMBER:#x}")
            user = UserArg(arg, self._machine.memory)
            return self._call(operation, str(file), lambda: self._do_ioctl(file, request, user))

    def _do_ioctl(self, file: OpenFile, request: int, arg: UserArg) -> int:
        operation = file.requests.get(request)
        if operation is not None and not self._machine.has(operation):
            raise refused(errno.ENOTTY)
        result = file.ioctl(request, arg)
        self._note_new_files()
        if result and arg.immutable:
            text = "an ioctl that returns a number needs a writable buffer: fcntl.ioctl loses it"
            raise TypeError(text)
        return result

    # -- memory ------------------------------------------------------------------------------
    def madvise(self, memory: mmap.mmap, advice: int, offset: int, length: int) -> None:
        """Advise on real memory; EINVAL for what the simulated kernel is `without`."""
        self._recorder.check("madvise")
        if advice == MADV_POPULATE_WRITE and not self._machine.has("MADV_POPULATE_WRITE"):
            raise refused(errno.EINVAL)
        self._system.madvise(memory, advice, offset, length)

    def mmap(self, fd: int, length: int, *, prot: int, flags: int, offset: int = 0) -> mmap.mmap:
        """Map a device region, or real memory."""
        with self._lock:
            file = self._machine.files.find(fd) if fd >= 0 else None
            if file is not None:
                return self._map_device(file, length, prot, flags, offset)
            self._recorder.check("mmap")
            give_back = self._take_huge_pages(fd, length, flags)
        if give_back is None:
            return self._system.mmap(fd, length, prot=prot, flags=flags, offset=offset)
        try:
            memory = DeviceMapping(fd, length, flags & _REAL_FLAGS, prot, offset=offset)
        except OSError:
            give_back()
            raise
        memory.on_unmap = give_back
        return memory

    def _take_huge_pages(self, fd: int, length: int, flags: int) -> Callable[[], None] | None:
        """Promise the pages of a mapping; what gives them back. None if it has no huge pages."""
        pools = self._machine.hugepages
        if fd >= 0:
            undo = pools.map_file(fd)
        else:
            undo = pools.take(pools.size_of(flags), length) if flags & MAP_HUGETLB else None
        return None if undo is None else partial(self._locked, undo)

    def _locked(self, do: Callable[[], None]) -> None:
        with self._lock:
            do()

    def _map_device(
        self, file: OpenFile, length: int, prot: int, flags: int, offset: int
    ) -> DeviceMapping:
        mapping = self._call(
            f"mmap {file}", str(file), lambda: file.mmap(length, prot, flags, offset)
        )
        if not isinstance(mapping, DeviceMapping):
            text = f"SimDevice.mmap must return a DeviceMapping, not {type(mapping).__name__}"
            raise TypeError(text)
        self._hold_mapping(file, mapping)
        return mapping

    def _hold_mapping(self, file: OpenFile, mapping: DeviceMapping) -> None:
        """A mapping keeps its file open, and its addresses are registers, not memory."""
        key = id(mapping)
        file.hold()
        self._mappings[key] = file
        self._machine.memory.registers[key] = addresses(mapping)
        mapping.on_unmap = lambda: self._unmapped(key)

    def _unmapped(self, key: int) -> None:
        with self._lock:
            del self._machine.memory.registers[key]
            file = self._mappings.pop(key, None)
            if file is None:  # the end of the process came first
                return
            try:
                self._call(f"munmap {file}", str(file), lambda: None)
            finally:
                file.drop()

    def memfd(self, name: str, size: int, *, hugetlb: int | None = None) -> int:
        """A new memory file of `size` bytes."""
        self._recorder.check("memfd")
        if hugetlb is None:
            return self._system.memfd(name, size)
        self._machine.hugepages.check_file(hugetlb, size)
        fd = self._system.memfd(name, size)
        self._machine.hugepages.add_file(fd, hugetlb)
        return fd

    def memlock_limit(self) -> int | None:
        """The limit of the simulated process, in bytes."""
        return self._machine.locked.limit

    def cpu_count(self) -> int:
        """The CPUs of the machine that this runs on."""
        return self._system.cpu_count()

    # -- events ------------------------------------------------------------------------------
    def eventfd(self, initial: int = 0, flags: int = EVENTFD_DEFAULT) -> int:
        """A real eventfd."""
        self._recorder.check("eventfd")
        return self._system.eventfd(initial, flags)

    def poll(
        self, fds: Sequence[tuple[int, int]], timeout: float | None = None
    ) -> list[tuple[int, int]]:
        """Wait for real fds."""
        return self._system.poll(fds, timeout)

    # -- passing fds -------------------------------------------------------------------------
    def send_fds(self, sock: int, data: bytes, fds: Sequence[int]) -> int:
        """Send fds, simulated ones too: who receives one in this process has the same file."""
        return self._system.send_fds(sock, data, fds)

    def recv_fds(self, sock: int, size: int, max_fds: int) -> tuple[bytes, list[int]]:
        """Receive fds."""
        return self._system.recv_fds(sock, size, max_fds)

    # -- sysfs -------------------------------------------------------------------------------
    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        if not _is_simulated(path):
            return self._system.listdir(path)
        with self._lock:
            return self._tree().listdir(path)

    def exists(self, path: str) -> bool:
        """True when the path can be reached."""
        if not _is_simulated(path):
            return self._system.exists(path)
        with self._lock:
            try:
                self._tree().find(path)
            except OSError:
                return False
            return True

    def readlink(self, path: str) -> str:
        """The target of a link; EINVAL for anything else."""
        if not _is_simulated(path):
            return self._system.readlink(path)
        with self._lock:
            return self._tree().readlink(path)

    def realpath(self, path: str) -> str:
        """The path without links."""
        if not _is_simulated(path):
            return self._system.realpath(path)
        with self._lock:
            return self._tree().realpath(path)

    def read_file(self, path: str) -> bytes:
        """An attribute's content."""
        if not _is_simulated(path):
            return self._system.read_file(path)
        with self._lock:
            self._recorder.check(f"read {path}")
            return self._tree().read(path)

    def write_file(self, path: str, data: bytes) -> None:
        """Store to an attribute; the driver's errno."""
        if not _is_simulated(path):
            self._system.write_file(path, data)
            return
        with self._lock:
            self._call(f"write {path}", path, lambda: self._tree().write(path, data))

    # -- inside ------------------------------------------------------------------------------
    def _node(self, name: str) -> Node:
        for (_bus, known), node in self._machine.devices.items():
            if known == name and node.program is not None:
                return node
        raise KeyError(name)

    def _tree(self) -> Tree:
        return self._sysfs.tree()

    def _reap(self) -> None:
        """Release the files whose last fd has gone, by `close` or behind our back."""
        for file in self._machine.files.reap():
            file.drop()
        self._open = [file for file in self._open if not file.released]

    def _note_new_files(self) -> None:
        self._open += self._machine.files.new_files()

    def _call(self, operation: str, target: str, do: Callable[[], T]) -> T:
        """Do it, after the traps, and record how it went."""
        code: int | None = None
        result: T | None = None
        try:
            self._recorder.check(operation)
            result = do()
        except OSError as error:
            code = error.errno
            raise
        finally:
            if self._recording:
                number = result if isinstance(result, int) else None
                self._recorder.calls.append(Call(operation, target, number, code))
        return result


def _joined(entries: Iterable[Translated]) -> Iterator[Translated]:
    before: Translated | None = None
    for entry in entries:
        if before is not None and _continues(before, entry):
            before = evolve(before, size=before.size + entry.size)
            continue
        if before is not None:
            yield before
        before = entry
    if before is not None:
        yield before


def _continues(before: Translated, entry: Translated) -> bool:
    access = (before.readable, before.writable)
    return before.iova + before.size == entry.iova and access == (entry.readable, entry.writable)


def _is_simulated(path: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in _SIMULATED)
