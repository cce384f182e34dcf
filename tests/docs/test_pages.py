"""The documentation names everything that there is: subcommands, exit codes, JSON members."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vfiocore
from vfiocore.cli.app import COMMANDS, run
from vfiocore.cli.exit_codes import MEANINGS

DOCS = Path(__file__).parents[2] / "docs"

EDU = "vfio-pci,id=edu,host=0000:02:00.0"
DOCUMENTS = {
    "check": ["check", "-device", EDU],
    "session": ["run", "--once", "--host", "sim", "-device", EDU],
    "device-list": ["devices", "--host", "sim"],
    "device": ["show", "0000:02:00.0", "--host", "sim"],
    "type": ["show", "vfio-pci"],
    "plugin-list": ["plugins"],
    "demo": ["demo"],
}
FAILURES = {
    "a wrong configuration": ["check", "-device", "vfio-pci,hots=0000:02:00.0"],
    "a missing device": ["show", "no-such-device", "--host", "sim"],
}


def page(name: str) -> str:
    return (DOCS / name).read_text()


def section(text: str, title: str) -> str:
    """What follows a heading of the second level, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {title}"
    return found[1]


# -- the command -----------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
def test_every_subcommand_is_described(command: str, extension: None) -> None:
    from _ext import tables

    assert "```{command-options}" in page("guide/command.md")
    assert f"### {command}\n" in tables.command_options()


@pytest.mark.parametrize("code", MEANINGS)
def test_every_exit_code_is_described(code: int, extension: None) -> None:
    from _ext import tables

    assert "```{exit-codes}" in page("guide/command.md")
    assert f"| `{int(code)}` |" in tables.exit_codes()


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_member_of_a_json_document_is_described(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of([*DOCUMENTS[kind], "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document.pop("schema") == 1
    assert document.pop("kind") == kind
    assert undescribed(document, section(page("reference/json.md"), kind)) == set()


@pytest.mark.parametrize("failure", FAILURES)
def test_every_member_of_an_error_document_is_described(
    failure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of([*FAILURES[failure], "--json"]) != 0

    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "error"
    assert undescribed(document["error"], section(page("reference/json.md"), "error")) == set()


def exit_code_of(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    return int(stop.value.code or 0)


def undescribed(document: object, text: str) -> set[str]:
    """The members that a section has no word for; those of a device are in that of the list."""
    if "as in a `device-list`" in text:
        text += section(page("reference/json.md"), "device-list")
    words = set(re.findall(r"[\w]+", " ".join(re.findall(r"`([^`]+)`", text))))
    return set(members(document)) - words


def members(document: object) -> Iterator[str]:
    if isinstance(document, dict):
        yield from document
        for value in document.values():
            yield from members(value)
    if isinstance(document, list):
        for value in document:
            yield from members(value)


def test_a_member_without_a_word_is_noticed() -> None:
    assert undescribed({"ok": True, "surprise": [{"inner": 1}]}, "`ok`") == {"surprise", "inner"}


# -- the reference ---------------------------------------------------------------------------------
WITHOUT_PAGE = {
    "vfiocore.cli": "the command has a page of its own",
    "vfiocore.testing": "plugins/conformance.md",
    "vfiocore.uapi": "the kernel's headers document their layouts",
    "vfiocore.hookspecs": "plugins/hooks.md",
}


def test_every_public_module_of_the_core_is_in_the_reference() -> None:
    reference = "".join(path.read_text() for path in (DOCS / "reference/api").glob("*.md"))
    listed = set(re.findall(r"^\.\. automodule:: (\S+)$", reference, re.MULTILINE))
    assert public_modules() - listed == set()


def public_modules() -> set[str]:
    found = (
        module.name
        for module in pkgutil.walk_packages(vfiocore.__path__, "vfiocore.")
        if not module.ispkg and not re.search(r"\._", module.name)
    )
    return {name for name in found if not name.startswith(tuple(WITHOUT_PAGE))}


def test_every_page_is_in_a_table_of_contents() -> None:
    pages = {path for path in DOCS.glob("**/*.md") if "_build" not in path.parts}
    linked = {DOCS / "index.md"} | {target for path in pages for target in linked_pages(path)}
    assert pages - linked == set()


def linked_pages(path: Path) -> Iterator[Path]:
    for toc in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.DOTALL):
        for line in toc.splitlines():
            if line and not line.startswith(":"):
                yield path.parent / f"{line}.md"
