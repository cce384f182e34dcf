"""``vfiocore devices``: the devices of a host, and which of them can be used right away."""

from __future__ import annotations

import click

from vfiocore.cli.options import Request, on_host
from vfiocore.cli.readiness import device_document, ready
from vfiocore.sysfs import BUSES, list_devices


@click.command("devices")
@click.option("--bus", type=click.Choice(BUSES), multiple=True, help="Only these buses.")
@on_host
def command(request: Request, bus: tuple[str, ...]) -> None:
    """List the devices of a host, and what each still needs before it can be used."""
    host = request.framework.make_host()
    found = [device for name in bus or BUSES for device in list_devices(host, name)]
    request.output.document(
        "device-list", host=host.name, items=[device_document(host, device) for device in found]
    )
    request.output.table(
        ("device", "bus", "driver", "group", "cdev", "ready"),
        [
            (
                device.name,
                device.bus,
                device.driver or "-",
                "-" if device.group is None else str(device.group),
                device.cdev or "-",
                ready(host, device),
            )
            for device in found
        ],
    )
