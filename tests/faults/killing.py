"""Run in an interpreter of its own: ``python -m faults.killing PATH EVERY``.

Walks a path in one child process after the other. The first walks to the end; each of those that
follow kills itself with SIGKILL, just before its EVERY-th call, twice that, and so on; and after each
of them another one walks to the end. Prints a line for each death: the number of the call, how the
one who should die ended, how the next one did.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

from .faulty import FaultyHost
from .path import PATHS, Path, framework


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ending_of(act: Callable[[], object]) -> int:
    """How a child process that does `act` ends: its exit code, or minus the signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        act()
    except BaseException:  # noqa: BLE001 - nobody is above
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def number_of_calls(path: Path) -> int:
    reading, writing = os.pipe()
    ending_of(lambda: os.write(writing, b"%d" % len(path.steps())))
    return int(os.read(reading, 16))


def main(name: str, every: int) -> None:
    (path,) = (path for path in PATHS if str(path) == name)
    framework()  # what is installed is looked for once
    for index in range(0, number_of_calls(path), every):
        host = FaultyHost(path.host(), index, kill)
        death = ending_of(lambda host=host: path.walk(host))  # type: ignore[misc]
        after = ending_of(lambda: path.walk(FaultyHost(path.host())))
        sys.stdout.write(f"{index} {death} {after}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
