from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from vfiocore.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY
from vfiocore.uapi.vfio import VFIO_PCI_CONFIG_REGION_INDEX
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.vfio.bench import Bench


@contextmanager
def _refusal(code: int) -> Iterator[None]:
    with pytest.raises(OSError, match=r".*") as caught:
        yield
    got = caught.value.errno
    assert got == code, f"{errno.errorcode.get(got or 0, got)}, not {errno.errorcode[code]}"


@pytest.fixture
def refused() -> Callable[[int], AbstractContextManager[None]]:
    """``with refused(errno.EINVAL): ...``"""
    return _refusal


@pytest.fixture
def references() -> Callable[[int], int]:
    """How many fds of the process refer to the eventfd of an fd."""

    def count(fd: int) -> int:
        wanted = _eventfd_id(str(fd))
        assert wanted
        return [_eventfd_id(name) for name in os.listdir("/proc/self/fdinfo")].count(wanted)

    return count


def _eventfd_id(fd: str) -> str:
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            return next((line for line in file if line.startswith("eventfd-id")), "")
    except FileNotFoundError:  # what listed the directory
        return ""


@pytest.fixture
def edu() -> Iterator[Bench[EduDevice]]:
    with Bench(EduDevice()) as bench:
        yield bench


@pytest.fixture
def live_edu(edu: Bench[EduDevice]) -> Bench[EduDevice]:
    """An edu that decodes its BAR and may do DMA."""
    command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
    edu.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2)
    return edu
