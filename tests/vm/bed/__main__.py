"""Run the tests of ``tests/vm/guest`` in guests with real kernels: ``make test-vm``."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .acceleration import EMULATION
from .architectures import ARCHITECTURES
from .bed import prepare
from .benches import PROGRAMS, compiled, counting
from .errors import BedError
from .folders import REPOSITORY, RESULTS
from .guest import Ending, Limits, Report
from .machines import MACHINES, Machine
from .proof import PAGE, page
from .runs import Runs

GUEST_TESTS = "tests/vm/guest"
CONSOLE_LINES = 40
CANNOT_RUN = 2
GRACE_SECONDS = 10


def main() -> int:
    """The command; 0 if all is well, 1 if something failed, 2 if it could not be tried."""
    # Whoever stops it has its guests stopped too, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = parser().parse_args()
    try:
        return int(options.run(options))
    except BedError as error:
        say(str(error))
        return CANNOT_RUN
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser(prog="python -m tests.vm.bed", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    test = commands.add_parser("test", help="run tests in guests, one guest for each machine")
    _add_choice(test)
    test.add_argument("--results", type=Path, default=RESULTS, help="folder for reports")
    test.add_argument("--boot-seconds", type=float, default=Limits.boot)
    test.add_argument("--guest-seconds", type=float, default=Limits.whole)
    test.add_argument(
        "--at-once",
        type=int,
        choices=range(1, 65),
        metavar="N",
        default=os.cpu_count() or 1,
        help="how many guests may run at a time, 1 to 64; as many as there are CPUs if left out",
    )
    test.add_argument("--test-seconds", type=float, default=120, help="for each test")
    test.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    test.set_defaults(run=run_tests)

    shell = commands.add_parser("shell", help="a shell in a guest, on this terminal")
    _add_choice(shell)
    shell.set_defaults(run=run_shell)

    bench = commands.add_parser("bench", help="run a program of bench/ in a guest")
    bench.add_argument("program", choices=PROGRAMS)
    bench.add_argument("--machine", choices=sorted(MACHINES), default="x86_64")
    bench.add_argument("--results", type=Path, default=RESULTS, help="folder for reports")
    bench.add_argument("--boot-seconds", type=float, default=Limits.boot)
    bench.add_argument("--guest-seconds", type=float, default=7200)
    bench.add_argument("arguments", nargs="*", help="arguments for the program, after --")
    bench.set_defaults(run=run_bench)

    proof = commands.add_parser("proof", help="write the page about what was proved")
    proof.add_argument("--results", type=Path, default=RESULTS, help="folder with reports of all")
    proof.set_defaults(run=write_proof)

    machines = commands.add_parser("machines", help="list the machines")
    machines.set_defaults(run=list_machines)
    return top


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument("--arch", action="append", default=[], choices=sorted(ARCHITECTURES))
    command.add_argument("--machine", action="append", default=[], choices=sorted(MACHINES))
    command.add_argument(
        "--accel", choices=["kvm", "tcg"], help="what runs guests; KVM where it works if left out"
    )


def chosen(options: argparse.Namespace) -> list[Machine]:
    """The machines that the options name; all of them if they name none."""
    if not options.arch and not options.machine:
        return list(MACHINES.values())
    return [
        machine
        for machine in MACHINES.values()
        if machine.name in options.machine or machine.architecture.name in options.arch
    ]


# -- test ------------------------------------------------------------------------------------------
def run_tests(options: argparse.Namespace) -> int:
    """Run pytest in a guest of each machine that is chosen; every one, even after a failure."""
    limits = Limits(options.boot_seconds, options.guest_seconds)
    job = pytest_job(options.pytest, options.test_seconds)
    beds = [prepare(machine, say, options.accel) for machine in chosen(options)]
    runs = Runs(options.results.resolve(), limits, options.at_once, show, say)
    verdicts = []
    for bed, report in runs.run(beds, job):
        verdicts.append(judge(bed.machine, report))
        explain(verdicts[-1], report)
    summarize(verdicts)
    if all(verdict.ran_nothing for verdict in verdicts):
        say("no test was run")
        return 1
    return int(not all(verdict.ok for verdict in verdicts))


def pytest_job(arguments: Sequence[str], test_seconds: float) -> str:
    """The script that runs pytest in a guest."""
    words = [
        "exec",
        "python3",
        "-m",
        "pytest",
        # The source tree is read-only.
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.vm.guest.time_limit",
        "--junitxml=/run/bed/junit.xml",
        f"--color={'yes' if sys.stdout.isatty() else 'no'}",
        # A test that no signal ends has had its time too; what all threads did is shown.
        f"--override-ini=faulthandler_timeout={test_seconds + GRACE_SECONDS:g}",
        "--override-ini=faulthandler_exit_on_timeout=true",
        *arguments,
    ]
    if not any(names_a_test(word) for word in arguments):
        words.append(GUEST_TESTS)
    return f"export VFIOCORE_VM_TEST_SECONDS={test_seconds:g}\n{shlex.join(words)}"


def names_a_test(argument: str) -> bool:
    """True for an argument of pytest that says where tests are."""
    return (REPOSITORY / argument.partition("::")[0]).exists()


@dataclass(frozen=True)
class Verdict:
    """How a machine's guest did, in words."""

    machine: str
    ok: bool
    ran_nothing: bool
    text: str


NO_TESTS = 5
"""pytest's exit code when it was left with no test, as by ``-k`` on a machine without such."""


def judge(machine: Machine, report: Report) -> Verdict:
    """What a report means."""
    took = f"{report.seconds:.0f} s, Linux {report.kernel or '?'}"
    if report.ending is not Ending.DONE:
        return Verdict(machine.name, False, False, f"the guest {report.ending.value} ({took})")
    if report.exit_code == NO_TESTS:
        return Verdict(machine.name, True, True, f"no test for this machine ({took})")
    words = "passed" if report.ok else f"failed, exit code {report.exit_code}"
    return Verdict(machine.name, report.ok, False, f"{words} ({took})")


def explain(verdict: Verdict, report: Report) -> None:
    """Show why a guest did not get to its end."""
    if report.ending is Ending.DONE:
        return
    say(f"{verdict.machine}: {verdict.text}")
    if report.emulator:
        say(f"QEMU said:\n{report.emulator}")
    lines = report.console.splitlines()[-CONSOLE_LINES:]
    say("the end of its console:\n" + "\n".join(lines) if lines else "its console is empty")
    say(f"all of it: {report.folder / 'console'}")


def summarize(verdicts: Sequence[Verdict]) -> None:
    """One line for each machine."""
    width = max(len(verdict.machine) for verdict in verdicts)
    for verdict in verdicts:
        say(f"{verdict.machine:{width}}  {verdict.text}")


# -- bench -----------------------------------------------------------------------------------------
def run_bench(options: argparse.Namespace) -> int:
    """Run a program of ``bench/`` in a guest; what takes time is measured in instructions."""
    machine = MACHINES[options.machine]
    words = ["exec", "python3", "-m", f"bench.{options.program}"]
    accelerator = None
    if options.program == "floor":
        words.append(compiled(machine.architecture, say))
        machine, accelerator = counting(machine), EMULATION
    limits = Limits(options.boot_seconds, options.guest_seconds)
    bed = prepare(machine, say, accelerator)
    runs = Runs(options.results.resolve() / "bench", limits, 1, show, say)
    ((_, report),) = runs.run([bed], shlex.join([*words, *options.arguments]))
    verdict = judge(machine, report)
    explain(verdict, report)
    summarize([verdict])
    return int(not verdict.ok)


# -- the others ------------------------------------------------------------------------------------
def run_shell(options: argparse.Namespace) -> int:
    """A shell in a guest of the machine that is chosen."""
    machines = chosen(options)
    if not options.arch and not options.machine:
        raise BedError("which machine? give --arch or --machine", "make vm-shell ARCH=x86_64")
    bed = prepare(machines[0], say, options.accel)
    say(f"{machines[0].name}: leave the shell to power off")
    return bed.shell(RESULTS / f"{machines[0].name}-shell")


def write_proof(options: argparse.Namespace) -> int:
    """Write the page about what was proved, from the last reports of all machines."""
    (REPOSITORY / PAGE).write_text(page(options.results, REPOSITORY), encoding="utf-8")
    say(f"written: {PAGE}")
    return 0


def list_machines(_: argparse.Namespace) -> int:
    """List the machines."""
    for machine in MACHINES.values():
        show(f"{machine.name:18} {machine.about}: {' '.join(sorted(machine.fixtures))}\n")
    return 0


def say(text: str) -> None:
    """Tell the user; what guests print goes elsewhere."""
    sys.stderr.write(f"vm: {text}\n")
    sys.stderr.flush()


def show(text: str) -> None:
    """Pass on what a guest prints."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
