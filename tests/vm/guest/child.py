"""Children of a test: processes of their own that tell how far they are, and may be killed there."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str], None]


class Child:
    """A forked process, as its parent sees it.

    Attributes:
        pid: Its number.
    """

    def __init__(self, pid: int, reader: int) -> None:
        self.pid = pid
        self._lines = os.fdopen(reader, encoding="utf-8")

    def says(self) -> str:
        """The next that it tells; empty when it has ended."""
        return self._lines.readline().rstrip("\n")

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has taken everything down."""
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Wait for its end; the exit code, or the negative signal."""
        self._lines.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


@contextmanager
def forked(work: Callable[[Tell], None]) -> Iterator[Child]:
    """Run `work` in a child, with a way of telling its parent; what it raises is told as well."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run(work, writer)
    os.close(writer)
    child = Child(pid, reader)
    try:
        yield child
    finally:
        if _is_there(pid):
            child.kill()


def _run(work: Callable[[Tell], None], writer: int) -> None:
    """The child's whole life: nothing of the test's own clean-up may run in it."""

    def tell(text: str) -> None:
        os.write(writer, text.replace("\n", " ").encode() + b"\n")

    code = 1
    try:
        work(tell)
        code = 0
    except BaseException:  # noqa: BLE001 - the parent shall read it
        tell(traceback.format_exc())
    finally:
        os._exit(code)


def _is_there(pid: int) -> bool:
    """True until somebody has waited for it."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
