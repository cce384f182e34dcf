"""What was proved where: a page for the documentation, made from the guests' reports."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from .errors import BedError
from .machines import MACHINES

PAGE = "docs/proved.md"

WAYS = ("type1v2", "type1", "compat", "iommufd", "noiommu")
"""How devices are opened, as the names of parametrised tests have it."""

HEAD = """\
# What was proved where

`make proof` ran the tests of `tests/vm/guest` in every machine ({doc}`testing-on-kernels`) and wrote this
page from their reports: how many passed, by the way in which devices were opened. *compat* is the
type1 interface that iommufd emulates. What has no number does not exist on that machine.
"""


@dataclass(frozen=True)
class Outcome:
    """One test of a report.

    Attributes:
        module: The file it is in, as ``tests/vm/guest/test_edu.py``.
        way: One of `WAYS`; empty if it is about none.
        verdict: ``passed``, ``failed`` or ``skipped``.
    """

    module: str
    way: str
    verdict: str


def page(results: Path, repository: Path) -> str:
    """The page, from the reports of all machines.

    Raises:
        BedError: A machine has none.
    """
    columns = {name: tuple(outcomes(_report(results, name))) for name in MACHINES}
    lines = [HEAD, *_machines(results, columns), ""]
    lines += ["| |" + "".join(f" {name} |" for name in columns)]
    lines += ["|---|" + "---|" * len(columns)]
    modules = sorted({outcome.module for found in columns.values() for outcome in found})
    for module in modules:
        cells = [_cell(found, module) for found in columns.values()]
        lines.append(f"| {topic(repository / module)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def outcomes(junit: str) -> Iterator[Outcome]:
    """The tests of a JUnit report."""
    for case in ET.fromstring(junit).iter("testcase"):
        parts = case.get("classname", "").split(".")
        # A test in a class has that at the end.
        last = next(n for n, part in enumerate(parts) if part.startswith("test_"))
        yield Outcome(
            module="/".join(parts[: last + 1]) + ".py",
            way=_way(f"{'.'.join(parts[last + 1 :])}.{case.get('name', '')}"),
            verdict=_verdict(case),
        )


def topic(module: Path) -> str:
    """What the tests of a module are about: the first line of its docstring."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or module.stem
    return text.partition("\n")[0].rstrip(".").replace("|", "\\|")


def _report(results: Path, machine: str) -> str:
    try:
        return (results / machine / "junit.xml").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BedError(
            f"{results} has no report of the machine {machine}", "run: make test-vm"
        ) from None


def _machines(results: Path, columns: Mapping[str, Sequence[Outcome]]) -> Iterator[str]:
    yield "| machine | what is in it | emulator | kernel | tests |"
    yield "|---|---|---|---|---|"
    for name, found in columns.items():
        machine = MACHINES[name]
        kernel = (results / name / "kernel").read_text(encoding="utf-8").strip()
        emulator = _version_of(machine.architecture.emulator)
        yield f"| `{name}` | {machine.about} | {emulator} | {kernel} | {_sum(found)} |"


def _version_of(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\S+)", done.stdout)
    return f"QEMU {found[1]}" if found else "?"


def _cell(found: Sequence[Outcome], module: str) -> str:
    here = [outcome for outcome in found if outcome.module == module]
    ways = [way for way in WAYS if any(outcome.way == way for outcome in here)]
    without = [outcome for outcome in here if not outcome.way]
    parts = [f"{way} {_sum([o for o in here if o.way == way])}" for way in ways]
    return "<br>".join([*parts, *([_sum(without)] if without else [])])


def _sum(found: Sequence[Outcome]) -> str:
    """``12``, or ``12, 3 failed``; what was skipped is not proved, and not counted."""
    count = Counter(outcome.verdict for outcome in found)
    failed = f", **{count['failed']} failed**" if count["failed"] else ""
    return f"{count['passed']}{failed}"


def _way(name: str) -> str:
    words = re.split(r"[^0-9A-Za-z]+", name)
    return next((way for way in WAYS if way in words), "")


def _verdict(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"
