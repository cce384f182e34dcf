"""What a configuration is: objects, devices, a host and a plugin filter, all immutable.

Option strings, TOML and Python make the same records; `vfiocore.config.validate` turns what was
written into typed values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from attrs import field, frozen
from attrs.validators import instance_of

IdT = TypeVar("IdT", bound="str | None")


class Properties(Mapping[str, Any]):
    """An immutable mapping from property names to values, in the order they were written.

    Equal to any mapping with the same items; hashable as far as its values are.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any] = {}) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


def _check_id(_item: object, _attribute: object, id_: Any) -> None:
    if id_ is not None and not isinstance(id_, str):
        raise TypeError(f"an id is a string, not {type(id_).__name__}")


@frozen
class Item(Generic[IdT]):
    """What an object and a device have in common.

    Attributes:
        type: ``iommufd``, ``vfio-pci``.
        id: What others call it.
        properties: As written, or typed and complete after validation.
        where: Where it was written (``config.toml: device[0]``, ``-device #1``), for messages;
            empty if it was made in Python. Two items that differ only in this are equal.
    """

    kind: ClassVar[str] = "item"
    type_keys: ClassVar[tuple[str, ...]] = ("type",)

    type: str = field(validator=instance_of(str))
    id: IdT = field(validator=_check_id)
    properties: Mapping[str, Any] = field(factory=Properties, converter=Properties)
    where: str = field(default="", eq=False)

    @property
    def label(self) -> str:
        """The item in messages: ``device[0] "nic0" (vfio-pci)``."""
        parts = [self.where or self.kind]
        if self.id:
            parts.append(f'"{self.id}"')
        if self.type:
            parts.append(f"({self.type})")
        return " ".join(parts)

    def at(self, name: str) -> str:
        """The path of a property in messages: ``device[0] "nic0" (vfio-pci).host``."""
        return f"{self.label}.{name}"


@frozen
class Object(Item[str]):
    """Something that devices link to by id, such as an iommufd.

    The id is empty where none was written, which validation reports.
    """

    kind: ClassVar[str] = "object"
    type_keys: ClassVar[tuple[str, ...]] = ("qom-type", "type")

    @classmethod
    def of(cls, type_name: str, /, *, id: str, **properties: Any) -> Self:  # noqa: A002
        """Make an object in Python: ``Object.of("iommufd", id="iommufd0", fd=22)``.

        An underscore in a keyword is a hyphen in the property's name.
        """
        return cls(type_name, id, _hyphenated(properties))


@frozen
class Device(Item["str | None"]):
    """A device to open.

    Attributes:
        backend: After validation, the type of the backend object that the device links to
            (``iommufd``); None for a device without a link, which gets the legacy backend.
    """

    kind: ClassVar[str] = "device"
    type_keys: ClassVar[tuple[str, ...]] = ("driver", "type")

    backend: str | None = field(default=None, eq=False)

    @classmethod
    def of(
        cls,
        type_name: str,
        /,
        *,
        id: str | None = None,  # noqa: A002
        **properties: Any,
    ) -> Self:
        """Make a device in Python: ``Device.of("vfio-pci", host="0000:02:00.0", x_no_mmap=True)``.

        An underscore in a keyword is a hyphen in the property's name.
        """
        return cls(type_name, id, _hyphenated(properties))


@frozen
class PluginFilter:
    """Which plugins may be imported.

    Attributes:
        allow: Only these, if not None.
        block: Never these.
    """

    allow: tuple[str, ...] | None = None
    block: tuple[str, ...] = ()


@frozen
class Config:
    """A whole configuration.

    Attributes:
        objects: In the order in which they are made.
        devices: In the order in which they are opened.
        host: The host by name (``linux``, ``sim``, ``sim:FILE``), or None for the default.
        plugins: Which plugins may be imported.
    """

    objects: tuple[Object, ...] = ()
    devices: tuple[Device, ...] = ()
    host: str | None = None
    plugins: PluginFilter = PluginFilter()

    @classmethod
    def of(
        cls, *items: Object | Device, host: str | None = None, plugins: PluginFilter | None = None
    ) -> Self:
        """Make a configuration from objects and devices, each kind in the order given.

        Raises:
            TypeError: An item is neither.
        """
        for item in items:
            if not isinstance(item, Object | Device):
                raise TypeError(f"an Object or a Device is expected, not {type(item).__name__}")
        return cls(
            tuple(item for item in items if isinstance(item, Object)),
            tuple(item for item in items if isinstance(item, Device)),
            host,
            plugins or PluginFilter(),
        )

    def merge(self, other: Config) -> Config:
        """This configuration with another added, as a command line is added to a file.

        Objects, devices and blocked plugins are concatenated; the host and the allowed plugins are
        the other's if it names any.
        """
        allow = self.plugins.allow if other.plugins.allow is None else other.plugins.allow
        return Config(
            self.objects + other.objects,
            self.devices + other.devices,
            self.host if other.host is None else other.host,
            PluginFilter(allow, self.plugins.block + other.plugins.block),
        )


def _hyphenated(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in properties.items()}
