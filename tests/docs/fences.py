"""The fenced blocks of a Markdown page, and the files that a page tells its reader to write."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<language>\S*).*$")
_FILE = re.compile(r"# (?P<name>[\w./-]+\.(?:py|toml))(?P<more>, continued)?$")


@frozen
class Block:
    """One fenced block; `line` is where its content begins, `follows` if only blanks come before."""

    language: str
    text: str
    line: int
    follows: bool


@frozen
class Part:
    """A block that belongs into a file: its whole beginning, or what comes next in it."""

    name: str
    text: str
    is_continued: bool


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text."""
    lines = text.splitlines()
    number, end = 0, -1
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        follows = end >= 0 and not any(line.strip() for line in lines[end + 1 : number])
        start, indent = number + 1, len(fence["indent"])
        number = end = next(
            at for at in range(start, len(lines)) if lines[at].strip() == fence["ticks"]
        )
        content = "".join(f"{line[indent:]}\n" for line in lines[start:number])
        yield Block(fence["language"], content, start, follows)
        number += 1


def part_of_file(block: Block) -> Part | None:
    """What a block adds to a file, if its first line is a comment that names one."""
    first, _, rest = block.text.partition("\n")
    found = _FILE.match(first)
    return None if found is None else Part(found["name"], rest, bool(found["more"]))


def files(text: str) -> dict[str, str]:
    """The files of a page, each put together from its blocks."""
    made: dict[str, str] = {}
    for found in filter(None, map(part_of_file, blocks(text))):
        assert found.is_continued == (found.name in made), f"{found.name} begins twice, or never"
        made[found.name] = f"{made[found.name]}\n{found.text}" if found.is_continued else found.text
    return made


def shell_lines(text: str) -> list[str]:
    """The commands of the console blocks that are not run as examples, without their prompt."""
    return [
        line.removeprefix("$ ")
        for block in blocks(text)
        if block.language == "{code-block}"
        for line in block.text.splitlines()
        if line.startswith("$ ")
    ]
