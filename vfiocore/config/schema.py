"""What may be configured: the types that are installed, and their properties.

A plugin declares its properties once; validation, ``vfiocore show`` and the documentation read
them from here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self, TypeAlias

from attrs import field, frozen

from vfiocore.config.model import Device, Object
from vfiocore.config.types import Link, PropertyType
from vfiocore.errors import Problem

RESERVED = frozenset({"id", *Object.type_keys, *Device.type_keys})
"""Names that no property can have: they say which type and which id an item has."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")

Check: TypeAlias = Callable[[Any], Iterable[Problem]]
"""Rules across the properties of one item, given typed and complete (see `TypeSchema.check`)."""


@frozen
class Property:
    """One property of a type.

    Attributes:
        name: In lower case, with hyphens.
        type: How its value is read.
        help: One sentence for the user.
        default: The value where none is given, typed; None leaves the property None.
        required: Whether it has to be given.

    Raises:
        ValueError: The name or the default cannot be.
    """

    name: str
    type: PropertyType
    help: str
    default: Any = None
    required: bool = False

    def __attrs_post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in RESERVED:
            raise ValueError(f"a property cannot be named {self.name!r}")
        if self.default is not None:
            object.__setattr__(self, "default", self.type.parse(self.default))


def _properties(properties: Iterable[Property]) -> tuple[Property, ...]:
    return tuple(properties)


@frozen
class TypeSchema:
    """A type of object or device that a plugin provides.

    Attributes:
        name: ``vfio-pci``.
        help: One sentence for the user.
        properties: In the order of the documentation.
        provider: The distribution that it comes from.
        check: Rules across properties: given the item with every property present and typed (None
            where unset), yields problems, their paths from ``item.at(name)``. It does not run for
            an item that has a value that could not be read, unless it has a true attribute
            ``presence_only``: it then promises to look only at which properties are not None.

    Raises:
        ValueError: Two properties have one name.
    """

    name: str
    help: str
    properties: tuple[Property, ...] = field(default=(), converter=_properties)
    provider: str = "vfiocore"
    check: Check | None = None

    @properties.validator
    def _check_names(self, _attribute: object, properties: tuple[Property, ...]) -> None:
        names = [prop.name for prop in properties]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{self.name} declares the property {name!r} twice")


def _frozen_mapping(types: Mapping[str, TypeSchema]) -> Mapping[str, TypeSchema]:
    return MappingProxyType(dict(types))


def _frozen_names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


@frozen
class Schema:
    """Everything that may be configured.

    Attributes:
        objects: The object types by name.
        devices: The device types by name.
        backend_links: The object types that are backends. Each device type has a property of that
            name that links to an object of that type, and a device uses one of them at most.

    Raises:
        ValueError: A device type declares a property with the name of a backend.
    """

    objects: Mapping[str, TypeSchema] = field(factory=dict, converter=_frozen_mapping)
    devices: Mapping[str, TypeSchema] = field(factory=dict, converter=_frozen_mapping)
    backend_links: frozenset[str] = field(default=frozenset(), converter=_frozen_names)

    def __attrs_post_init__(self) -> None:
        for device in self.devices.values():
            for prop in device.properties:
                if prop.name in self.backend_links:
                    raise ValueError(
                        f"{device.name} ({device.provider}) declares {prop.name!r}, which is the"
                        " link to a backend and comes by itself"
                    )

    @classmethod
    def of(
        cls,
        *,
        objects: Iterable[TypeSchema] = (),
        devices: Iterable[TypeSchema] = (),
        backend_links: Iterable[str] = (),
    ) -> Self:
        """Make a schema from types, which know their names."""
        return cls(
            {schema.name: schema for schema in objects},
            {schema.name: schema for schema in devices},
            frozenset(backend_links),
        )

    def object_properties(self, type_name: str) -> dict[str, Property]:
        """The properties of an object type by name."""
        return {prop.name: prop for prop in self.objects[type_name].properties}

    def device_properties(self, type_name: str) -> dict[str, Property]:
        """The properties of a device type by name, with the links to the backends."""
        own = {prop.name: prop for prop in self.devices[type_name].properties}
        return own | {name: _backend_link(name) for name in sorted(self.backend_links)}


def _backend_link(name: str) -> Property:
    return Property(name, Link(name), f"The {name} object to use; without one, the legacy backend.")
