"""The front door: plugins, a host and configurations, without any global state."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from attrs import evolve

from vfiocore.config.model import Config, PluginFilter
from vfiocore.config.model import Device as DeviceConfig
from vfiocore.config.model import Object as ObjectConfig
from vfiocore.config.options import read_command_line
from vfiocore.config.schema import Property, Schema, TypeSchema
from vfiocore.config.toml import read_file
from vfiocore.config.validate import validate
from vfiocore.errors import BrokenPluginError, ConfigError, PluginError, Problem, VfioError
from vfiocore.fds import FdTable
from vfiocore.host import LinuxHost
from vfiocore.log import Log
from vfiocore.memory.backends import MEMORY_BACKENDS
from vfiocore.memory.discard import RamDiscardPolicy
from vfiocore.plan import LEGACY
from vfiocore.plugins import PluginSet
from vfiocore.session import Session

if TYPE_CHECKING:
    from vfiocore.host import Host
    from vfiocore.log import Logger
    from vfiocore.registration import Backend

LINUX = "linux"
"""The host that is always there."""


class Framework:
    """Opens configurations with one set of plugins on one host.

    Two frameworks in one process share nothing.

    Example::

        with Framework(host="sim").open("-device vfio-pci,id=edu,host=0000:02:00.0") as session:
            print(session["edu"].config_space.vendor_id)
    """

    def __init__(
        self,
        plugins: Sequence[object] = (),
        *,
        autoload: bool = True,
        only: PluginFilter | None = None,
        host: Host | str | None = None,
        fds: FdTable | None = None,
        kvm_fd: int | None = None,
        logger: Logger | None = None,
        ram_discard: RamDiscardPolicy | None = None,
    ) -> None:
        """Load plugins.

        Args:
            plugins: Plugin modules (or objects) to use besides what is installed.
            autoload: Whether to use installed plugins, found through entry points.
            only: Which of the installed ones may be imported.
            host: A host, or the name of one (``linux``, ``sim``, ``sim:FILE``); a configuration
                may name another.
            fds: Names for fds that were passed to the process.
            kvm_fd: The KVM-VFIO device of an embedder's virtual machine.
            logger: Where events go: a logger of structlog, or what has its ``info`` and
                ``warning``. If None, what structlog is configured to; if it is not, events are
                dropped, and warnings are Python's.
            ram_discard: The policy of the guest that all of its sessions are for; if None, one
                of its own.
        """
        self.log: Log = Log(logger)
        self.plugins: PluginSet = PluginSet(plugins, autoload=autoload, only=only, log=self.log)
        self.fds: FdTable = fds or FdTable()
        self._only = only or PluginFilter()
        self._host = host
        self._kvm_fd = kvm_fd
        self.ram_discard: RamDiscardPolicy = ram_discard or RamDiscardPolicy()

    @cached_property
    def schema(self) -> Schema:
        """Everything that may be configured with these plugins.

        Raises:
            BrokenPluginError: what one declares does not fit what another does.
        """
        backends = self.plugins.backends
        objects = [_object_schema(backend) for backend in backends if backend.make_object]
        try:
            return Schema.of(
                objects=[*MEMORY_BACKENDS.values(), *objects],
                devices=[_device_schema(t.schema, backends) for t in self.plugins.device_types],
                backend_links=[backend.name for backend in backends if backend.make_object],
            )
        except ValueError as error:
            raise BrokenPluginError(f"plugins do not fit each other: {error}") from error

    def validate(self, config: Config, problems: Iterable[Problem] = ()) -> Config:
        """`config` typed and complete.

        Args:
            config: As written.
            problems: What was found wrong when it was read.

        Raises:
            PluginError: a plugin that it names is missing, blocked or broken; whatever else is
                wrong is the error's cause, a ConfigError.
            ConfigError: with these and every other problem that was found.
        """
        try:
            valid = validate(config, self.schema, problems=problems)
        except ConfigError as error:
            faults = list(self._faults(config))
            if not faults:
                raise
            raise type(faults[0])("\n".join(dict.fromkeys(map(str, faults)))) from error
        for device in valid.devices:
            self.plugins.device_type(device.type)
            self.plugins.backend(device.backend or LEGACY)
        return valid

    def _faults(self, config: Config) -> Iterator[PluginError]:
        """Why plugins that would provide what a configuration names are not to be had."""
        items: tuple[ObjectConfig | DeviceConfig, ...] = (*config.objects, *config.devices)
        for item in items:
            known = self.schema.objects if item.kind == "object" else self.schema.devices
            what = "backend" if item.kind == "object" else "device type"
            fault = None if item.type in known else self.plugins.known_fault(what, item.type)
            if fault is not None:
                yield fault

    def make_host(self, name: str | None = None) -> Host:
        """The host called `name`; the framework's own, or this machine, if None.

        Raises:
            MissingPluginError: no plugin provides it.
            ConfigError: it cannot be made: a file that is not there, or is wrong.
        """
        wanted = name if name is not None else self._host
        if wanted is None:
            return LinuxHost()
        if not isinstance(wanted, str):
            return wanted
        kind, _, argument = wanted.partition(":")
        if wanted == LINUX:
            return LinuxHost()
        if kind == LINUX:
            raise ConfigError([Problem("host", f"{LINUX} takes no argument, not {argument!r}")])
        create = self.plugins.host(kind).create
        try:
            return create(argument or None)
        except VfioError:
            raise
        except (OSError, ValueError) as error:
            raise ConfigError([Problem(f"host {wanted}", str(error))]) from error

    def on(self, host: Host) -> Framework:
        """The same plugins on another host."""
        other = copy.copy(self)
        other._host = host
        other.ram_discard = RamDiscardPolicy()  # another machine, another guest
        return other

    def open(self, *parts: Config | str | os.PathLike[str]) -> Session:
        """Open everything that the parts configure, as one session.

        Args:
            parts: Option strings (``-object … -device …``), paths of TOML files, `Config` objects.

        Raises:
            ConfigError: the configuration is wrong; nothing was opened.
            PluginError: a plugin is missing.
            KernelError: something could not be opened; what was opened before is closed again.
        """
        config, problems = read_config(*parts)
        if config.plugins not in (PluginFilter(), self._only):
            raise ConfigError(
                [
                    Problem(
                        "plugins",
                        "plugins are chosen before anything is imported, so not by this framework",
                        "give Framework(only=config.plugins)",
                    )
                ]
            )
        config = self.validate(config, problems)
        host = self._host_for(config)
        return Session(
            host,
            self.plugins,
            config,
            extend=self._extend,
            fds=self.fds,
            kvm_fd=self._kvm_fd,
            log=self.log,
            ram_discard=self.ram_discard,
        )

    def _extend(self, config: Config, parts: Sequence[Config | str | os.PathLike[str]]) -> Config:
        """What a session is to have when `parts` are added to what it has."""
        more, problems = read_config(*parts)
        if more.host not in (None, config.host) or more.plugins not in (PluginFilter(), self._only):
            problem = Problem("host" if more.host else "plugins", "a session keeps those it has")
            problems = (*problems, problem)
        return self.validate(config.merge(more), problems)

    def _host_for(self, config: Config) -> Host:
        if self._host is None or isinstance(self._host, str):
            return self.make_host(config.host)
        if config.host not in (None, self._host.name):
            raise ConfigError(
                [
                    Problem(
                        "host",
                        f"the configuration is for host {config.host},"
                        f" and this framework was given one ({self._host.name})",
                        "remove host from the configuration, or give Framework(host=None)",
                    )
                ]
            )
        return self._host


def open_session(
    *parts: Config | str | os.PathLike[str], host: Host | str | None = None
) -> Session:
    """Open a configuration with the installed plugins that it allows; see `Framework.open`."""
    config, problems = read_config(*parts)
    framework = Framework(only=config.plugins, host=host)
    if problems:
        framework.validate(config, problems)
    return framework.open(config)


def read_config(
    *parts: Config | str | os.PathLike[str],
) -> tuple[Config, tuple[Problem, ...]]:
    """The parts as one configuration, not yet validated, and what is wrong with their form."""
    whole = Config()
    problems: tuple[Problem, ...] = ()
    for part in parts:
        config, more = _read(part)
        whole, problems = whole.merge(config), (*problems, *more)
    return whole, problems


def _read(part: Config | str | os.PathLike[str]) -> tuple[Config, tuple[Problem, ...]]:
    if isinstance(part, Config):
        return part, ()
    if isinstance(part, str) and (not part.strip() or part.lstrip().startswith("-")):
        return read_command_line(part)
    return read_file(part)


def _object_schema(backend: Backend) -> TypeSchema:
    return TypeSchema(backend.name, backend.help, backend.object_properties)


def _device_schema(schema: TypeSchema, backends: Sequence[Backend]) -> TypeSchema:
    """A device type with what every backend adds to it, and the rule that only its own may be set."""
    added = {prop.name: prop for backend in backends for prop in backend.device_properties}
    return evolve(
        schema,
        properties=(*schema.properties, *added.values()),
        check=_with_backend_rules(schema, backends),
    )


def _with_backend_rules(
    schema: TypeSchema, backends: Sequence[Backend]
) -> Callable[[DeviceConfig], Iterable[Problem]]:
    def check(device: DeviceConfig) -> Iterable[Problem]:
        yield from schema.check(device) if schema.check is not None else ()
        chosen = device.backend or LEGACY
        for backend in backends:
            for prop in backend.device_properties if backend.name != chosen else ():
                if device.properties[prop.name] != prop.default:
                    yield _foreign(device, prop, backend.name, chosen)

    # Functions have attributes; the type of a callable does not say so.
    vars(check)["presence_only"] = getattr(schema.check, "presence_only", False)
    return check


def _foreign(device: DeviceConfig, prop: Property, owner: str, chosen: str) -> Problem:
    return Problem(
        device.at(prop.name),
        f"is for the {owner} backend, and this device uses {chosen}",
        f"remove {prop.name}=, or use the {owner} backend",
    )
