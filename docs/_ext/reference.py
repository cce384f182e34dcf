"""Directives that put what the other modules of `_ext` make into a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

from _ext import distributions, faults, hints, hooks, kinds, tables

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SOURCES: dict[str, Callable[[], str]] = {
    "exceptions": tables.exceptions,
    "exit-codes": tables.exit_codes,
    "command-options": tables.command_options,
    "properties": tables.properties,
    "property-types": tables.property_types,
    "dependencies": distributions.dependencies,
    "distributions": distributions.distributions,
    "errnos": kinds.errnos,
    "hints": hints.hints,
    "hooks": hooks.hooks,
    "mistakes": faults.mistakes,
    "refusals": faults.refusals,
}


def _directive(source: Callable[[], str]) -> type[SphinxDirective]:
    class Generated(SphinxDirective):
        def run(self) -> list[Any]:
            return self.parse_text_to_nodes(source(), allow_section_headings=True)

    return Generated


def setup(app: Sphinx) -> dict[str, bool]:
    """Make each source a directive of its name."""
    for name, source in SOURCES.items():
        app.add_directive(name, _directive(source))
    return {"parallel_read_safe": True}
