"""The records that plugins register: backends, device types, hosts and commands.

A record is found by its name in the configuration, never by priority or load order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, field, frozen

from vfiocore.config.schema import Property, TypeSchema
from vfiocore.log import Log

if TYPE_CHECKING:
    import click

    from vfiocore.access import DeviceAccess
    from vfiocore.config.model import Device as DeviceConfig
    from vfiocore.config.model import Object as ObjectConfig
    from vfiocore.container import Container, DeviceTarget
    from vfiocore.device import Device
    from vfiocore.host import Host
    from vfiocore.kvm import KvmLink


@define(eq=False, kw_only=True)
class BackendObject:
    """A live ``-object`` of a backend, for as long as the session lives. Backends subclass it.

    Attributes:
        id: The id that devices link to.
        host: The host that it lives on.
    """

    id: str
    host: Host = field(repr=False)

    def close(self) -> None:
        """Release what it holds; called once, after every device that used it is gone."""


@frozen(kw_only=True)
class ObjectRequest:
    """What a backend gets to make its object from.

    Attributes:
        host: The host of the session.
        config: The object as configured; its properties are typed and complete.
        fd: The fd for its ``fd=`` property, resolved from number or name; never closed by us.
        siblings: The backend's objects that the session has already, oldest first.
    """

    host: Host
    config: ObjectConfig
    fd: int | None = None
    siblings: tuple[BackendObject, ...] = ()


@frozen(kw_only=True)
class ContextRequest:
    """What a backend gets to set up the secure context of one device.

    Attributes:
        host: The host of the session.
        target: The device.
        backend_object: The object that the device links to (``iommufd=``), or None.
        options: The device's properties, by name, typed and complete.
        containers: The containers of this backend that the address space has already, oldest
            first; the device should join one of them if it can, so that memory is pinned once.
        kvm: Where group or device fds have to be made known, or None.
        log: Where events go.
    """

    host: Host
    target: DeviceTarget
    backend_object: BackendObject | None
    options: Mapping[str, Any]
    containers: tuple[Container, ...] = ()
    kvm: KvmLink | None = None
    log: Log = Factory(Log)


@frozen(kw_only=True)
class Backend:
    """A way to the kernel, named in configuration.

    A device selects the backend ``name`` with a property of that name that links to an object of
    that type (``iommufd=iommufd0``). The backend named ``legacy`` is the one for devices
    without such a link.

    Attributes:
        name: The name; also of its object type and of the linking property.
        help: One line for ``vfiocore show`` and the documentation.
        object_properties: What ``-object NAME,…`` takes besides its id.
        make_object: Makes the live object; None for a backend that has no objects.
        device_properties: What the backend adds to every device that uses it.
        accepts_device_fd: True if ``fd=`` may pass it an opened device.
        find_target: Names the device that properties select (given all of them, typed), or gives
            None for one that ``host=``, ``sysfsdev=`` or ``fd=`` select. For backends whose
            devices sysfs does not know; None for all others.
        nodes: What the host must have for it, to be missed in clear words: ``/dev/iommu``.
        advice: What to do where they are missing.
    """

    name: str
    help: str
    object_properties: tuple[Property, ...] = ()
    make_object: Callable[[ObjectRequest], BackendObject] | None = None
    device_properties: tuple[Property, ...] = ()
    accepts_device_fd: bool = False
    find_target: Callable[[Mapping[str, Any]], DeviceTarget | None] | None = None
    nodes: tuple[str, ...] = ()
    advice: str = ""


@frozen(kw_only=True)
class DeviceSetup:
    """What a frontend gets to wrap an open device.

    Attributes:
        config: The device as configured; its properties are typed and complete.
        target: What is known of it: name, sysfs facts.
        access: The open device.
        container: Where its DMA goes.
        ram_discard_allowed: True if memory may be taken from under the device.
    """

    config: DeviceConfig
    target: DeviceTarget
    access: DeviceAccess
    container: Container
    ram_discard_allowed: bool = False


@frozen(kw_only=True)
class DeviceType:
    """A kind of device: ``vfio-pci``.

    Attributes:
        schema: Name, help and properties, and the rules between them.
        bus: The bus on which ``host=`` is looked up.
        wrap: Makes the frontend from the open device.
        device_api: What ``mdev_type/device_api`` in sysfs says of its mediated devices; one that
            says something else is refused before anything is opened. None looks at nothing.
        always_mdev: The devices are always mediated, so RAM discard is always allowed.
        needs_kvm: The kernel driver refuses to open the device before a KVM is linked to it.
    """

    schema: TypeSchema
    bus: str
    wrap: Callable[[DeviceSetup], Device]
    device_api: str | None = None
    always_mdev: bool = False
    needs_kvm: bool = False

    @property
    def name(self) -> str:
        """What ``-device`` calls it."""
        return self.schema.name


@frozen(kw_only=True)
class HostType:
    """A kind of host: ``sim``.

    Attributes:
        name: What ``--host`` calls it.
        help: One line.
        create: Makes the host; takes what followed ``NAME:``, or None.
    """

    name: str
    help: str
    create: Callable[[str | None], Host]


@frozen(kw_only=True)
class Command:
    """A subcommand of ``vfiocore``.

    Attributes:
        name: The word on the command line.
        help: One line for ``vfiocore --help``; the command itself is not loaded for it.
        load: Imports and returns the click command.
    """

    name: str
    help: str
    load: Callable[[], click.Command]
