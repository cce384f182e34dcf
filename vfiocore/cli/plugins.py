"""``vfiocore plugins``: what is installed, what it provides, and why something is not used."""

from __future__ import annotations

import warnings

import attrs
import click

from vfiocore.cli.options import Request, on_host
from vfiocore.log import VfioWarning


@click.command("plugins")
@on_host
def command(request: Request) -> None:
    """List plugins: loaded, blocked and broken ones."""
    with warnings.catch_warnings():
        # A broken plugin is a row of the table here, not a warning on top of it.
        warnings.simplefilter("ignore", VfioWarning)
        infos = request.framework.plugins.infos
    request.output.document("plugin-list", items=[attrs.asdict(info) for info in infos])
    request.output.table(
        ("plugin", "distribution", "state", "provides"),
        [
            (info.name, info.distribution, info.state, ", ".join(info.provides) or info.reason)
            for info in infos
        ],
    )
