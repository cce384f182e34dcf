"""``vfiocore plugin``: start a plugin of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from string import Template

import click

import vfiocore
from vfiocore.cli.output import Output
from vfiocore.hookspecs import API_VERSION

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
SUFFIX = ".tmpl"
"""Templates are no Python until they are filled in, and must not be taken for it."""

NEEDS: dict[str, tuple[str, ...]] = {
    "backend": (),
    "device": ("vfiocore-legacy", "vfiocore-sim"),
    "wrapper": ("vfiocore-legacy", "vfiocore-pci", "vfiocore-sim"),
}
"""The kinds of plugins, each with what its tests use."""


@click.group("plugin")
def command() -> None:
    """Start a plugin of your own."""


@command.command("new")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(sorted(NEEDS)),
    default="device",
    show_default=True,
    help="What it brings: a way to devices, a type of device, or something around every backend.",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The folder to put it in; the current one by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def new(output: Output, name: str, kind: str, into: Path, as_json: bool) -> None:
    """Make the distribution vfiocore-NAME: a package whose tests pass, to go on from."""
    output.as_json = as_json
    name = name.removeprefix("vfiocore-")
    if not NAME.fullmatch(name):
        raise click.BadParameter(
            f"{name!r} is not made of lower-case words with hyphens", param_hint="NAME"
        )
    folder = into / f"vfiocore-{name}"
    if folder.exists():
        raise click.BadParameter(f"{folder} is there already", param_hint="NAME")
    made = list(_files(kind, _words(name, kind)))
    for place, text in made:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    output.document("plugin-new", path=str(folder), files=[str(place) for place, _text in made])
    output.text(f"made {folder}; its tests run with:")
    output.text(f"  cd {folder} && pip install -e '.[test]' && pytest")


def _words(name: str, kind: str) -> Mapping[str, str]:
    """What stands in templates as ``${word}``."""
    package = f"vfiocore_{name.replace('-', '_')}"
    major, minor = map(int, vfiocore.__version__.split(".")[:2])
    core = f">={major}.{minor},<{major}.{minor + 1}"
    needs = [*(f"{each}{core}" for each in NEEDS[kind]), f"vfiocore[testing]{core}"]
    return {
        "api": str(API_VERSION),
        "core": core,
        "entry": f"{package}.plugin:plugin" if kind == "wrapper" else f"{package}.plugin",
        "kind": kind,
        "name": name,
        "needs": ", ".join(f'"{each}"' for each in needs),
        "package": package,
        "title": "".join(word.capitalize() for word in name.split("-")),
    }


def _files(kind: str, words: Mapping[str, str]) -> Iterator[tuple[PurePosixPath, str]]:
    """Every file of a new distribution, by its place in it."""
    templates = resources.files("vfiocore.cli") / "templates"
    for part in ("common", kind):
        for place, template in _walk(templates / part, PurePosixPath()):
            text = Template(template.read_text(encoding="utf-8")).substitute(words)
            yield PurePosixPath(str(place).replace("PACKAGE", words["package"])), text


def _walk(folder: Traversable, place: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry, place / entry.name)
        else:
            yield place / entry.name.removesuffix(SUFFIX), entry
