"""What real kernels answered: one file for each kernel and machine, one line a sequence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .script import Script

FOLDER = Path(__file__).with_name("recorded")

SIMULATED = "7.2"
"""The version of Linux that the simulated kernel is like."""

Answers = Mapping[str, list[str]]
"""What came of each call, by the name of the sequence."""


def recording_of(release: str, machine: str) -> Path:
    """The recording of a kernel ``7.2.13-vfio``: versions that differ in their patches share it."""
    return FOLDER / f"linux-{'.'.join(release.split('.')[:2])}-{machine}.json"


def load(path: Path) -> Answers:
    """A recording."""
    answers: Answers = json.loads(path.read_text(encoding="utf-8"))
    return answers


def dump(answers: Answers) -> str:
    """A recording's text: sorted, a sequence on each line."""
    lines = [f"{json.dumps(name)}: {json.dumps(answers[name])}" for name in sorted(answers)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def differences(script: Script, recorded: list[str], who: str) -> list[str]:
    """The steps that went otherwise than recorded, each in three lines."""
    missing = "(no such step)"
    found = []
    for step in range(max(len(script.answers), len(recorded))):
        here, there, call = (
            texts[step] if step < len(texts) else missing
            for texts in (script.answers, recorded, script.calls)
        )
        if here != there:
            found.append(f"step {step + 1}: {call}\n  recorded  {there}\n  {who:9} {here}")
    return found
