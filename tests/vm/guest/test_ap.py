"""Cryptographic adapters: this machine has none, and that is what we say."""

from __future__ import annotations

import subprocess

import pytest

from vfiocore import Framework
from vfiocore.errors import ConfigError
from vfiocore.host import LinuxHost
from vfiocore.sysfs import list_devices

MATRIX = "/sys/devices/vfio_ap/matrix/11111111-0000-4000-8000-000000000006"


def test_the_kernel_says_why_there_are_none(no_adapters: None) -> None:
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    assert "The hardware system does not support AP instructions" in log


def test_a_matrix_that_is_not_there_is_named(no_adapters: None, framework: Framework) -> None:
    with pytest.raises(ConfigError, match=rf"there is no {MATRIX} .*vfiocore devices"):
        framework.open(f"-device vfio-ap,sysfsdev={MATRIX}")


def test_no_adapter_is_listed(no_adapters: None) -> None:
    assert not [device for device in list_devices(LinuxHost(), "mdev") if "vfio_ap" in device.path]
