"""A backend and a frontend in memory, which record every hook and fail where they are told to."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

from attrs import define, field

from vfiocore import Framework, Session
from vfiocore.access import DeviceAccess, DeviceInfo, RegionInfo
from vfiocore.config import BOOL, FD, Property, TypeSchema
from vfiocore.config.selectors import (
    ENABLE_MIGRATION,
    HOST_PCI,
    SYSFSDEV,
    X_BALLOON_ALLOWED,
)
from vfiocore.container import Attachment, Batch, Capability, Container, for_each
from vfiocore.device import Device
from vfiocore.hookspecs import hookimpl
from vfiocore.memory import DmaMapping
from vfiocore.registration import (
    Backend,
    BackendObject,
    ContextRequest,
    DeviceSetup,
    DeviceType,
    ObjectRequest,
)
from vfiocore.uapi import vfio
from vfiocore_sim.host import SimHost

from .scripted import PAGE

ONE = "-device toy-pci,id=one,host=0000:02:00.0"
TWO = f"{ONE} -device toy-pci,id=two,host=0000:03:00.0"
LINKED = (
    "-object toy,id=toy0 -device toy-pci,id=one,host=0000:02:00.0,toy=toy0"
    " -device toy-pci,id=two,host=0000:03:00.0,toy=toy0"
)
APART = (
    "-object toy,id=a -object toy,id=b -device toy-pci,id=one,host=0000:02:00.0,toy=a"
    " -device toy-pci,id=two,host=0000:03:00.0,toy=b"
)


@define(eq=False, kw_only=True)
class ToyObject(BackendObject):
    toy: Toy = field(repr=False)

    def close(self) -> None:
        self.toy.step(f"close {self.id}")


@define(eq=False, kw_only=True)
class ToyAccess(DeviceAccess):
    """An open device whose region 0 is a memory file."""

    def info(self) -> DeviceInfo:
        return DeviceInfo(0, 1, 0)

    def region_info(self, index: int) -> RegionInfo:
        flags = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
        return RegionInfo(index, flags | vfio.VFIO_REGION_INFO_FLAG_MMAP, PAGE, 0)

    def feature(self, feature: int, operation: int, payload: bytes = b"") -> bytes:
        return payload


class ToyDevice(Device):
    """A frontend that records its end."""

    toy: Toy

    def release(self) -> None:
        super().release()
        self.toy.step(f"release {self.id}")


@define(eq=False)
class Toy:
    """The plugin: a backend without objects (legacy), one with (toy), and a device type."""

    record: list[str] = field(factory=list)
    failing: dict[str, BaseException] = field(factory=dict)
    mapped: dict[str, dict[int, DmaMapping]] = field(factory=dict)
    capabilities: Capability = Capability.BAR_BY_ADDRESS
    needs_kvm: bool = False
    always_mdev: bool = False
    nodes: tuple[str, ...] = ()
    requests: list[ContextRequest] = field(factory=list)

    def step(self, name: str) -> None:
        self.record.append(name)
        error = self.failing.get(name)
        if error is not None:
            raise error

    # -- registration ------------------------------------------------------------------------
    @hookimpl
    def vfio_register_backends(self) -> Iterable[Backend]:
        noiommu = Property("noiommu", BOOL, "Without protection.", default=False)
        yield Backend(
            name="legacy",
            help="A toy.",
            device_properties=(noiommu,),
            nodes=self.nodes,
            advice="load the toy module",
        )
        yield Backend(
            name="toy",
            help="A toy.",
            object_properties=(Property("fd", FD, "An open toy."),),
            make_object=self.make_object,
            accepts_device_fd=True,
            nodes=self.nodes,
        )

    def make_object(self, request: ObjectRequest) -> BackendObject:
        self.step(f"make {request.config.id}")
        return ToyObject(id=request.config.id, host=request.host, toy=self)

    @hookimpl
    def vfio_register_device_types(self) -> Iterable[DeviceType]:
        fd = Property("fd", FD, "An open device.")
        properties = (HOST_PCI, SYSFSDEV, fd, X_BALLOON_ALLOWED, ENABLE_MIGRATION)
        yield DeviceType(
            schema=TypeSchema("toy-pci", "A toy.", properties),
            bus="pci",
            wrap=self.wrap,
            needs_kvm=self.needs_kvm,
            always_mdev=self.always_mdev,
        )

    def wrap(self, setup: DeviceSetup) -> Device:
        self.step(f"wrap {setup.config.id}")
        device = ToyDevice(setup)
        device.toy = self
        return device

    # -- the backend -------------------------------------------------------------------------
    @hookimpl
    def vfio_setup_context(self, request: ContextRequest) -> Attachment:
        name = request.target.name
        self.requests.append(request)
        self.step(f"setup {name}")
        if request.kvm is not None:
            request.kvm.add(0)
        joined = next(iter(request.containers), None)
        container = joined or Container(
            host=request.host,
            backend="legacy" if request.backend_object is None else "toy",
            label=f"container of {name}",
            page_sizes=PAGE,
            capabilities=self.capabilities,
        )
        attachment = Attachment(container=container, target=request.target)
        container.attachments.append(attachment)
        return attachment

    @hookimpl
    def vfio_teardown_context(self, attachment: Attachment) -> None:
        container = attachment.container
        container.attachments.remove(attachment)
        container.closed = not container.attachments
        self.step(f"teardown {attachment.target.name}")

    @hookimpl
    def vfio_open_device(self, attachment: Attachment) -> DeviceAccess:
        self.step(f"open {attachment.target.name}")
        host = attachment.container.host
        return ToyAccess(host=host, fd=host.memfd("toy", PAGE), name=attachment.target.name)

    @hookimpl
    def vfio_close_device(self, attachment: Attachment, device: DeviceAccess) -> None:
        device.close()
        self.step(f"close {attachment.target.name}")

    @hookimpl
    def vfio_dma_map(self, container: Container, batch: Batch) -> None:
        self.step(f"map {len(batch)} in {container.label}")
        kernel = self.mapped.setdefault(container.label, {})

        def undo(mapping: DmaMapping) -> None:
            del kernel[mapping.iova]

        for_each(batch, lambda mapping: kernel.update({mapping.iova: mapping}), undo)

    @hookimpl
    def vfio_dma_unmap(self, container: Container, batch: Batch) -> None:
        self.step(f"unmap {len(batch)} in {container.label}")
        for mapping in batch:
            del self.mapped[container.label][mapping.iova]

    # -- for tests ---------------------------------------------------------------------------
    def framework(self, host: SimHost | None = None, **more: Any) -> Framework:
        return Framework([self], autoload=False, host=host or SimHost(), **more)

    def open(self, *parts: Any, host: SimHost | None = None, **more: Any) -> Session:
        return self.framework(host, **more).open(*parts)


def peek(mapping: DmaMapping, size: int) -> bytes:
    """What a device would read at the beginning of a mapping."""
    return ctypes.string_at(mapping.vaddr, size)
