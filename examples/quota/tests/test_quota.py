from __future__ import annotations

from collections.abc import Iterator

import pytest
from vfiocore_quota import Quota

import vfiocore_iommufd.plugin
import vfiocore_pci.plugin
from vfiocore import Framework, Session
from vfiocore.errors import DmaLimitError, DmaOverlapError
from vfiocore.testing.sim import left_behind
from vfiocore_sim.host import SimHost

FIRST, SECOND = "0000:02:00.0", "0000:05:00.0"
TOGETHER = (
    "-object iommufd,id=fd0"
    f" -device vfio-pci,id=first,host={FIRST},iommufd=fd0"
    f" -device vfio-pci,id=second,host={SECOND},iommufd=fd0"
)
APART = "-object iommufd,id=fd1 " + TOGETHER.replace(
    f"{SECOND},iommufd=fd0", f"{SECOND},iommufd=fd1"
)
PAGE = SimHost().page_size


@pytest.fixture
def host() -> SimHost:
    return SimHost()


@pytest.fixture
def quota() -> Quota:
    return Quota()


@pytest.fixture
def framework(host: SimHost, quota: Quota) -> Framework:
    plugins = [vfiocore_iommufd.plugin, vfiocore_pci.plugin, quota]
    return Framework(plugins, autoload=False, host=host)


@pytest.fixture
def session(framework: Framework) -> Iterator[Session]:
    with framework.open(TOGETHER) as session:
        yield session


def test_what_each_device_reaches_is_accounted(session: Session, quota: Quota) -> None:
    assert quota.usage() == {FIRST: 0, SECOND: 0}
    buffer = session.dma_alloc(3 * PAGE)
    assert quota.usage() == {FIRST: 3 * PAGE, SECOND: 3 * PAGE}
    buffer.close()
    assert quota.usage() == {FIRST: 0, SECOND: 0}


def test_what_was_refused_is_not_accounted(session: Session, quota: Quota) -> None:
    buffer = session.dma_alloc(PAGE)
    with pytest.raises(DmaOverlapError):
        session.dma_alloc(PAGE, iova=buffer.iova)
    assert quota.usage()[FIRST] == PAGE


def test_more_than_the_quota_is_refused(session: Session, quota: Quota) -> None:
    quota.default = 2 * PAGE
    session.dma_alloc(PAGE)
    with pytest.raises(DmaLimitError) as refused:
        session.dma_alloc(2 * PAGE)
    assert str(refused.value) == (
        f"IOAS 2 of fd0: dma_map failed: {3 * PAGE} bytes would be mapped, and the quota is"
        f" {2 * PAGE} bytes [ENOSPC]\n"
        "  hint: unmap something, or raise the quota (vfiocore_quota.quota.limits)"
    )
    session.dma_alloc(PAGE)


def test_a_refused_map_leaves_nothing(session: Session, quota: Quota, host: SimHost) -> None:
    quota.default = 0
    with pytest.raises(DmaLimitError):
        session.dma_alloc(PAGE)
    assert host.pinned_bytes == 0


def test_the_lowest_limit_of_a_container_counts(session: Session, quota: Quota) -> None:
    quota.limits = {FIRST: 5 * PAGE, SECOND: PAGE}
    with pytest.raises(DmaLimitError, match=f"the quota is {PAGE} bytes"):
        session.dma_alloc(2 * PAGE)
    session.close_device("second")
    session.dma_alloc(5 * PAGE)


def test_a_device_does_not_join_what_is_too_much_for_it(
    framework: Framework, quota: Quota, host: SimHost
) -> None:
    quota.limits = {SECOND: PAGE}
    memory = f"-object memory-backend-ram,id=ram0,size={4 * PAGE}"
    with pytest.raises(DmaLimitError, match=f"{SECOND}: setup_context failed"):
        framework.open(f"{memory} {TOGETHER}")
    assert left_behind(host) == []


def test_devices_of_two_objects_have_accounts_of_their_own(
    framework: Framework, quota: Quota
) -> None:
    with framework.open(APART) as session:
        quota.limits = {SECOND: PAGE}
        with pytest.raises(DmaLimitError, match="of fd1"):
            session.dma_alloc(2 * PAGE)
        assert quota.usage() == {FIRST: 0, SECOND: 0}


def test_the_installed_one_has_no_limits(host: SimHost) -> None:
    from vfiocore_quota import quota

    plugins = [vfiocore_iommufd.plugin, vfiocore_pci.plugin, quota]
    with Framework(plugins, autoload=False, host=host).open(TOGETHER) as session:
        session.dma_alloc(64 * PAGE)
        assert quota.usage()[FIRST] == 64 * PAGE
    assert quota.usage() == {}
