"""The process's own memory as the simulated kernel reaches it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Any

import pytest

from vfiocore_sim.kernel.memory import FileMemory, ProcessMemory

PAGE = mmap.PAGESIZE


@pytest.fixture(params=["system call", "maps"])
def memory(request: Any, monkeypatch: pytest.MonkeyPatch) -> ProcessMemory:
    """Reached by process_vm_readv, or as where a sandbox forbids that."""
    memory = ProcessMemory(PAGE)
    if request.param == "maps":
        monkeypatch.setattr(memory, "_transfer", lambda *arguments: False)
        monkeypatch.setattr(memory, "_populate", lambda *arguments, **how: False)
    return memory


def test_memory_is_read_and_written(memory: ProcessMemory, buffer: Any) -> None:
    mine = buffer(1)
    memory.write(mine.address + 5, b"hello")
    assert mine.map[5:10] == b"hello"
    assert memory.read(mine.address + 5, 5) == b"hello"
    assert memory.read(mine.address, 0) == b""


def test_memory_that_is_gone_is_a_bad_address(
    memory: ProcessMemory, buffer: Any, refused: Any
) -> None:
    mine = buffer(1)
    mine.map.close()
    with refused(errno.EFAULT):
        memory.read(mine.address, 1)
    with refused(errno.EFAULT):
        memory.write(mine.address, b"x")
    with refused(errno.EFAULT):
        memory.read((1 << 64) - 1, 2)


def test_read_only_memory_is_not_written(memory: ProcessMemory, buffer: Any, refused: Any) -> None:
    mine = buffer(1, prot=mmap.PROT_READ)
    assert memory.read(mine.address, 4) == bytes(4)
    with refused(errno.EFAULT):
        memory.write(mine.address, b"x")
    memory.check(mine.address, PAGE, write=False)
    with refused(errno.EFAULT):
        memory.check(mine.address, PAGE, write=True)


def test_a_range_is_good_only_as_a_whole(memory: ProcessMemory, buffer: Any, refused: Any) -> None:
    mine = buffer(4)
    memory.check(mine.address, 4 * PAGE, write=True)
    with refused(errno.EFAULT):
        memory.check(PAGE, 2 * PAGE, write=False)


def test_a_range_may_run_over_memory_of_several_kinds(
    memory: ProcessMemory, buffer: Any, refused: Any
) -> None:
    mine = buffer(32)
    libc = ctypes.CDLL(None, use_errno=True)
    second_half = ctypes.c_void_p(mine.address + 16 * PAGE)
    assert libc.mprotect(second_half, ctypes.c_size_t(16 * PAGE), mmap.PROT_READ) == 0
    memory.check(mine.address, 32 * PAGE, write=False)
    with refused(errno.EFAULT):
        memory.check(mine.address, 32 * PAGE, write=True)


def test_a_file_is_reached_as_far_as_it_goes_and_does_not_grow(refused: Any) -> None:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGE)
    file = FileMemory(fd)
    file.write(PAGE - 4, b"last")
    assert file.read(PAGE - 4, 4) == b"last"
    with refused(errno.EFAULT):
        file.read(PAGE - 4, 5)
    with refused(errno.EFAULT):
        file.write(PAGE - 4, b"after")
    assert os.fstat(fd).st_size == PAGE
    file.close()
    os.close(fd)


def test_an_ioctl_argument_may_be_an_address(kernel: Any, buffer: Any, refused: Any) -> None:
    import struct

    from vfiocore.uapi import vfio

    group = kernel.open("/dev/vfio/1")
    mine = buffer(1)
    mine.map[:8] = struct.pack("=II", 8, 0)
    kernel.ioctl(group, vfio.VFIO_GROUP_GET_STATUS, mine.address)
    assert mine.map[:8] == struct.pack("=II", 8, vfio.VFIO_GROUP_FLAGS_VIABLE)
    _container, (other,) = kernel.container_with(2)
    mine.map[:13] = b"0000:02:00.0\0"
    kernel.ioctl(other, vfio.VFIO_GROUP_GET_DEVICE_FD, mine.address)
    mine.map.close()
    with refused(errno.EFAULT):
        kernel.ioctl(group, vfio.VFIO_GROUP_GET_STATUS, mine.address)
