"""What the plugin module tells the framework."""

from __future__ import annotations

import subprocess
import sys

from vfiocore.plugins import PluginSet
from vfiocore_legacy import plugin


def test_the_backend_is_found_by_its_name() -> None:
    plugins = PluginSet([plugin], autoload=False)
    backend = plugins.backend("legacy")
    assert [prop.name for prop in backend.device_properties] == ["noiommu"]
    assert backend.device_properties[0].default is False
    assert backend.make_object is None
    assert not backend.accepts_device_fd


def test_without_a_wrapper_mapping_costs_no_more_than_the_backends_own_function() -> None:
    hooks = PluginSet([plugin], autoload=False).hooks("legacy")
    assert hooks.dma_map is plugin.vfio_dma_map
    assert hooks.dma_unmap is plugin.vfio_dma_unmap


def test_loading_the_plugin_loads_nothing_of_the_kernel_interface() -> None:
    script = (
        "import sys, vfiocore.hookspecs, vfiocore.registration, vfiocore.container; "
        "before = set(sys.modules); import vfiocore_legacy.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert result.stdout.split() == ["vfiocore_legacy", "vfiocore_legacy.plugin"]
