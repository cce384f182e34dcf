"""A job in a guest of each of several machines, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from .bed import Bed, Say
from .guest import Ending, Limits, Report, Show


@dataclass(frozen=True)
class Runs:
    """How jobs are run.

    Attributes:
        results: Gets a folder for each machine.
        limits: How long each guest may take.
        at_once: How many guests may run at the same time.
        show: Gets what guests print; with the machine's name before each line if several run.
        say: Told of what else happens.
    """

    results: Path
    limits: Limits
    at_once: int
    show: Show
    say: Say

    def run(self, beds: Sequence[Bed], job: str) -> Iterator[tuple[Bed, Report]]:
        """Run a job in a guest of each; reports come as guests end, and all are ended with this."""
        several = self.at_once > 1 and len(beds) > 1
        with ThreadPoolExecutor(self.at_once) as pool:
            running = {pool.submit(self._run_one, bed, job, several): bed for bed in beds}
            try:
                for done in as_completed(running):
                    yield running[done], done.result()
            finally:
                self.limits.stop.set()
                pool.shutdown(cancel_futures=True)

    def _run_one(self, bed: Bed, job: str, several: bool) -> Report:
        name = bed.machine.name
        lines = Lines(f"{name}| " if several else "", self.show)
        self.say(f"{name}: {bed.machine.about}; {bed.kernel}, {bed.accelerator}")
        report = bed.run(job, self.results / name, self.limits, lines.add)
        if report.ending is Ending.NEVER_UP and not report.emulator:
            # An emulated timer that comes too late on a busy host panics a kernel while it boots.
            self.say(f"{name}: the guest {report.ending.value}; it is given one more chance")
            report = bed.run(job, self.results / name, self.limits, lines.add)
        lines.end()
        return report


@dataclass
class Lines:
    """Shows whole lines of one of several, each with a word before it."""

    head: str
    show: Show
    _begun: str = field(default="", init=False)

    def add(self, text: str) -> None:
        """Show the lines that are complete; keep the rest for the next time."""
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self.show("".join(f"{self.head}{line}\n" for line in lines))

    def end(self) -> None:
        """Show what came last, if it was not a whole line."""
        if self._begun:
            self.add("\n")
