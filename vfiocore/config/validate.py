"""From what was written to typed values, or to everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import Any, TypeVar

from attrs import define, evolve, field

from vfiocore.config._words import near_miss, shown, suggestion
from vfiocore.config.model import Config, Device, Item, Object
from vfiocore.config.schema import Check, Property, Schema, TypeSchema
from vfiocore.config.types import Link
from vfiocore.errors import ConfigError, Problem

KNOWN_PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "iommufd": "vfiocore-iommufd",
        "vfio-ap": "vfiocore-ap",
        "vfio-ccw": "vfiocore-ccw",
        "vfio-pci": "vfiocore-pci",
        "vfio-platform": "vfiocore-platform",
    }
)
"""The distributions of this project by the types that they provide."""

ID_RULE = "a letter, then letters, digits, -, . or _"

_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")

ItemT = TypeVar("ItemT", Object, Device)


def validate(config: Config, schema: Schema, *, problems: Iterable[Problem] = ()) -> Config:
    """Check a configuration against what is installed.

    Args:
        config: As written; a validated one comes back equal.
        schema: The types there are.
        problems: What reading the configuration found (`read_toml`, `read_options`), to be
            reported together with what is found here.

    Returns:
        The same objects and devices, each with all properties of its type: typed, the default or
        None where not given. Devices without an id are called dev0, dev1 and so on, past those
        that are taken. ``where`` and ``Device.backend`` are filled in.

    Raises:
        ConfigError: Everything that is wrong, also with `problems` alone.
    """
    validator = _Validator(schema, _located(config.objects), list(problems))
    valid_objects = validator.valid_objects()
    valid_devices = validator.valid_devices(_located(config.devices))
    if validator.problems:
        raise ConfigError(validator.problems)
    return evolve(config, objects=valid_objects, devices=_with_ids(valid_devices))


def _located(items: Sequence[ItemT]) -> tuple[ItemT, ...]:
    """Say of items made in Python where they are."""
    return tuple(
        item if item.where else evolve(item, where=f"{item.kind}[{index}]")
        for index, item in enumerate(items)
    )


def _with_ids(devices: Sequence[Device]) -> tuple[Device, ...]:
    taken = {device.id for device in devices}
    free = (name for name in map("dev{}".format, count()) if name not in taken)
    return tuple(
        device if device.id is not None else evolve(device, id=next(free)) for device in devices
    )


@define
class _Validator:
    schema: Schema
    objects: tuple[Object, ...]
    problems: list[Problem] = field(factory=list)

    def valid_objects(self) -> tuple[Object, ...]:
        ids: dict[str, str] = {}
        return tuple(self._valid_object(item, ids) for item in self.objects)

    def valid_devices(self, devices: Sequence[Device]) -> tuple[Device, ...]:
        ids: dict[str, str] = {}
        return tuple(self._valid_device(item, ids) for item in devices)

    def _valid_object(self, item: Object, ids: dict[str, str]) -> Object:
        schema = self._type_of(item, self.schema.objects)
        self._check_id(item, ids)
        if schema is None:
            return item
        return self._item(item, schema, self.schema.object_properties(item.type))

    def _valid_device(self, item: Device, ids: dict[str, str]) -> Device:
        schema = self._type_of(item, self.schema.devices)
        self._check_id(item, ids)
        if schema is None:
            return item
        properties = self.schema.device_properties(item.type)
        return self._item(self._with_backend(item, properties), schema, properties)

    def _check_id(self, item: Object | Device, ids: dict[str, str]) -> None:
        """Ids are one namespace a kind, of words as QEMU wants them (util/id.c:id_wellformed)."""
        if item.id is None:
            return
        if not item.id and isinstance(item, Object):
            self._report(item, "id", "it is required", f"expected {ID_RULE}")
        elif not _ID.fullmatch(item.id):
            self._report(item, "id", f"{shown(item.id)} is malformed", f"expected {ID_RULE}")
        elif item.id in ids:
            self._report(item, "id", f"{shown(item.id)} is the id of {ids[item.id]} already")
        else:
            ids[item.id] = item.where

    def _type_of(self, item: Item[Any], installed: Mapping[str, TypeSchema]) -> TypeSchema | None:
        if item.type in installed:
            return installed[item.type]
        if not item.type:
            hint = suggestion("", installed, "installed")
            self.problems.append(Problem(item.label, f"the {item.kind} has no type", hint))
            return None
        hint = suggestion(item.type, installed, "installed")
        if item.type in KNOWN_PROVIDERS:
            hint = f"install {KNOWN_PROVIDERS[item.type]}"
        message = f"unknown {item.kind} type {shown(item.type)}"
        self.problems.append(Problem(item.label, message, hint))
        return None

    def _with_backend(self, device: Device, properties: Mapping[str, Property]) -> Device:
        given = _given(device)
        unknown = given - properties.keys()
        meant = {near_miss(name, properties) for name in unknown}
        links = sorted(self.schema.backend_links & (given | meant))
        for extra in links[1:]:
            message = f"{links[0]}= is given too, and a device has one backend"
            self._report(device, extra, message, f"remove {'= or '.join(links)}=")
        missing = sorted(unknown & KNOWN_PROVIDERS.keys())
        return evolve(device, backend=next(iter(links + missing), None))

    def _item(self, item: ItemT, schema: TypeSchema, properties: Mapping[str, Property]) -> ItemT:
        before = len(self.problems)
        values = self._values(item, properties)
        readable = len(self.problems) == before
        for prop in properties.values():
            if prop.required and values[prop.name] is None:
                self._report(item, prop.name, "it is required", f"expected {prop.type.describe()}")
            if isinstance(prop.type, Link) and isinstance(values[prop.name], str):
                self._check_link(item, prop.name, prop.type.object_type, values[prop.name])
        typed = evolve(item, properties=values)
        if schema.check is not None and (readable or _presence_only(schema.check)):
            self.problems.extend(schema.check(typed))
        return typed

    def _values(self, item: Object | Device, properties: Mapping[str, Property]) -> dict[str, Any]:
        """Every property's value, or its default.

        A value that cannot be read stays as written, and one under a near miss of a name goes to
        that name: a property that is given badly must not be reported as missing as well.
        """
        values = {prop.name: prop.default for prop in properties.values()}
        given = _given(item)
        for name in item.properties:
            if name not in given:
                continue
            value = item.properties[name]
            if name in properties:
                values[name] = self._value(item, properties[name], value)
                continue
            self._report(item, name, "unknown key", _unknown_hint(name, properties))
            # A backend that is not installed is no misspelling of another property.
            meant = None if name in KNOWN_PROVIDERS else near_miss(name, properties)
            if meant is not None and meant not in given:
                values[meant] = value
        return values

    def _value(self, item: Object | Device, prop: Property, value: object) -> Any:
        try:
            return prop.type.parse(value)
        except ValueError as error:
            self._report(item, prop.name, str(error), f"expected {prop.type.describe()}")
            return value

    def _check_link(self, item: Object | Device, name: str, wanted: str, id_: str) -> None:
        types = [target.type for target in self.objects if target.id == id_]
        if wanted in types:
            return
        message = f"there is no object {shown(id_)}"
        if types:
            message = f"{shown(id_)} is an object of type {types[0]}, not {wanted}"
        fitting = [target.id for target in self.objects if target.type == wanted and target.id]
        self._report(item, name, message, suggestion(id_, fitting, f"objects of type {wanted}"))

    def _report(
        self, item: Object | Device, name: str, message: str, hint: str | None = None
    ) -> None:
        self.problems.append(Problem(item.at(name), message, hint))


def _given(item: Item[Any]) -> set[str]:
    """The properties that are set; None stands for unset."""
    return {name for name, value in item.properties.items() if value is not None}


def _presence_only(check: Check) -> bool:
    return bool(getattr(check, "presence_only", False))


def _unknown_hint(name: str, properties: Mapping[str, Property]) -> str:
    if name in KNOWN_PROVIDERS:
        return f"install {KNOWN_PROVIDERS[name]}"
    return suggestion(name, properties, "known")
