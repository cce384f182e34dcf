from __future__ import annotations

from collections.abc import Iterator

import pytest

from vfiocore.access import DeviceAccess

from .scripted import ScriptedHost, device_file


@pytest.fixture
def host() -> Iterator[ScriptedHost]:
    host = ScriptedHost()
    yield host
    host.closing = None
    for fd in list(host.files):
        host.close(fd)


@pytest.fixture
def access(host: ScriptedHost) -> DeviceAccess:
    return device_file(host)
