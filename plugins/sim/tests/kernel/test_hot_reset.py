"""Who may reset a whole bus: ``vfio_pci_core.c:vfio_pci_ioctl_pci_hot_reset``."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any

import pytest

from vfiocore.uapi import vfio
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.topology import Topology

FIRST, SECOND, ELSEWHERE = "0000:02:00.0", "0000:02:00.1", "0000:05:00.0"
OWNED = vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
BY_ID = vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID


@pytest.fixture
def bus(machine: Callable[..., Any]) -> Any:
    """Two functions in groups of their own on one bus, and one on another."""
    return machine(
        Topology()
        .pci(FIRST, EduDevice, group=1)
        .pci(SECOND, EduDevice, group=2)
        .pci(ELSEWHERE, EduDevice, group=3)
    )


def info(kernel: Any, device: int, room: int = 8) -> tuple[int, list[tuple[int, str]]]:
    """The flags, and each function with the id that it has there."""
    arg = bytearray(struct.pack("=III", 12 + 8 * room, 0, 0)) + bytearray(8 * room)
    kernel.ioctl(device, vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, arg)
    _argsz, flags, count = struct.unpack_from("=III", arg)
    found = [struct.unpack_from("=IHBB", arg, 12 + 8 * number) for number in range(count)]
    return flags, [
        (ident, f"{segment:04x}:{number:02x}:{devfn >> 3:02x}.{devfn & 7}")
        for ident, segment, number, devfn in found
    ]


def reset(kernel: Any, device: int, *groups: int) -> None:
    header = struct.pack("=III", 12 + 4 * len(groups), 0, len(groups))
    arg = bytearray(header + struct.pack(f"={len(groups)}i", *groups))
    kernel.ioctl(device, vfio.VFIO_DEVICE_PCI_HOT_RESET, arg)


def dirty(kernel: Any, name: str) -> Any:
    """A register that only a reset clears."""
    program = kernel.device(name)
    program.write(0, 0x04, 0x1234, 4)
    return program


def is_fresh(program: Any) -> bool:
    return bool(program.read(0, 0x04, 4) == 0)


# -- through groups --------------------------------------------------------------------------------
def test_the_functions_of_the_bus_are_named_with_their_groups(bus: Any) -> None:
    _container, (first, _second) = bus.container_with(1, 2)
    device = bus.device_fd(first, FIRST)
    assert info(bus, device) == (0, [(1, FIRST), (2, SECOND)])


def test_who_has_all_the_groups_may_reset_all_the_functions(bus: Any) -> None:
    _container, (first, second) = bus.container_with(1, 2)
    device = bus.device_fd(first, FIRST)
    programs = [dirty(bus, name) for name in (FIRST, SECOND, ELSEWHERE)]
    reset(bus, device, first, second)
    assert [is_fresh(program) for program in programs] == [True, True, False]


def test_who_lacks_a_group_may_not(bus: Any, refused: Any) -> None:
    _container, (first, other) = bus.container_with(1, 3)
    device = bus.device_fd(first, FIRST)
    program = dirty(bus, FIRST)
    for groups in ((first,), (first, other)):
        with refused(errno.EINVAL):
            reset(bus, device, *groups)
    assert not is_fresh(program)


def test_more_groups_than_functions_are_too_many(bus: Any, refused: Any) -> None:
    _container, groups = bus.container_with(1, 2, 3)
    device = bus.device_fd(groups[0], FIRST)
    with refused(errno.EINVAL):
        reset(bus, device, *groups)


def test_what_is_no_group_counts_for_none(bus: Any, refused: Any) -> None:
    container, (first,) = bus.container_with(1)
    device = bus.device_fd(first, FIRST)
    with refused(errno.EINVAL):
        reset(bus, device, first, container)
    with refused(errno.EBADF):
        reset(bus, device, first, 999)


# -- through cdevs ---------------------------------------------------------------------------------
def test_who_bound_all_the_functions_may_reset_them(bus: Any) -> None:
    context, ioas, device = bus.attached(FIRST)
    other = bus.cdev(SECOND)
    ident = bus.bind(other, context)
    bus.attach(other, ioas)
    flags, found = info(bus, device)
    assert flags == BY_ID | OWNED
    assert found[1] == (ident, SECOND)
    programs = [dirty(bus, name) for name in (FIRST, SECOND)]
    reset(bus, device)
    assert [is_fresh(program) for program in programs] == [True, True]


def test_a_function_that_another_context_has_is_not_owned(bus: Any, refused: Any) -> None:
    _context, _ioas, device = bus.attached(FIRST)
    bus.attached(SECOND)
    flags, found = info(bus, device)
    assert flags == BY_ID
    assert found[1] == (vfio.VFIO_PCI_DEVID_NOT_OWNED, SECOND)
    with refused(errno.EINVAL):
        reset(bus, device)


def test_a_function_of_a_group_that_is_owned_is_owned_with_it(
    machine: Callable[..., Any],
) -> None:
    kernel = machine(Topology().pci(FIRST, EduDevice, group=1).pci(SECOND, EduDevice, group=1))
    _context, _ioas, device = kernel.attached(FIRST)
    flags, found = info(kernel, device)
    assert flags == BY_ID | OWNED
    assert found[1] == (vfio.VFIO_PCI_DEVID_OWNED, SECOND)
    program = dirty(kernel, SECOND)
    reset(kernel, device)
    assert is_fresh(program)


def test_a_function_without_a_group_keeps_the_bus_from_being_reset(
    machine: Callable[..., Any], refused: Any
) -> None:
    kernel = machine(
        Topology().pci(FIRST, EduDevice, group=1).pci(SECOND, group=None, driver="e1000e")
    )
    _container, (group,) = kernel.container_with(1)
    with refused(errno.EPERM):
        info(kernel, kernel.device_fd(group, FIRST))
