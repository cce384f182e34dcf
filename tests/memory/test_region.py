from __future__ import annotations

import gc
import mmap
import os

import attrs
import pytest

from vfiocore.host import LinuxHost
from vfiocore.memory import Alias, Backing, FlatRange, Io, Ram, Region, address_of

HOST = LinuxHost()
PAGE = HOST.page_size
POINTER = Backing(0x7F00_0000_0000, 1 << 40)


def test_a_region_is_in_one_container_at_most() -> None:
    ram = Ram("ram", PAGE, POINTER)
    Region("first", PAGE).add(ram, 0)

    with pytest.raises(ValueError, match="ram is in first already"):
        Region("second", PAGE).add(ram, 0)


def test_a_region_can_go_to_another_container_once_removed() -> None:
    first, second, ram = Region("first", PAGE), Region("second", PAGE), Ram("ram", PAGE, POINTER)
    first.add(ram, 0x10, priority=3)
    first.remove(ram)
    assert (ram.container, ram.offset, ram.priority) == (None, 0, 0)

    second.add(ram, 0x20)
    assert (ram.container, ram.offset) == (second, 0x20)


def test_removing_what_is_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="ram is not in here"):
        Region("here", PAGE).remove(Ram("ram", PAGE, POINTER))


def test_a_region_cannot_contain_itself() -> None:
    outer, inner = Region("outer", PAGE), Region("inner", PAGE)
    outer.add(inner, 0)

    with pytest.raises(ValueError, match="inner is inside outer"):
        inner.add(outer, 0)


def test_children_come_uppermost_first() -> None:
    root = Region("root", PAGE)
    names = {"old": 0, "high": 5, "low": -1, "new": 0}
    for name, priority in names.items():
        root.add(Io(name, PAGE), 0, priority=priority)

    assert [child.name for child in root.children] == ["high", "new", "old", "low"]


def test_state_changes_only_through_the_methods() -> None:
    with pytest.raises(attrs.exceptions.FrozenAttributeError):
        Io("registers", PAGE).enabled = False


@pytest.mark.parametrize("size", [-1, (1 << 64) + 1])
def test_a_size_that_is_not_in_64_bits_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a size of"):
        Io("registers", size)


@pytest.mark.parametrize("offset", [-1, 1 << 64])
def test_an_offset_that_is_not_in_64_bits_is_refused(offset: int) -> None:
    root, inside = Region("root", PAGE), Io("registers", PAGE)
    with pytest.raises(ValueError, match="an offset of"):
        root.add(inside, offset)
    assert root.children == []

    root.add(inside, 0)
    with pytest.raises(ValueError, match="an offset of"):
        inside.move(offset)
    with pytest.raises(ValueError, match="an offset of"):
        Alias("window", PAGE, inside, offset)


def test_a_region_in_no_container_cannot_be_moved() -> None:
    with pytest.raises(ValueError, match="in no region"):
        Io("registers", PAGE).move(0)


def test_ram_is_never_larger_than_the_memory_behind_it() -> None:
    backing = Backing(0x1000, PAGE)
    with pytest.raises(ValueError, match="of memory behind"):
        Ram("ram", PAGE + 1, backing)
    ram = Ram("ram", PAGE, backing)
    with pytest.raises(ValueError, match="of memory behind"):
        ram.resize(2 * PAGE)

    assert ram.size == PAGE


def test_a_backing_keeps_its_owner_alive() -> None:
    class Owner:
        gone = False

        def __del__(self) -> None:
            Owner.gone = True

    ram = Ram("ram", PAGE, Backing(0x1000, PAGE, owner=Owner()))
    gc.collect()
    assert not Owner.gone

    del ram
    gc.collect()
    assert Owner.gone


def test_memory_of_the_caller_cannot_go_while_it_is_a_backing() -> None:
    memory = mmap.mmap(-1, PAGE)
    with Backing.of(memory) as backing:
        assert (backing.address, backing.size) == (address_of(memory), PAGE)
        with pytest.raises(BufferError):
            memory.close()

    memory.close()
    assert memory.closed


@pytest.mark.parametrize("shared", [False, True])
def test_allocated_memory_is_freed_by_close(shared: bool) -> None:
    backing = Backing.allocate(HOST, PAGE + 1, shared=shared)
    assert backing.size == 2 * PAGE
    assert (backing.fd is not None) is shared
    backing.close()
    backing.close()

    if backing.fd is not None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(backing.fd)


def test_a_part_of_a_memory_file_is_a_backing_and_the_file_stays_the_callers() -> None:
    fd = HOST.memfd("guest", 2 * PAGE)
    try:
        os.pwrite(fd, b"second page", PAGE)
        backing = Backing.file(HOST, fd, PAGE, PAGE)
        assert isinstance(backing.owner, mmap.mmap)
        assert backing.owner[:11] == b"second page"
        assert (backing.fd, backing.fd_offset) == (fd, PAGE)
        backing.close()
        os.fstat(fd)
    finally:
        os.close(fd)


def test_a_flat_range_of_file_memory_can_be_mapped_by_address_or_by_file() -> None:
    ram = Ram("ram", 4 * PAGE, Backing(0x70000, 4 * PAGE, fd=9, fd_offset=16 * PAGE))
    mapping = FlatRange(0x100000, PAGE, ram, 2 * PAGE, readonly=True).mapping()

    assert (mapping.iova, mapping.size) == (0x100000, PAGE)
    assert mapping.vaddr == 0x70000 + 2 * PAGE
    assert (mapping.fd, mapping.fd_offset) == (9, 18 * PAGE)
    assert mapping.access.name == "READ"


def test_a_flat_range_of_plain_memory_has_no_file() -> None:
    mapping = FlatRange(0x100000, PAGE, Ram("ram", 2 * PAGE, POINTER), PAGE).mapping()

    assert (mapping.fd, mapping.fd_offset) == (None, 0)
