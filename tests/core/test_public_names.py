"""What `vfiocore` itself offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vfiocore
from vfiocore.framework import Framework


def test_every_public_name_is_there() -> None:
    assert set(vfiocore.__all__) == {
        "API_VERSION",
        "Config",
        "Framework",
        "PluginFilter",
        "Session",
        "__version__",
        "hookimpl",
        "open_session",
    }
    for name in vfiocore.__all__:
        assert getattr(vfiocore, name) is not None
        assert name in dir(vfiocore)


def test_a_name_is_the_same_object_as_at_its_home() -> None:
    assert vfiocore.Framework is Framework


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        vfiocore.frobnicate  # noqa: B018 - the access is what is tested


def test_importing_the_package_imports_none_of_its_parts() -> None:
    program = "import sys, vfiocore; print(*[m for m in sys.modules if m.startswith('vfiocore.')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
