"""The page of the hooks is made from their specs, and no spec leaves a question open."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vfiocore import hookspecs
from vfiocore.hookspecs import API_VERSION

PAGE = Path(__file__).parents[2] / "docs/plugins/hooks.md"

HOOKS = [
    hook
    for _, hook in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(hook, "vfiocore_spec")
]
ANSWERS = {
    "when it runs": r"^Runs: \S",
    "on which thread": r"^Thread: \S",
    "what it returns": r"^Returns:\n    \S",
    "what it raises": r"^Raises:\n    \w+Error",
    "an example": r"^Example::\n\n    @hookimpl\n",
    "since when it is there": r"^Since contract version \d+\.$",
}


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.__name__)
def hook(request: pytest.FixtureRequest) -> Callable[..., Any]:
    found: Callable[..., Any] = request.param
    return found


def unanswered(text: str) -> list[str]:
    return [what for what, how in ANSWERS.items() if not re.search(how, text, re.MULTILINE)]


def words(hook: Callable[..., Any]) -> str:
    return inspect.getdoc(hook) or ""


def example(hook: Callable[..., Any]) -> ast.FunctionDef:
    code = words(hook).partition("Example::")[2].partition("Since contract")[0]
    (function,) = ast.parse(textwrap.dedent(code)).body
    assert isinstance(function, ast.FunctionDef)
    return function


# -- the specs -------------------------------------------------------------------------------------
def test_a_spec_says_when_where_what_and_since_when(hook: Callable[..., Any]) -> None:
    assert unanswered(words(hook)) == []


def test_a_spec_describes_every_parameter(hook: Callable[..., Any]) -> None:
    described = re.findall(r"^    (\w+): ", words(hook).partition("Args:")[2], re.MULTILINE)
    assert set(inspect.signature(hook).parameters) <= set(described)


def test_what_has_addresses_says_in_which_unit(hook: Callable[..., Any]) -> None:
    if "batch" in inspect.signature(hook).parameters:
        assert "in bytes" in words(hook)


def test_an_example_implements_its_hook(hook: Callable[..., Any]) -> None:
    function = example(hook)
    assert function.name == hook.__name__
    assert {item.arg for item in function.args.args} <= set(inspect.signature(hook).parameters)


def test_no_hook_is_from_a_version_to_come(hook: Callable[..., Any]) -> None:
    since = int(re.findall(r"Since contract version (\d+)", words(hook))[0])
    assert 1 <= since <= API_VERSION


def test_what_a_spec_leaves_out_is_noticed() -> None:
    assert unanswered("Maps.\n\nRuns: now and then.") == [
        what for what in ANSWERS if "run" not in what
    ]


# -- the page --------------------------------------------------------------------------------------
def test_the_page_is_made_from_the_specs(extension: None) -> None:
    from _ext import hooks

    assert "```{hooks}\n" in PAGE.read_text()
    assert set(hooks.names()) == {hook.__name__ for hook in HOOKS}


def test_a_hook_has_its_docstring_below_its_name(hook: Callable[..., Any], extension: None) -> None:
    from _ext import hooks

    name = hook.__name__
    section = hooks.hooks().partition(f"### {name}\n")[2].partition("### ")[0]
    assert f".. autofunction:: vfiocore.hookspecs.{name}\n" in section


def test_the_phases_are_those_of_the_contract(extension: None) -> None:
    from _ext import hooks

    found = re.findall(r"^## (.+)$", hooks.hooks(), re.MULTILINE)
    assert found == ["Registration", "Secure context", "Device", "DMA"]


def test_who_implements_a_hook_is_said(extension: None) -> None:
    from _ext import hooks

    text = hooks.hooks()
    assert "### vfio_register_hosts\n\nAny plugin implements it. It cannot be wrapped." in text
    assert "### vfio_dma_map\n\nThe backend implements it. Any plugin may wrap it." in text
