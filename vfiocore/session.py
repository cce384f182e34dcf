"""Live devices: wire a configuration, plugins and a host; take it all down in exact reverse."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar

from attrs import define, evolve, field

from vfiocore.address_space import VfioAddressSpace
from vfiocore.config.model import Config
from vfiocore.container import Attachment, Container
from vfiocore.errors import (
    BrokenPluginError,
    ClosedError,
    DmaLimitError,
    KernelError,
    kernel_error,
)
from vfiocore.kvm import KvmLink
from vfiocore.log import Log
from vfiocore.loop import EventLoop
from vfiocore.memory.backends import MEMORY_BACKENDS, make_ram
from vfiocore.memory.buffer import DmaBuffer
from vfiocore.memory.discard import RamDiscardPolicy
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.memory.space import AddressSpace
from vfiocore.peer import PeerMapping, share_region
from vfiocore.plan import DevicePlan, Planner
from vfiocore.registration import (
    BackendObject,
    ContextRequest,
    DeviceSetup,
    ObjectRequest,
)
from vfiocore.undo import UndoStack, run_all

if TYPE_CHECKING:
    from vfiocore.config.model import Object as ObjectConfig
    from vfiocore.device import Device
    from vfiocore.fds import FdTable
    from vfiocore.host import Host
    from vfiocore.plugins import BackendHooks, PluginSet
    from vfiocore.region import Region

T = TypeVar("T")

Extend: TypeAlias = "Callable[[Config, Sequence[Config | str | os.PathLike[str]]], Config]"


@define(eq=False)
class _Live:
    """An open device, what was planned, and how to take it down."""

    device: Device
    plan: DevicePlan
    undo: UndoStack


@define(eq=False, init=False)
class Session:
    """The devices of one configuration, live. Made by `Framework.open`; a context manager.

    Opening, mapping, resetting and closing are safe from any thread, under `lock`. Register
    accesses and interrupt waits take no lock.

    Attributes:
        host: The host that everything lives on.
        config: The configuration, typed and complete, of what is open now.
        memory: Guest memory: add regions to its root, and every device sees them. Where several
            threads do so, hold `lock`.
        space: The same as the containers show it, with the buffers of drivers.
        ram_discard: Whether memory may be taken from the guest without telling (balloon).
        loop: An event loop for those who have none.
        log: Where its events go.
        lock: The lock of the control plane.
    """

    host: Host = field(repr=False)
    config: Config = field(repr=False)
    memory: AddressSpace
    space: VfioAddressSpace
    ram_discard: RamDiscardPolicy = field(repr=False)
    loop: EventLoop
    log: Log = field(repr=False)
    lock: threading.RLock = field(repr=False)
    _plugins: PluginSet = field(repr=False)
    _extend: Extend = field(repr=False)
    _fds: FdTable = field(repr=False)
    _kvm_fd: int | None
    _kvm: KvmLink | None
    _objects: dict[str, BackendObject]
    _devices: dict[str, _Live]
    _buffers: dict[DmaBuffer, None]
    _undo: UndoStack
    _closed: bool

    def __init__(
        self,
        host: Host,
        plugins: PluginSet,
        config: Config,
        *,
        extend: Extend,
        fds: FdTable,
        kvm_fd: int | None = None,
        log: Log | None = None,
        ram_discard: RamDiscardPolicy | None = None,
    ) -> None:
        """Open everything in `config`, or nothing.

        Args:
            host: Where.
            plugins: What to open it with.
            config: A validated configuration.
            extend: Adds to a validated configuration what was written.
            fds: The names of passed fds.
            kvm_fd: An embedder's KVM-VFIO device; every group or device is added to it.
            log: Where its events go.
            ram_discard: The policy of the guest whose memory the session shows; a new one if None.
        """
        self.host = host
        self.config = config
        self.log = log or Log()
        self.lock = threading.RLock()
        self.memory = AddressSpace("memory")
        self.space = VfioAddressSpace(host.page_size, self.lock, self.log)
        self.ram_discard = ram_discard or RamDiscardPolicy()
        self.loop = EventLoop(host)
        self._plugins = plugins
        self._extend = extend
        self._fds = fds
        self._kvm_fd = kvm_fd
        self._kvm = None
        self._objects = {}
        self._devices = {}
        self._buffers = {}
        self._undo = UndoStack()
        self._closed = False
        with self.lock, self._undo:
            self._undo.push(self.loop.close)
            self.memory.add_listener(self.space)
            self._undo.push(self.memory.remove_listener, self.space)
            self._open_more_than(Config(), self._undo)

    # -- devices -----------------------------------------------------------------------------
    @property
    def devices(self) -> Mapping[str, Device]:
        """The open devices by id, in the order in which they were opened."""
        return MappingProxyType({id_: live.device for id_, live in self._devices.items()})

    def __getitem__(self, id_: str) -> Any:
        """The device called `id_`; its class is that of its frontend.

        Raises:
            KeyError: there is none; the text lists those there are.
        """
        return self._live(id_).device

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices.values())

    def __len__(self) -> int:
        return len(self._devices)

    def plug(self, *parts: Config | str | os.PathLike[str]) -> tuple[Device, ...]:
        """Open more objects and devices, as `Framework.open` does, or none of them.

        They may link to the objects that are there, and see all memory that is mapped.

        Args:
            parts: What to add to the configuration.

        Returns:
            The new devices.

        Raises:
            ConfigError: it does not go with what is open: an id that is taken, another host.
            KernelError, DmaError: something could not be opened, or memory not be mapped for it.
        """
        with self.lock:
            self._check_open()
            before, there, undo = self.config, len(self), UndoStack()
            self.config = self._extend(before, parts)
            try:
                with undo:
                    self._open_more_than(before, undo)
            except BaseException:
                self.config = before
                raise
            self._undo.push(undo.run)
            return tuple(self)[there:]

    def close_device(self, id_: str) -> None:
        """Take one device down; the others stay. Every step is tried, the first error raised.

        Raises:
            KeyError: there is none of this id.
        """
        with self.lock:
            live = self._live(id_)
            del self._devices[id_]
            rest = tuple(device for device in self.config.devices if device.id != id_)
            self.config = evolve(self.config, devices=rest)
            live.undo.run()

    def _live(self, id_: str) -> _Live:
        if id_ not in self._devices:
            raise KeyError(f"no device {id_!r}; there are {', '.join(self._devices) or 'none'}")
        return self._devices[id_]

    # -- memory ------------------------------------------------------------------------------
    def dma_alloc(
        self,
        size: int,
        *,
        iova: int | Literal["kernel"] | None = None,
        align: int | None = None,
        below: int | None = None,
        access: Access = Access.READ_WRITE,
        shared: bool = False,
        hugetlb: int | None = None,
        populate: bool = True,
    ) -> DmaBuffer:
        """Memory that every device of the session can reach, made so that it maps fast.

        Args:
            size: In bytes; what is mapped is rounded up to whole pages.
            iova: The address that devices use; chosen if None. "kernel" leaves the choice to
                iommufd, which then maps twice; every other container has to have the address too.
            align: The alignment of a chosen address in bytes, a power of two; at least a page, and
                a huge page for a buffer as large, unless there is no such address.
            below: All of it is below this address, for devices with few address bits.
            access: What devices may do with it.
            shared: Make it a memfd, to be shared with other processes and mapped by file.
            hugetlb: Take it from the pool of huge pages of this size in bytes.
            populate: Fill it with pages in parallel; without, the map does so.

        Raises:
            DmaError: as `Container.dma_map` fails; DmaLimitError (ENOSPC) without a free address.
            UnsupportedError: EINVAL, the machine has no huge pages of the size `hugetlb`;
                EOPNOTSUPP, no container's kernel chooses addresses.
            ValueError: `align` or `below` for an address that the kernel chooses.
            KernelError: ENOMEM and others, the memory itself is not to be had; a pool of huge
                pages that is short has a hint that says how to mend it.
        """
        with self.lock:
            self._check_open()
            if iova == "kernel" and (align is not None or below is not None):
                raise ValueError("the kernel knows no align= and no below= when it chooses")
            try:
                buffer = DmaBuffer(
                    self.host,
                    size,
                    shared=shared,
                    align=self.space.granularity,
                    hugetlb=hugetlb,
                    # What the kernel is going to refuse is not filled first.
                    populate=populate and self._can_be_locked(size),
                )
            except KernelError:
                raise
            except OSError as error:
                raise kernel_error(
                    error, "mmap", "DMA buffer", detail=f"{size:#x} bytes"
                ) from error
            try:
                mapping = self._mapping_of(buffer, iova, align, below, access)
                self.space.map([mapping])
            except BaseException:
                buffer.close()
                raise
            buffer.iova = mapping.iova
            buffer.release = lambda: self._release(buffer, mapping)
            self._buffers[buffer] = None
            return buffer

    def share_region(self, region: Region, *, iova: int | None = None) -> PeerMapping:
        """Show a mapped BAR of one device to the other devices (peer-to-peer DMA).

        Where the backend cannot do so this is a fact of the result, told once by a warning.
        """
        with self.lock:
            self._check_open()
            return share_region(self.space, region, iova=iova)

    # -- threads -----------------------------------------------------------------------------
    def run_in_loop(self, function: Callable[..., object], *args: object) -> None:
        """Run `function` on the thread of the session's event loop, soon. From any thread."""
        self.loop.call(function, *args)

    # -- the end -----------------------------------------------------------------------------
    def close(self) -> None:
        """Take everything down in exact reverse of opening. Idempotent.

        Every step is tried, even after one failed; the first error is raised.
        """
        with self.lock:
            if self._closed:
                return
            self._closed = True
            lives = list(reversed(self._devices.values()))
            self._devices.clear()
            buffers = [buffer.close for buffer in reversed(self._buffers)]
            run_all([*(live.undo.run for live in lives), *buffers, self._undo.run])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except Exception as second:  # noqa: BLE001 - the body's error is the one to raise
            error.add_note(f"while closing: {type(second).__name__}: {second}")

    # -- opening -----------------------------------------------------------------------------
    def _open_more_than(self, before: Config, undo: UndoStack) -> None:
        """Open what the configuration has and `before` has not; `undo` gets how to take it down."""
        opened = [live.plan for live in self._devices.values()]
        plans = Planner(self.host, self._plugins, self._fds, self.config, opened).plan()
        for object_config in self.config.objects[len(before.objects) :]:
            self._make_object(object_config, undo)
        self._kvm = self._kvm or self._kvm_link(plans)
        undo.push(self._close_devices_but, frozenset(self._devices))
        for plan in plans:
            self._open_device(plan)

    def _make_object(self, config: ObjectConfig, undo: UndoStack) -> None:
        if config.type in MEMORY_BACKENDS:
            ram, offset = make_ram(self.host, config)
            undo.push(ram.backing.close)
            self.memory.root.add(ram, offset)
            undo.push(self.memory.root.remove, ram)
            return
        backend = self._plugins.backend(config.type)
        assert backend.make_object is not None  # the schema has no other objects
        reference = config.properties.get("fd")
        fd = None if reference is None else self._fds.resolve(reference, config.at("fd"))
        siblings = [item for item in self.config.objects if item.type == config.type]
        request = ObjectRequest(
            host=self.host,
            config=config,
            fd=fd,
            siblings=tuple(self._objects[s.id] for s in siblings if s.id in self._objects),
        )
        made = backend.make_object(request)
        undo.push(made.close)
        self._objects[config.id] = made
        undo.push(self._objects.pop, config.id)

    def _open_device(self, plan: DevicePlan) -> None:
        config, hooks = plan.config, self._plugins.hooks(plan.backend.name)
        undo = UndoStack()
        with undo:
            if not plan.ram_discard_allowed:
                hold = self.ram_discard.pin(plan.target.name)
                undo.push(hold.close)
            request = self._request(plan)
            attachment = _given("vfio_setup_context", plan, hooks.setup_context(request))
            undo.push(self._leave, attachment, hooks)
            container = attachment.container
            if container not in self.space.containers:
                container.backend_object = request.backend_object
                container.connect(hooks.dma_map, hooks.dma_unmap, self.lock)
                self.space.add(container)
            access = _given("vfio_open_device", plan, hooks.open_device(attachment))
            undo.push(hooks.close_device, attachment, access)
            access.log = self.log
            device = plan.type.wrap(
                DeviceSetup(
                    config=config,
                    target=plan.target,
                    access=access,
                    container=container,
                    ram_discard_allowed=plan.ram_discard_allowed,
                )
            )
            undo.push(device.release)
        self._devices[device.id] = _Live(device, plan, undo)
        self.log.info("device.opened", device=device.name, id=device.id, container=container.label)

    def _request(self, plan: DevicePlan) -> ContextRequest:
        link = plan.config.properties.get(plan.backend.name) if plan.config.backend else None
        backend_object = None if link is None else self._objects[link]
        return ContextRequest(
            host=self.host,
            target=plan.target,
            backend_object=backend_object,
            options=plan.config.properties,
            log=self.log,
            containers=tuple(self._joinable(plan.backend.name, backend_object)),
            kvm=self._kvm if plan.type.needs_kvm or self._kvm_fd is not None else None,
        )

    def _joinable(self, backend: str, backend_object: BackendObject | None) -> Iterator[Container]:
        for container in self.space.containers:
            if container.backend == backend and container.backend_object is backend_object:
                yield container

    def _kvm_link(self, plans: list[DevicePlan]) -> KvmLink | None:
        """The embedder's, or one of our own where a device does not open without."""
        if self._kvm_fd is not None:
            return KvmLink(self.host, self._kvm_fd)
        if not any(plan.type.needs_kvm for plan in plans):
            return None
        link = KvmLink.create(self.host)
        self._undo.push(link.close)
        return link

    def _leave(self, attachment: Attachment, hooks: BackendHooks) -> None:
        """Take a device out of its container; with the last one everything is unmapped first."""
        container = attachment.container
        steps = []
        if container.attachments == [attachment] and container in self.space.containers:
            steps.append(lambda: self.space.remove(container))
        run_all([*steps, lambda: hooks.teardown_context(attachment)])

    def _close_devices_but(self, ids: frozenset[str]) -> None:
        """For an opening that failed half-way; `close` has emptied the list before."""
        newest = [id_ for id_ in reversed(self._devices) if id_ not in ids]
        run_all([self._devices.pop(id_).undo.run for id_ in newest])

    # -- memory ------------------------------------------------------------------------------
    def _mapping_of(
        self,
        buffer: DmaBuffer,
        iova: int | Literal["kernel"] | None,
        align: int | None,
        below: int | None,
        access: Access,
    ) -> DmaMapping:
        if iova is None:
            iova = self._iova_for(buffer, align, below)
        elif iova == "kernel":
            iova = self.space.choose_iova(buffer.length, buffer.vaddr)
        # By file, the offset has to be aligned as well as the address.
        fd = None if buffer.fd_offset else buffer.fd
        return DmaMapping(iova, buffer.length, buffer.vaddr, access, fd)

    def _iova_for(self, buffer: DmaBuffer, align: int | None, below: int | None) -> int:
        """A free IOVA: one at which the IOMMU can use pages as large as the buffer's, if any."""
        least = max(align or 0, self.space.granularity)
        best = max(least, buffer.large_page)
        try:
            return self.space.allocate(buffer.length, align=best, below=below)
        except DmaLimitError:
            if best == least:
                raise
        return self.space.allocate(buffer.length, align=least, below=below)

    def _can_be_locked(self, size: int) -> bool:
        """False if the limit of locked memory is below `size` bytes; a privilege may lift it."""
        limit = self.host.memlock_limit()
        return limit is None or size <= limit

    def _release(self, buffer: DmaBuffer, mapping: DmaMapping) -> None:
        with self.lock:
            if not self._closed:
                self.space.unmap([mapping])
            self._buffers.pop(buffer, None)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the session is closed")


def _given(hook: str, plan: DevicePlan, result: T | None) -> T:
    if result is None:
        raise BrokenPluginError(
            f"{hook} of backend {plan.backend.name!r} gave nothing: the plugin that implements it"
            f" must return its result, and a wrapper must return what it got"
        )
    return result
