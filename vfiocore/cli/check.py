"""``vfiocore check``: validate a configuration without touching a device."""

from __future__ import annotations

from collections.abc import Sized

import click

from vfiocore.cli.options import Request, configured
from vfiocore.config.options import to_options


@click.command("check")
@configured
def command(request: Request) -> None:
    """Validate a configuration; every problem at once, each with its path.

    Where a host is named, its devices are looked for there.
    """
    config = request.config
    request.find(config)
    items = [("object", item) for item in config.objects]
    lines = [f"-{kind} {to_options(item)}" for kind, item in items]
    lines += [f"-device {to_options(item)}" for item in config.devices]
    request.output.document("check", ok=True, items=lines)
    for line in lines:
        request.output.text(line)
    objects, devices = _count(config.objects, "object"), _count(config.devices, "device")
    request.output.text(f"ok: {objects}, {devices}")


def _count(items: Sized, noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
