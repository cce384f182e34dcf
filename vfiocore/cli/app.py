"""The command group: subcommands, those of plugins too, and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

import vfiocore
from vfiocore.cli.exit_codes import MEANINGS, ExitCode, exit_code_of
from vfiocore.cli.output import Output, show_warning
from vfiocore.errors import BrokenPluginError, DuplicatePluginError, VfioError
from vfiocore.log import Log, VfioWarning
from vfiocore.plugins import PluginSet, filter_from_environment
from vfiocore.registration import Command

COMMANDS = {
    "check": "Validate a configuration; open nothing.",
    "demo": "Run four kinds of devices on both backends of the simulated host.",
    "devices": "List the devices of a host.",
    "plugin": "Start a plugin of your own.",
    "plugins": "List what is installed, and what is wrong with it.",
    "run": "Wire a configuration into live devices, report, and hold them.",
    "show": "Show a device, or the properties of a type.",
}

EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {int(code):>3}  {text}" for code, text in MEANINGS.items()
)


class Commands(click.Group):
    """Subcommands by name; a module is imported only when its command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our own, then those of plugins."""
        return [*COMMANDS, *sorted(_of_plugins(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"vfiocore.cli.{cmd_name}")
            command: click.Command = module.command
            return command
        found = _of_plugins(ctx).get(cmd_name)
        return None if found is None else _loaded(found)

    def make_context(
        self, info_name: str | None, args: list[str], *rest: Any, **extra: Any
    ) -> click.Context:
        """Parse the command line, and print what ``--help`` and ``--version`` do."""
        with _reader_may_leave():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand, to the last line of what it prints."""
        with _reader_may_leave():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List subcommands by their one-line help, without importing them."""
        rows = [*COMMANDS.items()]
        rows += [(name, items[0].help) for name, items in sorted(_of_plugins(ctx).items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.command(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(vfiocore.__version__, prog_name="vfiocore")
@click.pass_context
def app(context: click.Context) -> None:
    """Reach devices through Linux VFIO, on this machine or on a simulated one."""
    context.obj = context.obj or Output()


def run(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", VfioWarning)
        warnings.showwarning = show_warning
        code = _run(arguments, Output())
    sys.exit(code)


def _run(arguments: list[str] | None, output: Output) -> int:
    try:
        # Outside of standalone mode, click returns the code of an early exit (--help).
        code = app.main(arguments, prog_name="vfiocore", standalone_mode=False, obj=output)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except (VfioError, OSError) as error:
        # What failed has failed, read or not.
        with suppress(click.exceptions.Exit), _reader_may_leave():
            output.error(error)
        return exit_code_of(error)
    return code if isinstance(code, int) else ExitCode.OK


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Exit well where stdout has no reader any more; click makes a failure of it."""
    try:
        yield
    except BrokenPipeError:
        _stop_writing()
        raise click.exceptions.Exit(ExitCode.OK) from None


def _stop_writing() -> None:
    """The reader has had enough; what Python flushes at exit must not complain either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _of_plugins(ctx: click.Context) -> dict[str, list[Command]]:
    """The subcommands that plugins register, each with all its providers; read once a run."""
    found: dict[str, list[Command]] | None = ctx.meta.get("vfiocore.commands")
    if found is None:
        found = {}
        for item in PluginSet((), autoload=True, only=filter_from_environment(os.environ)).commands:
            found.setdefault(item.name, []).append(item)
        for name in COMMANDS.keys() & found.keys():
            del found[name]
            Log().warn_of(
                "plugin.command_shadowed",
                f"a plugin's subcommand {name!r} is not used: vfiocore has one of that name",
                command=name,
            )
        ctx.meta["vfiocore.commands"] = found
    return found


def _loaded(items: list[Command]) -> click.Command:
    name = items[0].name
    if len(items) > 1:
        raise DuplicatePluginError(
            f"{len(items)} plugins provide the subcommand {name!r}: block one of them with"
            " VFIOCORE_PLUGINS=-NAME; `vfiocore plugins` lists them"
        )
    try:
        return items[0].load()
    except Exception as error:
        raise BrokenPluginError(
            f"the subcommand {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
