"""An error that is being explained stays the one that is raised, though the explanation fails."""

from __future__ import annotations

import errno
import os

import pytest

from vfiocore.errors import AccessDeniedError, BusyError, GroupNotViableError, KernelError
from vfiocore.session import Session

from .faulty import FaultyHost
from .path import PATHS, Path

LEGACY, IOMMUFD = PATHS[0], PATHS[1]


class UnreadableGroups(FaultyHost):
    """A machine whose /sys/kernel/iommu_groups nobody may read."""

    def listdir(self, path: str) -> list[str]:
        if "iommu_groups" in path:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        names: list[str] = self.inner.listdir(path)
        return names


def refused(path: Path, operation: str) -> KernelError:
    host = UnreadableGroups(path.host())
    host.inner.fail(operation, errno.EPERM)
    with pytest.raises(KernelError) as caught:
        path.walk(host)
    return caught.value


def test_a_group_that_is_not_viable_is_that_though_its_devices_cannot_be_listed() -> None:
    error = refused(LEGACY, "VFIO_GROUP_SET_CONTAINER")
    assert isinstance(error, GroupNotViableError)
    assert "which of its devices are on host drivers is not known" in str(error)
    assert "EACCES" in str(error)
    assert "vfio-pci" in (error.hint or "")


def test_a_bind_that_is_not_permitted_is_that_though_the_group_cannot_be_listed() -> None:
    error = refused(IOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD")
    assert isinstance(error, AccessDeniedError)
    assert error.operation == "VFIO_DEVICE_BIND_IOMMUFD"


def test_a_device_that_does_not_detach_still_leaves_with_its_file() -> None:
    host = FaultyHost(IOMMUFD.host())
    host.inner.fail("VFIO_DEVICE_DETACH_IOMMUFD_PT", errno.EBUSY, times=2)
    with pytest.raises(BusyError) as caught:
        IOMMUFD.walk(host)
    assert caught.value.operation == "VFIO_DEVICE_DETACH_IOMMUFD_PT"
    assert host.inner.open_files() == []
    assert host.inner.pinned_bytes == 0


@pytest.mark.parametrize("path", [LEGACY, IOMMUFD], ids=str)
def test_a_session_that_could_not_close_everything_is_closed(path: Path) -> None:
    host = path.host()
    session: Session = path.open(host)
    host.fail("close", errno.EIO, times=99)
    with pytest.raises(KernelError) as caught:
        session.close()
    assert caught.value.errno == errno.EIO
    assert caught.value.__notes__
    session.close()
    assert host.open_files() == []
