"""What the command prints: tables and lines for people, one documented JSON schema for programs.

Every JSON document is one object with ``schema`` (1), ``kind`` and the members of that kind.
Sizes are integers in bytes, addresses are strings with ``0x``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import click
from attrs import define

from vfiocore.cli.exit_codes import exit_code_of
from vfiocore.errors import ConfigError, KernelError, Problem

SCHEMA = 1


@define
class Output:
    """Where a subcommand's result goes, in the form that was asked for."""

    as_json: bool = False

    def document(self, kind: str, **members: Any) -> None:
        """Print a JSON document, if JSON was asked for."""
        if self.as_json:
            click.echo(json.dumps({"schema": SCHEMA, "kind": kind, **members}, indent=2))

    def text(self, line: str = "") -> None:
        """Print a line, unless JSON was asked for."""
        if not self.as_json:
            click.echo(line)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table, unless JSON was asked for; never cut off when piped."""
        if self.as_json:
            return
        rows = list(rows)
        if _is_terminal():
            _rich_table(columns, rows)
            return
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(cells).rstrip())

    def note(self, line: str) -> None:
        """Print what happened meanwhile to stderr, in either form."""
        click.echo(f"vfiocore: {line}", err=True)

    def error(self, error: Exception) -> None:
        """Print an error: to stderr as text, or as a JSON document of kind ``error``."""
        if self.as_json:
            self.document("error", error=error_document(error))
            return
        lines = [] if isinstance(error, ConfigError) else [str(error)]
        for line in (*lines, *map(str, _problems(error)), *_notes(error)):
            self.note(line)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning without its place in the code; in place of ``warnings.showwarning``."""
    del category, filename, lineno, line
    click.echo(f"vfiocore: warning: {message}", err=file is None, file=file)


def error_document(error: Exception) -> dict[str, Any]:
    """An error as a JSON member: class, message, exit code, and what its kind adds."""
    document: dict[str, Any] = {
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": int(exit_code_of(error)),
        "notes": list(_notes(error)),
        "problems": [
            {"path": item.path, "message": item.message, "hint": item.hint}
            for item in _problems(error)
        ],
    }
    if isinstance(error, KernelError):
        document |= {
            "errno": error.errno_name,
            "operation": error.operation,
            "subject": error.subject,
            "hint": error.hint,
        }
    return document


def _problems(error: Exception) -> tuple[Problem, ...]:
    """What is wrong in the configuration, also where something else was worse."""
    found = error if isinstance(error, ConfigError) else error.__cause__
    return found.problems if isinstance(found, ConfigError) else ()


def _notes(error: Exception) -> tuple[str, ...]:
    """What went wrong besides, while everything was taken down."""
    return tuple(getattr(error, "__notes__", ()))


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only for terminals
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # What stands in brackets is text of ours, not rich's markup.
    Console(markup=False, emoji=False, highlight=False).print(table)
