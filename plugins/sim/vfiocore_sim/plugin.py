"""What the plugin gives to vfiocore: the host named ``sim``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vfiocore.hookspecs import hookimpl
from vfiocore.registration import HostType

if TYPE_CHECKING:
    from vfiocore.host import Host

VFIOCORE_API = 1


@hookimpl
def vfio_register_hosts() -> Iterable[HostType]:
    """``--host sim`` and ``--host sim:TOPOLOGY.toml``."""
    yield HostType(
        name="sim",
        help="a simulated machine; sim:FILE reads its devices from a TOML file",
        create=_create,
    )


def _create(path: str | None) -> Host:
    from vfiocore_sim.host import SimHost  # noqa: PLC0415
    from vfiocore_sim.topology import Topology, TopologyError  # noqa: PLC0415

    if path is None:
        return SimHost()
    with open(path, encoding="utf-8") as file:
        topology = Topology.from_toml(file.read())
    try:
        return SimHost(topology, **topology.host_options)
    except TypeError as error:  # an option that SimHost does not know
        raise TopologyError(f"host: {error}") from error
