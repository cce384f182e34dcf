"""The plugin contract.

A plugin is a module with functions marked `hookimpl`, found through an entry point of the group
``vfiocore``::

    [project.entry-points.vfiocore]
    acme = "vfiocore_acme.plugin"

Registration hooks run once, when a `Framework` loads its plugins. The others run for the backend
that the configuration selects **by name**: a backend's own implementations come from the module
that registered it, and every wrapper (``@hookimpl(wrapper=True)``) that any plugin puts around a
hook runs too, outermost last registered. Callers are resolved once per framework. Apart from
registration, hooks run under the session's lock, on whichever thread made the call.

An implementation may leave out parameters that it does not need. A wrapper returns what its ``yield``
gave it. It refuses *before* its ``yield``. What the backend has made in `vfio_setup_context` or
`vfio_open_device` when a wrapper raises after it, is taken back by the backend's own hook, without
the wrappers; what it has mapped or unmapped by then stays so, and nobody knows. Registration hooks
cannot be wrapped, and in a plugin that registers no backend the others have to be wrappers: they
would never run otherwise, so the plugin is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from vfiocore.access import DeviceAccess
    from vfiocore.container import Attachment, Batch, Container
    from vfiocore.registration import Backend, Command, ContextRequest, DeviceType, HostType

PROJECT = "vfiocore"
ENTRY_POINT_GROUP = "vfiocore"
API_VERSION = 1
"""The version of this contract. A plugin module may say which one it was written for with
``VFIOCORE_API = 1``; another number is refused when the plugin is loaded."""

hookspec: pluggy.HookspecMarker = pluggy.HookspecMarker(PROJECT)
hookimpl: pluggy.HookimplMarker = pluggy.HookimplMarker(PROJECT)


# -- registration ----------------------------------------------------------------------------------
@hookspec
def vfio_register_backends() -> Iterable[Backend]:
    """Name the backends that this module implements.

    Runs: once per framework, when plugins are loaded.

    Thread: the one that makes the framework.

    Returns:
        Records; the hooks below are taken from the same module for each of them.

    Raises:
        BrokenPluginError: what a plugin gets for whatever its implementation raises.

    Example::

        @hookimpl
        def vfio_register_backends():
            yield Backend(name="acme", help="the Acme isolation unit")

    Since contract version 1.
    """
    return ()


@hookspec
def vfio_register_device_types() -> Iterable[DeviceType]:
    """Name the device types that this module can wrap.

    Runs: once per framework, when plugins are loaded.

    Thread: the one that makes the framework.

    Returns:
        Records; a configuration names a device type by its schema's name.

    Raises:
        BrokenPluginError: what a plugin gets for whatever its implementation raises.

    Example::

        @hookimpl
        def vfio_register_device_types():
            yield DeviceType(schema=SCHEMA, bus="pci", wrap=AcmeDevice)

    Since contract version 1.
    """
    return ()


@hookspec
def vfio_register_hosts() -> Iterable[HostType]:
    """Name the hosts that this module can make.

    Runs: once per framework, when plugins are loaded.

    Thread: the one that makes the framework.

    Returns:
        Records; ``--host`` and ``host=`` name a host by its record's name.

    Raises:
        BrokenPluginError: what a plugin gets for whatever its implementation raises.

    Example::

        @hookimpl
        def vfio_register_hosts():
            yield HostType(name="sim", help="a simulated host", create=make_host)

    Since contract version 1.
    """
    return ()


@hookspec
def vfio_register_commands() -> Iterable[Command]:
    """Add subcommands to ``vfiocore``.

    Runs: once per framework, when plugins are loaded.

    Thread: the one that makes the framework.

    Returns:
        Records; the commands themselves are loaded when they are run.

    Raises:
        BrokenPluginError: what a plugin gets for whatever its implementation raises.

    Example::

        @hookimpl
        def vfio_register_commands():
            yield Command(name="acme", help="Acme tools", load=load_command)

    Since contract version 1.
    """
    return ()


# -- secure context --------------------------------------------------------------------------------
@hookspec(firstresult=True)
def vfio_setup_context(request: ContextRequest) -> Attachment | None:
    """Put a device under the protection of an IOMMU address space, ready for DMA maps.

    Runs: for each device of a session, in the order of the configuration, before anything is
    mapped for it. Legacy: group, SET_CONTAINER, SET_IOMMU. iommufd: cdev, BIND, ATTACH.

    Thread: any, under the session's lock.

    Args:
        request: The device, the object it links to, and the containers that it may join.

    Returns:
        The device's membership of a container, which is one of ``request.containers`` or a new
        one. Joining must leave the mappings of that container valid, and its ``iova_ranges``
        must be current when this returns.

    Raises:
        KernelError: as the ioctls fail. Whatever was done before is undone by then.

    Example::

        @hookimpl
        def vfio_setup_context(request):
            container = next(iter(request.containers), None) or AcmeContainer(host=request.host)
            attachment = Attachment(container=container, target=request.target)
            container.attachments.append(attachment)
            return attachment

    Since contract version 1.
    """


@hookspec(firstresult=True)
def vfio_teardown_context(attachment: Attachment) -> None:
    """Undo `vfio_setup_context`; the last one out takes the container down.

    Runs: after `vfio_close_device`, or without it if opening failed. If the container has no
    other attachment, everything has been unmapped before.

    Thread: any, under the session's lock.

    Args:
        attachment: What `vfio_setup_context` returned.

    Returns:
        Nothing.

    Raises:
        KernelError: the first that failed.

    Guarantees to be kept: every step is tried even when one fails, and the first error is raised;
    afterwards the attachment is gone from ``container.attachments`` and a container without any
    is closed.

    Example::

        @hookimpl
        def vfio_teardown_context(attachment):
            attachment.container.attachments.remove(attachment)

    Since contract version 1.
    """


# -- device ----------------------------------------------------------------------------------------
@hookspec(firstresult=True)
def vfio_open_device(attachment: Attachment) -> DeviceAccess | None:
    """Open the device whose secure context is set up and whose memory is mapped.

    Runs: once per attachment. Legacy: GET_DEVICE_FD from the group. iommufd: the bound cdev.

    Thread: any, under the session's lock.

    Args:
        attachment: What `vfio_setup_context` returned.

    Returns:
        The open device.

    Raises:
        KernelError: as the ioctls fail.

    Example::

        @hookimpl
        def vfio_open_device(attachment):
            container = attachment.container
            fd = container.host.open("/dev/acme0")
            return DeviceAccess(host=container.host, fd=fd, name=attachment.target.name)

    Since contract version 1.
    """


@hookspec(firstresult=True)
def vfio_close_device(attachment: Attachment, device: DeviceAccess) -> None:
    """Undo `vfio_open_device`.

    Runs: after the frontend turned interrupts off and unmapped its regions. Legacy: close the
    device fd. iommufd: DETACH, close the cdev.

    Thread: any, under the session's lock.

    Args:
        attachment: What `vfio_setup_context` returned.
        device: What `vfio_open_device` returned.

    Returns:
        Nothing.

    Raises:
        KernelError: the first that failed; every step is tried.

    Example::

        @hookimpl
        def vfio_close_device(device):
            device.close()

    Since contract version 1.
    """


# -- DMA -------------------------------------------------------------------------------------------
@hookspec(firstresult=True)
def vfio_dma_map(container: Container, batch: Batch) -> None:
    """Map a batch of memory ranges into a container.

    Runs: after the container's own checks (alignment, ranges, overlap, entry limit); one call a
    batch. This is the hot path: log nothing, allocate little.

    Thread: any, under the session's lock.

    Args:
        container: One of this backend's.
        batch: What to map; addresses and sizes in bytes.

    Returns:
        Nothing; all of the batch is mapped by then.

    Raises:
        DmaError: with ``index`` set to the item that failed, after undoing those before it
            (`vfiocore.container.for_each` does both).

    Example::

        @hookimpl
        def vfio_dma_map(container, batch):
            for_each(batch, container.map_one, container.unmap_one)

    Since contract version 1.
    """


@hookspec(firstresult=True)
def vfio_dma_unmap(container: Container, batch: Batch) -> None:
    """Unmap a batch of mappings, each exactly as it was mapped.

    Runs: after the container's own checks; one call a batch.

    Thread: any, under the session's lock.

    Args:
        container: One of this backend's.
        batch: Mappings that exist; addresses and sizes in bytes.

    Returns:
        Nothing; all of the batch is unmapped by then.

    Raises:
        DmaError: with ``index`` set, after mapping again those that were unmapped before it.

    Example::

        @hookimpl
        def vfio_dma_unmap(container, batch):
            for_each(batch, container.unmap_one, container.map_one)

    Since contract version 1.
    """
