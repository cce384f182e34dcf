from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import vfiocore_edu.plugin
from vfiocore_edu import card
from vfiocore_edu.card import ADDRESS_LIMIT, BUFFER_SIZE, EduCard

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
from vfiocore import Framework, Session
from vfiocore.errors import ConfigError, UnsupportedError
from vfiocore.testing import DeviceSuite, DeviceUnderTest, Register
from vfiocore.testing.sim import left_behind
from vfiocore_sim.host import SimHost

PLUGINS = [vfiocore_legacy.plugin, vfiocore_iommufd.plugin, vfiocore_edu.plugin]
BACKENDS = {
    "legacy": "-device edu,id=device,host=0000:02:00.0",
    "iommufd": "-object iommufd,id=fd0 -device edu,id=device,host=0000:02:00.0,iommufd=fd0",
}


@pytest.fixture
def host() -> SimHost:
    return SimHost()


@pytest.fixture
def framework(host: SimHost) -> Framework:
    return Framework(PLUGINS, autoload=False, host=host)


@pytest.fixture(params=BACKENDS)
def session(request: pytest.FixtureRequest, framework: Framework) -> Iterator[Session]:
    with framework.open(BACKENDS[request.param]) as session:
        yield session


@pytest.fixture
def edu(session: Session) -> EduCard:
    found: EduCard = session["device"]
    return found


def test_the_card_is_alive(edu: EduCard) -> None:
    assert edu.is_alive()


@pytest.mark.parametrize(("number", "expected"), [(0, 1), (7, 5040), (12, 479001600)])
def test_the_card_computes_factorials(edu: EduCard, number: int, expected: int) -> None:
    assert edu.factorial(number) == expected
    assert edu.factorial(number) == expected


@pytest.mark.parametrize("size", [1, BUFFER_SIZE, 3 * BUFFER_SIZE + 5])
def test_the_card_copies_memory_through_its_buffer(
    session: Session, edu: EduCard, size: int
) -> None:
    source = session.dma_alloc(size, below=ADDRESS_LIMIT)
    destination = session.dma_alloc(size, below=ADDRESS_LIMIT)
    data = bytes(range(256)) * (size // 256 + 1)
    source.write(0, data[:size])
    edu.copy(source.iova, destination.iova, size)
    assert destination.read(0, size) == data[:size]


def test_addresses_that_the_card_cannot_drive_are_refused(session: Session, edu: EduCard) -> None:
    memory = session.dma_alloc(4096, iova=ADDRESS_LIMIT)
    with pytest.raises(ValueError, match="below 0x10000000 only"):
        edu.copy(memory.iova, 0, 64)


def test_another_card_is_refused(framework: Framework, host: SimHost) -> None:
    with pytest.raises(UnsupportedError, match=r"0000:03:00\.0: open failed: this is not"):
        framework.open("-device edu,host=0000:03:00.0")
    assert left_behind(host) == []


def test_a_card_has_to_be_named(framework: Framework) -> None:
    with pytest.raises(ConfigError, match="no host device is selected"):
        framework.open("-device edu,id=device")


@pytest.mark.parametrize("backend", BACKENDS)
class TestConformance(DeviceSuite):
    """The suite for frontends; the driver keeps the interrupt for itself."""

    @pytest.fixture
    def device(self, backend: str, framework: Framework, host: SimHost) -> DeviceUnderTest:
        return DeviceUnderTest(
            open=partial(framework.open, BACKENDS[backend]),
            leftovers=partial(left_behind, host),
            registers=(
                Register(region=0, offset=card.IDENTITY, initial=0x0100_00ED),
                Register(region=0, offset=card.DMA_COUNT, width=8, initial=0, keeps=0x40),
            ),
        )
