"""Reading a message as a user does: what is wrong, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from vfiocore.errors import VfioError
from vfiocore.framework import Framework
from vfiocore.session import Session
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology

IOMMUFD = "-object iommufd,id=iommufd0"
CARD = "-device vfio-pci,id=card,host=0000:02:00.0"
LINKED = f"{IOMMUFD} {CARD},iommufd=iommufd0"
WAYS = {"legacy": CARD, "iommufd": LINKED}
"""The same card on either backend."""


@cache
def installed() -> Framework:
    return Framework()


def opened(words: str, host: SimHost | None = None) -> Session:
    return installed().on(host or SimHost()).open(words)


def machine(**card: object) -> SimHost:
    """A machine of one card; `card` goes to `Topology.pci`."""
    settings = {"group": 1, **card}
    return SimHost(Topology().pci("0000:02:00.0", EduDevice, **settings))  # type: ignore[arg-type]


def refused(kind: type[VfioError], act: Callable[[], object], host: SimHost | None = None) -> str:
    """The message of the error that `act` ends with; `host` keeps nothing."""
    with pytest.raises(kind) as caught:
        act()
    assert type(caught.value) is kind
    if host is not None:
        assert host.open_files() == []
        assert host.pinned_bytes == 0
    return str(caught.value)


def refused_open(
    kind: type[VfioError],
    words: str,
    host: SimHost | None = None,
    framework: Framework | None = None,
) -> str:
    """The message that a configuration is refused with; nothing stays open."""
    host = host or SimHost()
    return refused(kind, lambda: (framework or installed()).on(host).open(words), host)


def assert_says(message: str, *words: str) -> None:
    """Everything that a reader needs is in the message, and no traceback of ours is."""
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert "object at 0x" not in message
