"""Where devices do not reach each other's BARs, this is a fact of each."""

from __future__ import annotations

from typing import Any

import pytest

from vfiocore.errors import UnsupportedError
from vfiocore.log import VfioWarning

from .devices import Device
from .way import Way


@pytest.mark.usefixtures("maps_no_bars")
def test_that_a_bar_cannot_be_shown_is_a_fact_that_is_told_once(
    edu: Device, ivshmem: Device, way: Way
) -> None:
    with way.open(edu, ivshmem) as session, session["dev1"].enable() as card:
        label = session["dev0"].container.label
        card.bars[2].map()
        with pytest.warns(VfioWarning, match="PCI p2p DMA is unsupported in") as told:
            shared = session.share_region(card.bars[2])
        assert len(told) == 1
        assert list(shared.unreachable) == [label]
        assert not session["dev0"].reaches_peers


def test_a_mediated_device_reaches_memory_only_and_has_no_bar_for_others(
    mtty: Device, way: Way
) -> None:
    with way.open(mtty) as session:
        card: Any = session["dev0"]
        assert not card.reaches_peers
        with pytest.raises(UnsupportedError, match="VFIO_DEVICE_FEATURE_DMA_BUF"):
            card.config_space.region.export_dmabuf()
