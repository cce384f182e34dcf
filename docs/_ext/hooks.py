"""The contract's hooks, phase by phase as their specs are written."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from vfiocore import hookspecs
from vfiocore.plugins import RECORDS

_PHASE_OR_HOOK = re.compile(r"^# -- (?P<phase>[\w ]+?) -+$|^def (?P<hook>vfio_\w+)", re.MULTILINE)

_ACRONYMS = ("DMA",)


def hooks() -> str:
    """A section for each hook, below a heading for each phase."""
    return "\n\n".join(_sections())


def names() -> list[str]:
    """Every hook, in the order of the contract."""
    source = inspect.getsource(hookspecs)
    return [found["hook"] for found in _PHASE_OR_HOOK.finditer(source) if found["hook"]]


def _sections() -> Iterator[str]:
    for found in _PHASE_OR_HOOK.finditer(inspect.getsource(hookspecs)):
        phase = found["phase"]
        if phase:
            yield f"## {phase if phase in _ACRONYMS else phase.capitalize()}"
        else:
            yield _section(found["hook"])


def _section(name: str) -> str:
    who = (
        "Any plugin implements it. It cannot be wrapped."
        if name in RECORDS
        else "The backend implements it. Any plugin may wrap it."
    )
    spec = f"```{{eval-rst}}\n.. autofunction:: vfiocore.hookspecs.{name}\n```"
    return f"### {name}\n\n{who}\n\n{spec}"
