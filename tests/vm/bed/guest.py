"""One guest from power on to power off, within time limits, and nothing of it left behind."""

from __future__ import annotations

import enum
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.1
POWER_OFF_SECONDS = 20.0

Show = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """How long a guest may take, in seconds.

    Attributes:
        boot: From power on until its init is ready.
        whole: From power on until it is off.
        stop: When it is set the guest is ended.
    """

    boot: float = 180
    whole: float = 2400
    stop: threading.Event = field(default_factory=threading.Event, compare=False)


class Ending(enum.Enum):
    """How a guest came to its end."""

    DONE = "done"
    DIED = "died"
    NEVER_UP = "did not come up"
    TOO_LONG = "took too long"
    STOPPED = "was stopped"


@dataclass(frozen=True)
class Report:
    """What a guest gave back.

    Attributes:
        ending: How it ended.
        exit_code: The job's, if it was `DONE`.
        seconds: From power on to power off.
        kernel: The guest's ``uname -r``; empty if it never came up.
        folder: Where its files are.
        emulator: What QEMU said.
    """

    ending: Ending
    exit_code: int | None
    seconds: float
    kernel: str
    folder: Path
    emulator: str = field(repr=False, default="")

    @property
    def ok(self) -> bool:
        """True if the job ran to its end and succeeded."""
        return self.ending is Ending.DONE and self.exit_code == 0

    @property
    def output(self) -> str:
        """What the job printed."""
        return _read(self.folder / "output")

    @property
    def console(self) -> str:
        """What the kernel and the init printed."""
        return _read(self.folder / "console")

    @property
    def junit(self) -> Path | None:
        """The job's JUnit report, if it wrote one."""
        path = self.folder / "junit.xml"
        return path if path.is_file() else None


def run(command: Sequence[str], folder: Path, limits: Limits, show: Show) -> Report:
    """Run a guest until it is off or a limit is reached.

    Args:
        command: QEMU with its arguments.
        folder: What the guest has mounted at ``/run/bed``: the files that init writes there tell
            how far it is.
        limits: How long it may take.
        show: Gets the job's output as it comes.
    """
    begin = time.monotonic()
    follow = _Follower(folder / "output", show)
    with _emulator(command, folder / "emulator") as process:
        ending = _watch(process, folder, limits, follow)
    follow.rest()
    return Report(
        ending=ending,
        exit_code=_exit_code(folder) if ending is Ending.DONE else None,
        seconds=time.monotonic() - begin,
        kernel=_read(folder / "kernel").strip(),
        folder=folder,
        emulator=_read(folder / "emulator").strip(),
    )


def attach(command: Sequence[str]) -> int:
    """Run a guest on this terminal until it is off; QEMU's exit code."""
    with _child(command) as process:
        return process.wait()


def _watch(
    process: subprocess.Popen[bytes], folder: Path, limits: Limits, follow: _Follower
) -> Ending:
    begin = time.monotonic()
    while True:
        off = _is_off(process)
        follow.rest()
        if (folder / "status").exists():
            _wait_for_power_off(process)
            return Ending.DONE
        up = (folder / "kernel").exists()
        if off:
            return Ending.DIED if up else Ending.NEVER_UP
        if limits.stop.is_set():
            return Ending.STOPPED
        elapsed = time.monotonic() - begin
        if not up and elapsed > limits.boot:
            return Ending.NEVER_UP
        if elapsed > limits.whole:
            return Ending.TOO_LONG


def _is_off(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _wait_for_power_off(process: subprocess.Popen[bytes]) -> None:
    """Give a guest that has nothing more to say the time to say so."""
    try:
        process.wait(POWER_OFF_SECONDS)
    except subprocess.TimeoutExpired:
        return  # the job's result stands; the emulator is ended in any case


@contextmanager
def _emulator(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as output,
        _child(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own, so that whatever it started can be ended with it.
            start_new_session=True,
        ) as process,
    ):
        yield process


@contextmanager
def _child(command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    # Even if this process is killed the emulator does not outlive it.
    words = ["setpriv", "--pdeathsig", "KILL", *command]
    process: subprocess.Popen[bytes] = subprocess.Popen(words, **options)  # type: ignore[call-overload] # options are Popen's own
    try:
        yield process
    finally:
        _end(process, whole_group="start_new_session" in options)


def _end(process: subprocess.Popen[bytes], *, whole_group: bool) -> None:
    if process.poll() is None:
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


class _Follower:
    """Shows what is appended to a file."""

    def __init__(self, path: Path, show: Show) -> None:
        self._path = path
        self._show = show
        self._position = 0

    def rest(self) -> None:
        """Show what has come since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        if data:
            self._position += len(data)
            self._show(data.decode(errors="replace"))


def _exit_code(folder: Path) -> int:
    return int(_read(folder / "status"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
