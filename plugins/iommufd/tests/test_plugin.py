from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

from vfiocore.config import FD
from vfiocore.plugins import PluginSet
from vfiocore_iommufd import plugin


def test_the_backend_is_found_by_its_name() -> None:
    backend = PluginSet([plugin], autoload=False).backend("iommufd")
    assert backend.accepts_device_fd
    assert [(prop.name, prop.type) for prop in backend.object_properties] == [("fd", FD)]


def test_without_wrappers_dma_maps_cost_no_dispatch(rig: Any) -> None:
    hooks = PluginSet([plugin], autoload=False).hooks("iommufd")
    assert hooks.dma_map is plugin.vfio_dma_map


def test_loading_the_plugin_does_not_load_the_kernel_layouts() -> None:
    assert importlib.util.find_spec("vfiocore_iommufd") is not None
    code = (
        "import sys, vfiocore_iommufd.plugin; sys.exit('vfiocore_iommufd.context' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
