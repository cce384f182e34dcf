"""A device that the host takes back: as soon as its file is closed, it is gone."""

from __future__ import annotations

import pytest

from vfiocore_sim.host import SimHost

from .machine import EDU, NOTHING, Way, left_behind

NAME = "0000:02:00.0"


class ImpatientHost(SimHost):
    """Unbinds the card's driver the moment that its last file is closed, as one that waited."""

    taken = False

    def close(self, fd: int) -> None:
        super().close(fd)
        if self.wanted and not any(NAME in name for name in self.open_files()):
            self.wanted = False
            self.taken = True
            self.write_file(f"/sys/bus/pci/devices/{NAME}/driver/unbind", NAME.encode())

    wanted = False


@pytest.mark.parametrize("name", ["legacy", "iommufd"])
@pytest.mark.parametrize("buffers", [0, 1, 3])
def test_a_device_that_is_taken_while_it_is_closed_leaves_nothing(name: str, buffers: int) -> None:
    host = ImpatientHost()
    with Way(name, host).open(EDU) as session:
        for _ in range(buffers):
            session.dma_alloc(1)
        host.wanted = True
        session.close_device("edu")
    assert host.taken
    assert left_behind(host) == NOTHING
