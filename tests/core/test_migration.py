from __future__ import annotations

import errno
import warnings

import pytest

from vfiocore.access import DeviceAccess
from vfiocore.config import OnOffAuto
from vfiocore.container import NO_CAPABILITY, Capability, Container
from vfiocore.errors import UnsupportedError
from vfiocore.log import VfioWarning
from vfiocore.migration import MigrationFacts, decide_migration
from vfiocore.uapi import vfio

from .scripted import PAGE, ScriptedHost, device_file

MIGRATION = vfio.VFIO_DEVICE_FEATURE_MIGRATION | vfio.VFIO_DEVICE_FEATURE_GET
LOGGING = vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START | vfio.VFIO_DEVICE_FEATURE_SET

ON, OFF, AUTO = OnOffAuto.ON, OnOffAuto.OFF, OnOffAuto.AUTO


def device(host: ScriptedHost, *offered: int) -> DeviceAccess:
    """A device that offers these features."""

    def answer(arg: bytearray) -> int:
        flags = vfio.vfio_device_feature.from_buffer_copy(arg).flags
        if flags & ~vfio.VFIO_DEVICE_FEATURE_PROBE in offered:
            return 0
        raise OSError(errno.ENOTTY, "")

    host.answers[vfio.VFIO_DEVICE_FEATURE] = answer
    return device_file(host)


def container(capabilities: Capability = NO_CAPABILITY) -> Container:
    return Container(
        host=ScriptedHost(), backend="toy", label="IOAS", page_sizes=PAGE, capabilities=capabilities
    )


def decided(
    host: ScriptedHost, wish: OnOffAuto, *features: int, iommu_tracks: bool = False
) -> MigrationFacts:
    tracking = Capability.DIRTY_TRACKING if iommu_tracks else NO_CAPABILITY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decide_migration(wish, device(host, *features), container(tracking))


def test_it_is_off_where_the_driver_cannot_save_the_state(host: ScriptedHost) -> None:
    facts = decided(host, AUTO)
    assert (facts.enabled, facts.supported) == (False, False)
    assert "cannot save its state" in facts.reason


def test_it_is_off_by_default_without_dirty_tracking(host: ScriptedHost) -> None:
    facts = decided(host, AUTO, MIGRATION)
    assert (facts.enabled, facts.supported, facts.dirty_tracking) == (False, True, False)
    assert "tracks dirty pages" in facts.reason


def test_it_is_on_where_the_device_tracks_what_it_writes(host: ScriptedHost) -> None:
    facts = decided(host, AUTO, MIGRATION, LOGGING)
    assert (facts.enabled, facts.dirty_tracking, facts.reason) == (True, True, "")


def test_it_is_on_where_the_iommu_tracks_what_the_device_writes(host: ScriptedHost) -> None:
    facts = decided(host, AUTO, MIGRATION, iommu_tracks=True)
    assert (facts.enabled, facts.dirty_tracking) == (True, True)


def test_forcing_it_without_dirty_tracking_works_with_one_warning(host: ScriptedHost) -> None:
    with pytest.warns(VfioWarning, match="enable-migration=on: without dirty tracking") as told:
        facts = decide_migration(ON, device(host, MIGRATION), container())
    assert len(told) == 1
    assert (facts.enabled, facts.dirty_tracking) == (True, False)
    assert facts.reason


def test_forcing_it_where_dirty_tracking_is_there_needs_no_warning(host: ScriptedHost) -> None:
    assert decided(host, ON, MIGRATION, LOGGING).enabled


def test_forcing_it_where_the_driver_cannot_is_an_error(host: ScriptedHost) -> None:
    with pytest.raises(UnsupportedError, match="enable-migration=on") as caught:
        decided(host, ON, LOGGING)
    assert caught.value.errno == errno.ENOTTY
    assert "leave enable-migration out" in (caught.value.hint or "")


def test_it_can_be_switched_off(host: ScriptedHost) -> None:
    facts = decided(host, OFF, MIGRATION, LOGGING)
    assert (facts.enabled, facts.reason) == (False, "enable-migration=off")
