"""A pytest plugin: whoever reaches for the network, for devices, or is root, fails.

Everybody may have the few nodes that are no devices of the machine.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

HARMLESS = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/tty", "/dev/shm/")

NOBODY = 65534


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        path = arguments[0]
        if path.startswith("/dev/") and not path.startswith(HARMLESS):
            raise PermissionError(f"a test opens {path}")
    if event in {"socket.connect", "socket.bind"} and arguments[0].family != socket.AF_UNIX:
        raise PermissionError(f"a test uses the network: {arguments[1:]}")
    if event == "socket.getaddrinfo":
        raise PermissionError(f"a test asks for {arguments[0]}")


def pytest_configure() -> None:
    sys.addaudithook(watch)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        if not os.access(os.__file__, os.R_OK, effective_ids=True):
            os.seteuid(0)  # an interpreter in root's own home runs for nobody else


def pytest_report_header() -> str:
    return f"away from the machine, as user {os.geteuid()}"
