"""The page of the errors knows every table of errnos that the code has, and every hint."""

from __future__ import annotations

import ast
import errno
import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

from vfiocore.errors import BusyError, DeviceNotFoundError

pytestmark = pytest.mark.usefixtures("extension")

PAGE = Path(__file__).parents[2] / "docs/reference/errors.md"

MADE_IN_PLACE = {
    "VFIO_SET_IOMMU": "ENODEV",
    "open /dev/vfio/vfio": "ENOENT ENODEV",
    "open /dev/iommu": "ENOENT ENODEV",
}
"""Tables that are written where they are used; the page has them among the refusals."""


@pytest.fixture
def module() -> ModuleType:
    """A module of a backend that nobody has told the page of."""
    return ModuleType("vfiocore_acme.kinds")


def listed_tables() -> list[object]:
    from _ext import kinds

    return [found for items in kinds.SECTIONS.values() for item in items for found in item.tables()]


# -- tables ----------------------------------------------------------------------------------------
def test_the_page_has_every_table_of_the_code() -> None:
    from _ext import kinds

    assert "```{errnos}\n" in PAGE.read_text()
    listed = listed_tables()
    missing = {
        f"{module.__name__}.{name}"
        for module in kinds.modules()
        for name, found in kinds.tables_of(module)
        if not any(found is known for known in listed)
    }
    assert missing == set()


def test_a_table_that_is_added_is_noticed(module: ModuleType) -> None:
    from _ext import kinds

    vars(module).update(
        ACME_KINDS={errno.EIO: BusyError},
        ACME_HINTS={errno.EIO: "call Acme"},
        BITS={errno.EIO: "something else"},
        NAMES={"EIO": BusyError},
    )
    assert [name for name, _ in kinds.tables_of(module)] == ["ACME_KINDS", "ACME_HINTS"]


def test_every_errno_of_a_table_is_shown_with_its_class() -> None:
    from _ext import kinds

    item = kinds.Kinds(("vfiocore_legacy.group", "OPEN_KINDS"), "open", "OPEN_HINTS")
    rows = {row[1]: row for row in item.rows()}
    assert {"`ENOENT`", "`ENODEV`", "`EACCES`", "`EPERM`", "`EBUSY`"} == set(rows)
    assert rows["`ENOENT`"][2] == f"`{DeviceNotFoundError.__name__}`"
    assert "modprobe vfio-pci" in rows["`ENOENT`"][3]


def test_an_errno_has_the_name_that_the_kernel_uses() -> None:
    from _ext import kinds

    assert kinds.name_of(errno.EOPNOTSUPP) == "EOPNOTSUPP"
    assert kinds.name_of(errno.EDEADLK) == "EDEADLK"
    assert kinds.name_of(errno.EAGAIN) == "EAGAIN"


def test_tables_that_are_made_in_place_are_among_the_refusals() -> None:
    from _ext import faults, kinds

    found = [
        node
        for module in kinds.modules()
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if is_made_in_place(node)
    ]
    assert len(found) == len(MADE_IN_PLACE)
    refused = {item.operation: item.errnos.split() for item in faults.REFUSALS}
    for operation, errnos in MADE_IN_PLACE.items():
        assert set(errnos.split()) <= set(refused[operation])


def is_made_in_place(node: ast.AST) -> bool:
    """``kinds={...}`` in a call, or ``dict.fromkeys((errno...), Kind)``."""
    if not isinstance(node, ast.Call):
        return False
    literal = any(
        item.arg == "kinds" and isinstance(item.value, ast.Dict) for item in node.keywords
    )
    made = isinstance(node.func, ast.Attribute) and node.func.attr == "fromkeys"
    return literal or (made and "errno." in ast.unparse(node))


# -- hints -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def known() -> list[re.Pattern[str]]:
    """The hints of the page, and what longer ones are put together from."""
    from _ext import hints, kinds

    texts = {hint.text for module in kinds.modules() for hint in hints.hints_of(module)}
    parts = {part for text in texts for part in [text, *text.split("; ")]} - {hints.UNKNOWN}
    # Anything may stand for what only a run can tell.
    return [re.compile(".+".join(map(re.escape, part.split(hints.UNKNOWN)))) for part in parts]


def is_known(hint: str, known: list[re.Pattern[str]]) -> bool:
    whole = any(pattern.fullmatch(hint) for pattern in known)
    parts = (any(pattern.fullmatch(part) for pattern in known) for part in hint.split("; "))
    return whole or all(parts)


WAYS = {
    "a word": 'raise BusyError(5, "open", "it", hint="close it")',
    "the fifth": 'raise BusyError(5, "open", "it", "", "close it")',
    "a sum": 'raise BusyError(5, "open", "it", hint="close" + " it")',
    "a constant": 'raise BusyError(5, "open", "it", hint=CLOSE)',
    "a table": 'raise kernel_error(error, "open", "it", hint=HINTS.get(error.errno))',
    "a condition": 'raise BusyError(5, "open", "it", hint="close it" if error else None)',
    "a variable": 'hint = "close it"; raise BusyError(5, "open", "it", hint=hint)',
    "one of two": 'text, hint = "", "close it"; raise BusyError(5, "open", "it", text, hint)',
    "in steps": """hint = "close"; hint = f"{hint} it"; raise BusyError(5, "open", "it", hint=hint)""",
    "a list": 'ways = ["close it"]; raise BusyError(5, "open", "it", hint=", ".join(ways))',
    "a function": 'raise BusyError(5, "open", "it", hint=advice())',
    "passed on": 'raise made(error, "open", "close it")',
    "of a backend": 'Backend(name="acme", help="", advice="close it")',
}
SOURCE = """\
from vfiocore.errors import BusyError, kernel_error
from vfiocore.registration import Backend

CLOSE = "close it"
HINTS = {5: "close it"}


def advice():
    return "close it"


def made(error, operation, hint):
    return kernel_error(error, operation, "it", hint=hint)


def refuse(error):
    WAY
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_hint_is_found_however_it_is_written(way: str, scratch: Path) -> None:
    from _ext import hints

    (scratch / "acme_hints.py").write_text(SOURCE.replace("WAY", WAYS[way]))
    found = set(hints.hints_of(importlib.import_module("acme_hints")))
    assert [(hint.operation, hint.text) for hint in found] == [("open", "close it")]


def test_what_only_a_run_can_tell_is_left_open(scratch: Path) -> None:
    from _ext import hints

    way = """raise BusyError(5, "open", "it", hint=f"close {error} first")"""
    (scratch / "acme_hints.py").write_text(SOURCE.replace("WAY", way))
    (hint,) = hints.hints_of(importlib.import_module("acme_hints"))
    assert hint == hints.Hint("acme_hints", "open", "BusyError", "close … first")


def test_no_hint_is_entirely_unknown() -> None:
    from _ext import hints, kinds

    assert "```{hints}\n" in PAGE.read_text()
    found = [hint for module in kinds.modules() for hint in hints.hints_of(module)]
    assert [hint for hint in found if not hint.text.strip(f"{hints.UNKNOWN} ;")] == []


def test_every_constant_that_is_called_a_hint_is_on_the_page() -> None:
    from _ext import hints, kinds

    constants = {
        text
        for module in kinds.modules()
        for name, value in vars(module).items()
        for text in (value.values() if isinstance(value, Mapping) else [value])
        if name.endswith(("_HINT", "_HINTS")) and isinstance(text, str)
    }
    assert constants
    page = hints.hints()
    assert [text for text in constants if text not in page] == []


def test_what_the_kernels_refusals_say_is_among_the_hints(known: list[re.Pattern[str]]) -> None:
    """The page reads sources; what is said in a run must be in it."""
    from _ext import faults

    said = {
        error.hint
        for refusal in faults.REFUSALS
        for name in refusal.errnos.split()
        if (error := faults.refused(refusal, getattr(errno, name))) and error.hint
    }
    assert len(said) > len(faults.REFUSALS)
    assert [hint for hint in said if not is_known(hint, known)] == []
    assert not is_known("call Acme", known)
