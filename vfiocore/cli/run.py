"""``vfiocore run``: a configuration wired into live devices, held until it is interrupted."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from vfiocore.cli.options import Request, configured
from vfiocore.cli.output import Output
from vfiocore.device import Device
from vfiocore.errors import ConfigError, Problem
from vfiocore.irq import Vector
from vfiocore.session import Session


@click.command("run")
@click.option("--once", is_flag=True, help="Report and take everything down again.")
@configured
def command(request: Request, once: bool) -> None:
    """Open a configuration, report what was opened, and hold it until interrupted.

    A device that the host wants back (its driver is being unbound) is taken down at once; when
    the last one has gone, the command ends.
    """
    if not request.config.devices:
        hint = "name one with -device, or in a file with -c"
        raise ConfigError([Problem("run", "there is no device to run", hint)])
    with request.open() as session:
        report(session, request.output)
        if not once:
            hold(session, request.output)


def hold(session: Session, output: Output) -> None:
    """Keep the devices until interrupted; give back those that the host asks for."""
    for device in session:
        irq = device.request_irq()
        if irq is not None:
            (vector,) = irq.enable()
            session.loop.add(vector.fileno(), partial(_give_back, session, output, device, vector))
    output.text("held; interrupt to take everything down")
    session.loop.run()


def _give_back(session: Session, output: Output, device: Device, vector: Vector) -> None:
    session.loop.remove(vector.fileno())
    session.close_device(device.id)
    output.note(f"{device.id} ({device.name}): the host wants it back, so it was taken down")
    if not session.devices:
        output.note("no device is left")
        session.loop.stop()


def report(session: Session, output: Output) -> None:
    """Say what a session holds."""
    output.document(
        "session",
        host=session.host.name,
        devices=[describe(device) for device in session],
        containers=[
            {
                "label": container.label,
                "backend": container.backend,
                "page_sizes": hex(container.page_sizes),
                "iova_ranges": [[hex(r.start), hex(r.last)] for r in container.iova_ranges],
                "mappings": len(container.mappings),
                "mapped_bytes": container.mappings.bytes,
            }
            for container in session.space.containers
        ],
    )
    output.table(
        ("id", "type", "device", "container", "regions", "irqs", "migration"),
        [
            (
                device.id,
                device.config.type,
                device.name,
                device.container.label,
                str(device.info.num_regions),
                str(device.info.num_irqs),
                "on" if device.migration.enabled else f"off: {device.migration.reason}",
            )
            for device in session
        ],
    )


def describe(device: Device) -> dict[str, Any]:
    """A live device as a JSON member."""
    return {
        "id": device.id,
        "type": device.config.type,
        "name": device.name,
        "backend": device.container.backend,
        "container": device.container.label,
        "flags": hex(device.info.flags),
        "regions": device.info.num_regions,
        "irqs": device.info.num_irqs,
        "migration": {
            "enabled": device.migration.enabled,
            "supported": device.migration.supported,
            "dirty_tracking": device.migration.dirty_tracking,
            "reason": device.migration.reason,
        },
        "reaches_peers": device.reaches_peers,
        "ram_discard_allowed": device.ram_discard_allowed,
    }
