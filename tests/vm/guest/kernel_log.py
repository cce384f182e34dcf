"""The kernel's log: what it says while something is done."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager

NODE = "/dev/kmsg"
RECORD_SIZE = 8192
"""The kernel gives one record with each read, and none is longer."""


class KernelLog:
    """The log from a moment on."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.lines: list[str] = []

    def says(self, pattern: str, seconds: float) -> bool:
        """Whether a regular expression is found in a line, now or soon."""
        deadline = time.monotonic() + seconds
        while True:
            self._read()
            if any(re.search(pattern, line) for line in self.lines):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            select.select([self._fd], [], [], left)

    def _read(self) -> None:
        while True:
            try:
                record = os.read(self._fd, RECORD_SIZE)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # lines that were overwritten before they were read
            self.lines.append(record.decode(errors="replace").partition(";")[2].strip())


@contextmanager
def kernel_log() -> Iterator[KernelLog]:
    """What the kernel says from now on."""
    fd = os.open(NODE, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.lseek(fd, 0, os.SEEK_END)
        yield KernelLog(fd)
    finally:
        os.close(fd)
