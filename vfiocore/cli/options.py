"""The options that subcommands share: configuration, host, plugins, form of output."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import define, evolve

from vfiocore.cli.output import Output
from vfiocore.config.model import Config, PluginFilter
from vfiocore.config.options import read_options
from vfiocore.config.toml import read_file
from vfiocore.errors import Problem
from vfiocore.fds import FdTable
from vfiocore.framework import Framework
from vfiocore.plan import Planner
from vfiocore.plugins import filter_from_environment
from vfiocore.session import Session

Command = TypeVar("Command", bound=Callable[..., Any])


@define(slots=False)  # cached_property needs a __dict__
class Request:
    """What the user asked for: a configuration, a host and a form of output."""

    written: Config
    host: str | None
    output: Output
    problems: tuple[Problem, ...] = ()

    @functools.cached_property
    def framework(self) -> Framework:
        """The framework with the plugins that the user allows."""
        allowed = _merged(filter_from_environment(os.environ), self.written.plugins)
        return Framework(
            only=allowed,
            host=self.host or self.written.host,
            fds=FdTable.from_listen_fds(os.environ, os.getpid()),
        )

    @property
    def config(self) -> Config:
        """The configuration, typed and complete; ConfigError with all that is wrong with it."""
        # Host and plugins are the framework's by now: --host comes before a file's host.
        written = evolve(self.written, host=None, plugins=PluginFilter())
        return self.framework.validate(written, self.problems)

    def find(self, config: Config) -> None:
        """Look for what `config` names on the host, if the user named one; nothing is opened.

        What is passed as an fd is not there before the devices are to be opened.
        """
        if self.host is None and self.written.host is None:
            return
        named = [device for device in config.devices if device.properties.get("fd") is None]
        framework = self.framework
        host = framework.make_host()
        sought = evolve(config, devices=tuple(named))
        Planner(host, framework.plugins, framework.fds, sought).plan()

    def open(self) -> Session:
        """The configuration as live devices."""
        return self.framework.open(self.config)

    def add(self, config: Config, problems: tuple[Problem, ...]) -> None:
        """Take in one more part of the configuration."""
        self.written = self.written.merge(config)
        self.problems += problems


def configured(command: Command) -> Command:
    """Give a subcommand the options that make up a configuration; it receives a `Request`."""

    @click.option("-c", "--config", "file", type=click.Path(path_type=Path), help="A TOML file.")
    @click.option(
        "-object", "--object", "objects", multiple=True, metavar="TYPE,id=ID,…", help="An object."
    )
    @click.option(
        "-device",
        "--device",
        "devices",
        multiple=True,
        metavar="TYPE,KEY=VALUE,…",
        help="A device.",
    )
    @on_host
    @functools.wraps(command)
    def wrapped(
        file: Path | None,
        objects: tuple[str, ...],
        devices: tuple[str, ...],
        request: Request,
        **rest: Any,
    ) -> Any:
        if file is not None:
            request.add(*read_file(file))
        request.add(*read_options(objects, devices))
        return command(request=request, **rest)

    return wrapped  # type: ignore[return-value]  # click decorates it with parameters of its own


def on_host(command: Command) -> Command:
    """Give a subcommand ``--host`` and ``--json``; it receives a `Request`."""

    @click.option("--host", metavar="linux|sim[:FILE]", help="This machine, or a simulated one.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @functools.wraps(command)
    def wrapped(host: str | None, as_json: bool, **rest: Any) -> Any:
        context = click.get_current_context()
        context.obj.as_json = as_json
        return command(request=Request(Config(), host, context.obj), **rest)

    return wrapped  # type: ignore[return-value]  # click decorates it with parameters of its own


def _merged(first: PluginFilter, second: PluginFilter) -> PluginFilter:
    allow = second.allow if first.allow is None else first.allow
    return PluginFilter(allow, (*first.block, *second.block))
