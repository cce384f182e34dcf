"""Record what a real kernel answers: ``python -m tests.reality.record [--machine NAME] [-k WORD]``.

Boots a guest of ``tests/vm`` (``x86_64`` if none is named) with the kernel that `VFIOCORE_KERNELS`
names, runs every sequence there, or those whose name has WORD, and writes
``tests/reality/recorded/linux-VERSION-MACHINE.json``. Do that after adding a sequence, and for a new
kernel; then read what has changed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.vm.bed.bed import prepare
from tests.vm.bed.folders import RESULTS
from tests.vm.bed.guest import Limits, Report
from tests.vm.bed.machines import MACHINES

from .differences import sequences_of
from .machines import BOARDS
from .recordings import dump, load, recording_of

SECONDS = 1200


def main() -> int:
    """The command; 0 if there is a new recording."""
    # Whoever stops it has its guest stopped too, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = parser().parse_args()
    bed = prepare(MACHINES[options.machine], say)
    job = f"exec python3 -m tests.reality.in_guest '{options.word}' /run/bed/answers.json"
    results = (RESULTS / f"{options.machine}-reality").resolve()
    report = bed.run(job, results, Limits(whole=SECONDS), show)
    if not report.ok:
        say(f"the guest {report.ending.value}, exit code {report.exit_code}: {report.folder}")
        return 1
    store(recording_of(report.kernel, options.machine), report, sequences_of(options.machine))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    found = argparse.ArgumentParser(prog="python -m tests.reality.record", description=__doc__)
    found.add_argument("--machine", default="x86_64", choices=sorted(BOARDS))
    found.add_argument("-k", dest="word", default="", help="only sequences with this in their name")
    return found


def store(path: Path, report: Report, names: Iterable[str]) -> None:
    """Put the answers of a guest beside those of sequences that did not run and still exist."""
    kept = load(path) if path.exists() else {}
    answers = {**kept, **load(report.folder / "answers.json")}
    known = {name: answers[name] for name in names if name in answers}
    path.write_text(dump(known), encoding="utf-8")
    say(f"{len(known)} sequences in {path.relative_to(Path.cwd())}")


def show(text: str) -> None:
    """Pass on what the guest prints."""
    sys.stdout.write(text)


def say(text: str) -> None:
    """Tell the user; what the guest prints goes elsewhere."""
    sys.stderr.write(f"reality: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
