"""Tables in Markdown, made from the code and from the plugins that are installed."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence

import click

from vfiocore import errors
from vfiocore.cli.app import COMMANDS, app
from vfiocore.cli.exit_codes import MEANINGS
from vfiocore.config import UINT, Choice, Link, Property, PropertyType, ValueType, types
from vfiocore.framework import Framework

PLAIN = (Exception, BaseException, object)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; newlines and bars in cells are taken care of."""
    lines = [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]
    return "\n".join(lines)


def code(text: object) -> str:
    """`text` as a literal; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


# -- errors and exit codes -------------------------------------------------------------------------
def exceptions() -> str:
    """Every exception of the tree: what it derives from, and what it means."""
    return table(("exception", "is a", "when"), _exception_rows(errors.VfioError))


def _exception_rows(kind: type[Exception]) -> Iterator[Sequence[str]]:
    bases = ", ".join(code(base.__name__) for base in kind.__bases__ if base not in PLAIN)
    yield code(kind.__name__), bases, _summary(kind)
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _exception_rows(child)


def exit_codes() -> str:
    """The exit codes of the command."""
    return table(
        ("code", "name", "meaning"),
        (
            (code(int(exit_code)), code(exit_code.name), text)
            for exit_code, text in MEANINGS.items()
        ),
    )


# -- the command -----------------------------------------------------------------------------------
def command_options() -> str:
    """Each subcommand with its arguments and options."""
    context = click.Context(app)
    return "\n\n".join(_command(context, name) for name in COMMANDS)


def _command(context: click.Context, name: str) -> str:
    command = app.get_command(context, name)
    assert command is not None
    inner = click.Context(command, parent=context, info_name=name)
    usage = " ".join(["vfiocore", name, *command.collect_usage_pieces(inner)])
    rows = [record for item in command.params if (record := item.get_help_record(inner))]
    options = table(("option", "meaning"), ((code(names), text) for names, text in rows))
    return f"### {name}\n\n{inspect.cleandoc(command.help or '')}\n\n`{usage}`\n\n{options}"


# -- properties ------------------------------------------------------------------------------------
def properties() -> str:
    """Every type of object and device that is installed, with its properties."""
    schema = Framework().schema
    parts = ["## Objects"]
    for name in sorted(schema.objects):
        found = schema.object_properties(name).values()
        parts += _type(f"-object {name}", schema.objects[name].help, found)
    parts.append("## Devices")
    for name in sorted(schema.devices):
        found = schema.device_properties(name).values()
        parts += _type(f"-device {name}", schema.devices[name].help, found)
    return "\n\n".join(parts)


def _type(title: str, help_text: str, found: Iterable[Property]) -> list[str]:
    rows = ((code(p.name), p.type.name, _default(p), p.help) for p in found)
    return [
        f"### {code(title)}",
        help_text,
        table(("property", "type", "default", "meaning"), rows),
    ]


def _default(prop: Property) -> str:
    if prop.required:
        return "required"
    if isinstance(prop.default, bool):
        return code("on" if prop.default else "off")
    return "" if prop.default is None else code(prop.default)


def property_types() -> str:
    """The types of `vfiocore.config` and what each of them allows."""
    simple = [value for value in vars(types).values() if isinstance(value, ValueType)]
    made: list[PropertyType] = [*simple, UINT, Link("TYPE"), Choice("this", "that")]
    return table(("type", "expected"), sorted((item.name, item.describe()) for item in made))


# ---------------------------------------------------------------------------------------------------
def _line(cells: Iterable[str]) -> str:
    flat = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(flat)} |"


def _summary(kind: type) -> str:
    text = inspect.getdoc(kind) or ""
    return text.partition("\n\n")[0]
