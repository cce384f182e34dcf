"""What a configuration may say of a device, and what is told when it may not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest

import vfiocore_legacy.plugin
import vfiocore_pci.plugin
from vfiocore.errors import (
    ConfigError,
    HostUnsupportedError,
    MissingPluginError,
    UnsupportedError,
)
from vfiocore.fds import FdTable
from vfiocore.framework import Framework
from vfiocore.log import VfioWarning
from vfiocore.uapi import vfio
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import IommuModel, Topology
from vfiocore_sim.vfio.base import Feature

from .machine import AP, CCW, EDU, NOTHING, Way, left_behind

IOMMUFD = "-object iommufd,id=iommufd0"


def refused(host: SimHost, words: str) -> str:
    """What a configuration is refused with; nothing was asked of the machine."""
    with pytest.raises(ConfigError) as caught:
        Framework(host=host).open(words)
    assert left_behind(host) == NOTHING
    return str(caught.value)


# -- selectors -------------------------------------------------------------------------------------
def test_host_and_sysfsdev_exclude_each_other(host: SimHost) -> None:
    text = refused(host, f"-device vfio-pci,host={EDU.name},sysfsdev={EDU.path}")
    assert "host and sysfsdev both select the device" in text


def test_host_and_fd_exclude_each_other(host: SimHost) -> None:
    text = refused(host, f"{IOMMUFD} -device vfio-pci,host={EDU.name},fd=9,iommufd=iommufd0")
    assert "host and fd both select the device" in text


def test_an_fd_needs_an_iommufd(host: SimHost) -> None:
    assert "fd passing works only with an iommufd" in refused(host, "-device vfio-pci,fd=9")


def test_a_device_has_to_be_selected(host: SimHost) -> None:
    assert "no host device is selected" in refused(host, "-device vfio-pci")


def test_a_device_that_is_not_there_is_named_with_its_path(host: SimHost) -> None:
    text = refused(host, "-device vfio-pci,id=gone,host=0000:99:00.0")
    assert '"gone"' in text
    assert "/sys/bus/pci/devices/0000:99:00.0" in text


def test_every_missing_device_is_told_at_once(host: SimHost) -> None:
    text = refused(host, "-device vfio-pci,host=0000:98:00.0 -device vfio-pci,host=0000:99:00.0")
    assert "0000:98:00.0" in text
    assert "0000:99:00.0" in text


def test_a_platform_device_wants_sysfsdev_beside_an_fd(host: SimHost) -> None:
    text = refused(host, f"{IOMMUFD} -device vfio-platform,fd=9,iommufd=iommufd0")
    assert "fd needs sysfsdev beside it" in text


def test_a_channel_device_always_wants_sysfsdev(host: SimHost) -> None:
    text = refused(host, f"{IOMMUFD} -device vfio-ccw,fd=9,iommufd=iommufd0")
    assert "sysfsdev: it is required" in text


def test_a_link_has_to_lead_to_an_object(host: SimHost) -> None:
    text = refused(host, f"{IOMMUFD} -device vfio-pci,host={EDU.name},iommufd=iommufd1")
    assert '"iommufd1"' in text
    assert "iommufd0" in text


# -- passed fds ------------------------------------------------------------------------------------
def test_passed_fds_are_used_and_left_open(host: SimHost) -> None:
    way = Way("passed", host)
    words = way.words(EDU)
    host.forget_calls()
    with way.framework.open(words) as session:
        assert session["edu"].name == f"VFIO_FD{way.passed[-1]}"
    assert not [name for name in host.call_names() if name.startswith(("open", "close"))]
    assert host.open_files() == ["iommufd", f"device {EDU.name}"]
    way.close_passed()
    assert left_behind(host) == NOTHING


def test_fds_may_be_passed_by_name(host: SimHost) -> None:
    fds = FdTable()
    fds.register("iommu", iommufd := host.open("/dev/iommu"))
    fds.register("card", device := host.open("/dev/vfio/devices/vfio0"))
    words = "-object iommufd,id=iommufd0,fd=iommu -device vfio-pci,id=edu,iommufd=iommufd0,fd=card"
    with Framework(host=host, fds=fds).open(words) as session:
        assert session["edu"].config_space.vendor_id == 0x1234
    host.close(device)
    host.close(iommufd)
    assert left_behind(host) == NOTHING


def test_an_fd_that_nobody_passed_is_told_with_those_there_are(host: SimHost) -> None:
    fds = FdTable()
    fds.register("spare", 9)
    words = f"{IOMMUFD} -device vfio-pci,iommufd=iommufd0,fd=card"
    with pytest.raises(ConfigError, match="no fd named 'card' was passed; named: spare"):
        Framework(host=host, fds=fds).open(words)


def test_sysfsdev_beside_an_fd_tells_which_device_it_is(host: SimHost) -> None:
    fd = host.open("/dev/vfio/devices/vfio0")
    words = f"{IOMMUFD} -device vfio-pci,id=edu,iommufd=iommufd0,fd={fd},sysfsdev={EDU.path}"
    with Framework(host=host).open(words) as session:
        assert session["edu"].name == EDU.name
    host.close(fd)
    assert left_behind(host) == NOTHING


# -- RAM discard -----------------------------------------------------------------------------------
def test_ram_discard_is_for_mdevs_only(host: SimHost) -> None:
    text = refused(host, f"-device vfio-pci,host={EDU.name},x-balloon-allowed=on")
    assert (
        f"vfio {EDU.name}: x-balloon-allowed only potentially compatible with mdev devices" in text
    )


def test_a_passed_fd_does_not_tell_an_mdev(host: SimHost) -> None:
    text = refused(host, f"{IOMMUFD} -device vfio-pci,iommufd=iommufd0,x-balloon-allowed=on,fd=9")
    assert "vfio VFIO_FD9: x-balloon-allowed only potentially compatible with mdev devices" in text
    assert "sysfsdev" in text


def test_ram_discard_is_always_allowed_for_ap_and_ccw(way: Way) -> None:
    with way.open(AP, CCW, EDU) as session:
        allowed = {device.id: device.ram_discard_allowed for device in session}
    assert allowed == {"ap": True, "ccw": True, "edu": False}


# -- migration -------------------------------------------------------------------------------------
class Migratable(EduDevice):
    """A card whose driver can save its state, and that does not track its own writes."""

    def features(self) -> Mapping[int, Feature]:
        get_and_probe = vfio.VFIO_DEVICE_FEATURE_GET
        migration = Feature(get_and_probe, 8, lambda data: 0)
        return {**super().features(), vfio.VFIO_DEVICE_FEATURE_MIGRATION: migration}


def machine(*, tracking: bool) -> SimHost:
    model = IommuModel(dirty_tracking=tracking)
    return SimHost(Topology().pci(EDU.name, Migratable, group=1).iommu(1, model))


def test_migration_is_off_where_nobody_tracks_dirty_pages() -> None:
    with Way("iommufd", machine(tracking=False)).open(EDU) as session:
        facts = session["edu"].migration
    assert (facts.enabled, facts.supported, facts.dirty_tracking) == (False, True, False)
    assert "tracks dirty pages" in facts.reason


def test_migration_can_be_forced_with_a_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        way = Way("iommufd", machine(tracking=False))
        with way.open(EDU, more=",enable-migration=on") as session:
            assert session["edu"].migration.enabled
    assert [warning.category for warning in caught] == [VfioWarning]
    assert "all memory counts as dirty" in str(caught[0].message)


def test_migration_is_on_where_the_iommu_tracks_dirty_pages() -> None:
    with Way("iommufd", machine(tracking=True)).open(EDU) as session:
        facts = session["edu"].migration
    assert (facts.enabled, facts.dirty_tracking, facts.reason) == (True, True, "")


def test_migration_cannot_be_forced_on_a_driver_that_saves_nothing(way: Way) -> None:
    with pytest.raises(UnsupportedError, match="cannot save its state"):
        way.open(EDU, more=",enable-migration=on")


# -- machines that lack something ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lacking", "name", "node"),
    [("container", "legacy", "/dev/vfio/vfio"), ("iommufd", "iommufd", "/dev/iommu")],
)
def test_a_machine_without_the_interface_is_told_what_is_missing(
    lacking: str, name: str, node: str
) -> None:
    host = SimHost(without={lacking})
    with pytest.raises(HostUnsupportedError) as caught:
        Way(name, host).open(EDU)
    assert node in str(caught.value)
    assert "--host sim" in (caught.value.hint or "")
    assert host.call_names() == []


def test_this_machine_is_asked_through_the_same_configuration() -> None:
    framework = Framework(host="linux")
    if framework.make_host().exists("/dev/vfio/vfio"):
        pytest.skip("this machine has VFIO, so that nothing is missing")
    with pytest.raises(HostUnsupportedError, match="--host sim"):
        framework.open(f"-device vfio-pci,host={EDU.name}")


def test_a_backend_that_is_not_installed_is_named_with_its_distribution(host: SimHost) -> None:
    plugins = [vfiocore_legacy.plugin, vfiocore_pci.plugin]
    framework = Framework(plugins, autoload=False, host=host)
    with pytest.raises((MissingPluginError, ConfigError), match="vfiocore-iommufd"):
        framework.open(Way("iommufd", host).words(EDU))
    with framework.open(Way("legacy", host).words(EDU)) as session:
        assert session["edu"].container.backend == "legacy"
