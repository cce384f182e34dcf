"""A test for a guest that cannot be interrupted."""

from __future__ import annotations

import signal
import time


def test_that_heeds_no_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(1000)
