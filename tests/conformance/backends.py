"""The backends of this repository, each as its suite sees it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
import vfiocore_pci.plugin
from vfiocore.container import Capability
from vfiocore.device import Device
from vfiocore.testing import BackendUnderTest, DeviceFault
from vfiocore.testing.sim import CARDS, SimBackend, SimFaults, machine
from vfiocore_sim.devices import EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import IommuModel, Topology

PAGE = mmap.PAGESIZE
ENTRIES = 48
MEMLOCK = 1024 * PAGE


class OneInterface(SimHost):
    """A kernel without type1: /dev/vfio/vfio is another name of /dev/iommu (its misc alias)."""

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        return super().open("/dev/iommu" if path == "/dev/vfio/vfio" else path, flags)


def host(kind: type[SimHost] = SimHost, *, noiommu: bool = False, **options: Any) -> SimHost:
    page_size = options.setdefault("page_size", PAGE)
    options.setdefault("memlock_limit", MEMLOCK)
    options.setdefault("dma_entry_limit", ENTRIES)
    return kind(machine(page_size, noiommu=noiommu), **options)


def devices(words: str = "") -> tuple[str, ...]:
    return tuple(f"vfio-pci,host={name}{words}" for name in CARDS)


def legacy(on: SimHost | None = None, **more: Any) -> SimBackend:
    """Groups in containers of type1 version 2."""
    on = on or host()
    first, second, narrow = devices()
    facts: dict[str, Any] = {
        "host": on,
        "plugins": [vfiocore_legacy.plugin, vfiocore_pci.plugin],
        "name": "legacy",
        "devices": (first, second),
        "narrow": narrow,
        "has_objects": False,
        "capabilities": Capability.BAR_BY_ADDRESS | Capability.DIRTY_TRACKING,
        "max_mappings": ENTRIES,
        "memlock_limit": MEMLOCK,
        "faults": SimFaults(on, "VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA"),
    }
    return SimBackend(**facts | more)


def type1_version_1() -> SimBackend:
    """A kernel that has no version 2."""
    return legacy(
        host(without={"VFIO_TYPE1v2_IOMMU"}),
        capabilities=Capability.BAR_BY_ADDRESS | Capability.NO_DRIVER_PINS,
    )


def noiommu() -> SimBackend:
    """Groups without an IOMMU."""
    return legacy(
        host(noiommu=True),
        devices=devices(",noiommu=on"),
        narrow=None,
        capabilities=Capability.NO_IOMMU,
        max_mappings=None,
    )


def emulated_type1() -> SimBackend:
    """The type1 interface as iommufd emulates it (vfio_compat.c): no entry limit, no BARs."""
    return legacy(host(OneInterface), capabilities=Capability(0), max_mappings=None)


def large_pages() -> SimBackend:
    """A machine with pages of 64 KiB."""
    return legacy(
        host(page_size=16 * PAGE, memlock_limit=256 * 16 * PAGE), memlock_limit=256 * 16 * PAGE
    )


def iommufd(on: SimHost | None = None, **more: Any) -> SimBackend:
    """cdevs and /dev/iommu."""
    on = on or host()
    first, second, narrow = devices()
    facts: dict[str, Any] = {
        "host": on,
        "plugins": [vfiocore_iommufd.plugin, vfiocore_pci.plugin],
        "name": "iommufd",
        "devices": (first, second),
        "narrow": narrow,
        "capabilities": Capability.MAP_FILE | Capability.DIRTY_TRACKING,
        "memlock_limit": MEMLOCK,
        "passes_fds": True,
        "faults": SimFaults(on, "IOMMU_IOAS_MAP", "IOMMU_IOAS_UNMAP"),
    }
    return SimBackend(**facts | more)


def iommufd_without_files() -> SimBackend:
    """Before Linux 6.13."""
    return iommufd(host(without={"IOMMU_IOAS_MAP_FILE"}), capabilities=Capability.DIRTY_TRACKING)


# -- declarations of others ------------------------------------------------------------------------
class SaysTheLeast(SimBackend):
    """What its author has to say, and nothing that the suite can do without."""

    pinned_bytes = BackendUnderTest.pinned_bytes
    pass_device = BackendUnderTest.pass_device


def the_least() -> BackendUnderTest:
    on = host()
    return SaysTheLeast(
        host=on,
        plugins=[vfiocore_legacy.plugin, vfiocore_pci.plugin],
        name="legacy",
        devices=devices()[:2],
        has_objects=False,
        capabilities=Capability.BAR_BY_ADDRESS | Capability.DIRTY_TRACKING,
    )


def as_legacy(kind: type[SimBackend], **declared: bool) -> BackendUnderTest:
    """The legacy backend with devices of another kind, and what is declared of them."""
    honest = legacy()
    return kind(
        host=honest.host,
        plugins=honest.plugins,
        name=honest.name,
        devices=honest.devices,
        has_objects=False,
        capabilities=honest.capabilities,
        **declared,
    )


class DiesOfFaults(SimBackend):
    """Its devices are of no use after the IOMMU has stopped one."""

    dead = False

    def device_read(self, device: Device, iova: int, size: int) -> bytes:
        with self._noticed():
            return super().device_read(device, iova, size)

    def device_write(self, device: Device, iova: int, data: bytes) -> None:
        with self._noticed():
            super().device_write(device, iova, data)

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        assert not self.dead, "the device is in error"
        try:
            yield
        except DeviceFault:
            self.dead = True
            raise


def that_dies_of_faults() -> BackendUnderTest:
    return as_legacy(DiesOfFaults, survives_faults=False)


class WritesWhatItReads(SimBackend):
    """Its devices reach what they may read and write, and nothing else."""

    def device_read(self, device: Device, iova: int, size: int) -> bytes:
        data = super().device_read(device, iova, size)
        self.device_write(device, iova, data)
        return data


def that_writes_what_it_reads() -> BackendUnderTest:
    return as_legacy(WritesWhatItReads, reads_what_is_read_only=False)


def without_mappable_regions() -> SimBackend:
    """Cards that have registers alone."""
    topology = Topology()
    for group, name in enumerate(CARDS, start=1):
        topology.pci(name, EduDevice, group=group)
    return legacy(SimHost(topology, page_size=PAGE))


def with_addresses(pages: int) -> SimBackend:
    """An IOMMU that translates so many pages from 0 on."""
    reach = IommuModel(aperture=(0, pages * PAGE - 1), reserved=())
    return legacy(SimHost(machine(PAGE).iommu(1, reach), page_size=PAGE))
