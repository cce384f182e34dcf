"""A virtio-mmio device with vfio-platform: behind the SMMU, and behind nothing."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore.errors import DeviceAccessError
from vfiocore.log import VfioWarning

from .devices import Device
from .way import Way

MAGIC, VERSION, DEVICE_ID, VENDOR_ID, DEVICE_STATUS = 0x00, 0x04, 0x08, 0x0C, 0x70
VIRT = int.from_bytes(b"virt", "little")
ENTROPY = 4
ACKNOWLEDGED, DRIVER_FOUND = 0x1, 0x2


def test_a_platform_device_behind_the_smmu_works(platform: Device, way: Way) -> None:
    with way.open(platform) as session:
        assert_works(session["dev0"])


def test_a_platform_device_behind_nothing_works(platform_noiommu: Device, noiommu: Way) -> None:
    with pytest.warns(VfioWarning, match="has no IOMMU"):
        session = noiommu.open(platform_noiommu)
    with session:
        assert_works(session["dev0"])


def assert_works(device: Any) -> None:
    """It is the device that it is, in every respect that vfio-platform shows."""
    assert device.compatible == ("virtio,mmio",)
    (registers,) = device.regions
    assert registers.size == 0x200
    assert registers.areas == ()  # smaller than a page, and with neighbours in it
    assert registers.read32(MAGIC) == VIRT
    assert registers.read32(VERSION) in (1, 2)
    assert registers.read32(DEVICE_ID) == ENTROPY
    assert registers.read(MAGIC, 4) == b"virt"
    registers.write32(DEVICE_STATUS, ACKNOWLEDGED | DRIVER_FOUND)
    assert registers.read32(DEVICE_STATUS) == ACKNOWLEDGED | DRIVER_FOUND
    registers.write32(DEVICE_STATUS, 0)
    assert registers.read32(DEVICE_STATUS) == 0


def test_the_line_of_a_platform_device_is_edge_triggered_and_can_be_armed(
    platform: Device, way: Way
) -> None:
    with way.open(platform) as session:
        (line,) = session["dev0"].irqs
        assert (line.count, line.automasked, line.maskable) == (1, False, False)
        (vector,) = line.enable()
        line.trigger()
        assert vector.wait(timeout=20) == 1


def test_a_platform_device_that_the_kernel_cannot_reset_says_so(platform: Device, way: Way) -> None:
    with way.open(platform) as session:
        assert not session["dev0"].resettable
        with pytest.raises(DeviceAccessError, match="no reset function for virtio,mmio") as caught:
            session["dev0"].reset()
        assert caught.value.errno == errno.EINVAL


def test_memory_is_mapped_for_a_platform_device(platform: Device, way: Way) -> None:
    with way.open(platform) as session, session.dma_alloc(8192) as memory:
        container = session["dev0"].container
        assert any(usable.covers(memory.iova, 8192) for usable in container.iova_ranges)
        assert container.mappings.bytes == 8192
