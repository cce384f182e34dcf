from __future__ import annotations

import errno
import mmap
from collections.abc import Callable

import pytest

from vfiocore_sim.device import SimDevice


@pytest.mark.parametrize(
    "call",
    [
        lambda device: device.ioctl(0, 0),
        lambda device: device.pread(4, 0),
        lambda device: device.pwrite(b"1234", 0),
        lambda device: device.mmap(mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, 0),
    ],
    ids=["ioctl", "read", "write", "mmap"],
)
def test_a_driver_refuses_what_it_does_not_have(call: Callable[[SimDevice], object]) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        call(SimDevice())

    assert caught.value.errno == errno.EINVAL
