"""The examples of the documentation and of the READMEs, run page by page on the simulated host.

On each page, in order: a ```python block runs, in one namespace a page; one whose first line is a
comment with a file's name is written to that file instead, to be imported by later ones; with
``, continued`` after the name it is added to the file. A ```text block right after it is what it
prints, with ``...`` for anything. ```toml blocks have to load. In ```console blocks the ``$ vfiocore`` commands run, and print what follows them. What must not run
is written as a ```{code-block} directive.

Where an example opens this machine's devices, it gets those of the simulated one: that nothing
but the host has to change is the promise.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from .fences import Block, blocks, part_of_file

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *(path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts),
        *ROOT.glob("plugins/**/README.md"),
    ]
)

_TOPOLOGY = {"pci", "platform", "subchannel", "ap_matrix", "mdev"}


@define
class Page:
    """One page being run."""

    path: Path
    folder: Path
    capture: pytest.CaptureFixture[str]
    namespace: dict[str, Any] = field(factory=dict)

    def run(self) -> None:
        printed: str | None = None
        for block in blocks(self.path.read_text()):
            if block.language == "python":
                printed = self._python(block)
            elif block.language == "text" and block.follows and printed is not None:
                self._compare(block, block.text, printed)
            elif block.language == "toml":
                self._toml(block)
            elif block.language == "console":
                self._console(block)

    def _python(self, block: Block) -> str:
        found = part_of_file(block)
        if found is not None:
            file = self.folder / found.name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a" if found.is_continued else "w") as opened:
                opened.write(f"\n{found.text}")
            return ""
        self.capture.readouterr()
        source = "\n" * block.line + block.text  # tracebacks name the line of the page
        exec(compile(source, str(self.path), "exec"), self.namespace)
        return self.capture.readouterr().out

    def _toml(self, block: Block) -> None:
        from vfiocore import Framework
        from vfiocore.config import load_toml
        from vfiocore_sim.topology import Topology

        tables = tomllib.loads(block.text)
        if _TOPOLOGY & tables.keys():
            Topology.from_toml(block.text)
        elif not {"project", "tool"} & tables.keys():
            Framework().validate(load_toml(block.text))

    def _console(self, block: Block) -> None:
        for command, wanted in commands(block.text):
            self.capture.readouterr()
            _run_command(command)
            if wanted:
                self._compare(block, wanted, self.capture.readouterr().out)

    def _compare(self, block: Block, wanted: str, found: str) -> None:
        checker = doctest.OutputChecker()
        if not checker.check_output(wanted, found, doctest.ELLIPSIS):
            pytest.fail(f"{self.path}:{block.line}: expected\n{wanted}\nfound\n{found}")


def commands(text: str) -> Iterator[tuple[list[str], str]]:
    """The ``$ vfiocore`` commands of a console block, each with the output that is shown."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        # A line that ends in a backslash goes on in the next one.
        joined = part.replace("\\\n", " ")
        line, _, output = joined.partition("\n")
        words = shlex.split(line, comments=True)
        if words[:1] == ["vfiocore"]:
            yield words[1:], output


def _run_command(arguments: list[str]) -> None:
    from vfiocore.cli.app import run

    with pytest.raises(SystemExit) as stop:
        run(arguments)
    assert not stop.value.code, f"vfiocore {shlex.join(arguments)} ended with {stop.value.code}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_the_page_run_and_print_what_it_says(
    path: Path,
    scratch: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vfiocore_sim.host import SimHost

    monkeypatch.setattr("vfiocore.framework.LinuxHost", SimHost)
    Page(path, scratch, capsys).run()


@pytest.mark.parametrize("name", ["backend", "frontend", "quota"])
def test_the_readme_of_an_example_runs_when_it_is_installed(
    name: str,
    scratch: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vfiocore_sim.host import SimHost

    example = ROOT / "examples" / name
    project = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    ((entry, value),) = project["entry-points"]["vfiocore"].items()
    package = value.partition(".")[0]
    shutil.copytree(example / package, scratch / package)
    facts = scratch / f"{package}-{project['version']}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (facts / "entry_points.txt").write_text(f"[vfiocore]\n{entry} = {value}\n")
    monkeypatch.setattr("vfiocore.framework.LinuxHost", SimHost)
    Page(example / "README.md", scratch, capsys).run()


# -- the harness itself can fail -------------------------------------------------------------------
def test_a_page_with_an_example_that_prints_something_else_fails(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = scratch / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(pytest.fail.Exception, match="expected"):
        Page(page, scratch, capsys).run()


def test_a_page_with_a_broken_example_fails(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = scratch / "page.md"
    page.write_text("```python\nimport vfiocore.nothing\n```\n")
    with pytest.raises(ModuleNotFoundError):
        Page(page, scratch, capsys).run()


def test_a_command_that_fails_fails_the_page(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = scratch / "page.md"
    page.write_text("```console\n$ vfiocore show nothing-of-this-name --host sim\n```\n")
    with pytest.raises(AssertionError, match="ended with 3"):
        Page(page, scratch, capsys).run()
