"""``vfiocore show``: a device as the host describes it, or a type and its properties."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

import attrs
import click

from vfiocore.cli.options import Request, on_host
from vfiocore.cli.readiness import device_document, ready
from vfiocore.config.schema import Property, Schema
from vfiocore.errors import DeviceNotFoundError
from vfiocore.host import Host
from vfiocore.sysfs import BUSES, HostDevice, device_path, group_devices, read_device


@click.command("show")
@click.argument("name")
@on_host
def command(request: Request, name: str) -> None:
    """Show NAME: a device (0000:02:00.0, a UUID, a sysfs path) or a type (vfio-pci, iommufd)."""
    schema = request.framework.schema
    if name in schema.devices or name in schema.objects:
        _show_type(request, schema, name)
        return
    host = request.framework.make_host()
    device = _find(host, schema, name)
    siblings = [] if device.group is None else group_devices(host, device.group)
    request.output.document(
        "device",
        host=host.name,
        device=device_document(host, device),
        group=[device_document(host, sibling) for sibling in siblings],
    )
    facts = attrs.asdict(device) | {"ready": ready(host, device)}
    for field, value in facts.items():
        request.output.text(f"{field:<8}{'-' if value is None else value}")
    for sibling in siblings:
        driver = sibling.driver or "no driver"
        request.output.text(f"{'':<8}in group {device.group}: {sibling.name} ({driver})")


def _find(host: Host, schema: Schema, name: str) -> HostDevice:
    paths = [name] if name.startswith("/") else [device_path(bus, name) for bus in BUSES]
    for path in paths:
        if host.exists(path):
            return read_device(host, path)
    types = ", ".join(sorted([*schema.devices, *schema.objects]))
    raise DeviceNotFoundError(
        errno.ENOENT,
        "show",
        name,
        f"host {host.name} has no such device, and no type is called so",
        f"`vfiocore devices` lists devices; types are {types}",
    )


def _show_type(request: Request, schema: Schema, name: str) -> None:
    kind = "device" if name in schema.devices else "object"
    found = schema.devices.get(name) or schema.objects[name]
    by_name = schema.device_properties(name) if kind == "device" else schema.object_properties(name)
    rows = list(_rows(by_name.values()))
    request.output.document(
        "type",
        name=name,
        of=kind,
        help=found.help,
        properties=[
            dict(zip(("name", "type", "default", "help"), row, strict=True)) for row in rows
        ],
    )
    request.output.text(f"-{kind} {name}: {found.help}")
    request.output.table(("property", "type", "default", "help"), rows)


def _rows(properties: Iterable[Property]) -> Iterator[tuple[str, str, str, str]]:
    for prop in properties:
        default = "required" if prop.required else "" if prop.default is None else str(prop.default)
        yield prop.name, prop.type.name, default, prop.help
