"""File descriptors that somebody else opened: by number, or by the name they were handed over with.

An fd that was passed in is never closed by the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from attrs import define, field

from vfiocore.errors import ConfigError, Problem
from vfiocore.undo import UndoStack

if TYPE_CHECKING:
    from vfiocore.config.types import FdRef
    from vfiocore.host import Host

FIRST_LISTEN_FD = 3
"""Where systemd starts to hand over fds (SD_LISTEN_FDS_START)."""

MESSAGE_SIZE = 1 << 16
"""More bytes than the names of a message's fds can sensibly need."""

MAX_FDS = 253
"""The most that one SCM_RIGHTS message carries (net/core/scm.c: SCM_MAX_FD)."""


@define(eq=False)
class FdTable:
    """Names for passed fds: registered by an embedder, by systemd, or received over a socket."""

    _named: dict[str, int] = field(factory=dict)

    @classmethod
    def from_listen_fds(cls, environ: Mapping[str, str], pid: int) -> Self:
        """The fds that systemd passed to this process (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES).

        An fd without a name can be given by number, and so can one whose name is a number.

        Raises:
            ConfigError: the variables cannot be read, or two fds have one name.
        """
        table = cls()
        if environ.get("LISTEN_PID") != str(pid):
            return table
        count = environ.get("LISTEN_FDS", "0")
        if not re.fullmatch("[0-9]{1,9}", count):
            raise ConfigError([Problem("LISTEN_FDS", f"{count!r} is not a number of fds")])
        names = environ.get("LISTEN_FDNAMES", "").split(":")[: int(count)]
        for fd, name in enumerate(names, FIRST_LISTEN_FD):
            if not name or name[0].isdigit():
                continue
            try:
                table.register(name, fd)
            except ValueError as error:
                raise ConfigError([Problem("LISTEN_FDNAMES", str(error))]) from None
        return table

    def register(self, name: str, fd: int) -> None:
        """Give `fd` a name that configuration can use; the caller keeps it open.

        Raises:
            ValueError: the name starts with a digit, or another fd has it.
        """
        if not name or name[0].isdigit():
            raise ValueError(f"an fd cannot be named {name!r}: names do not start with a digit")
        if self._named.setdefault(name, fd) != fd:
            raise ValueError(f"fd {self._named[name]} is named {name!r} already")

    def receive(self, host: Host, sock: int) -> list[str]:
        """Receive one message of fds over the Unix socket `sock` and register them.

        The message's bytes are a JSON list with a name for each fd. The caller owns the fds.

        Returns:
            The names; none when the other side has closed the socket.

        Raises:
            ValueError: the names do not fit the fds, or cannot be registered; then the fds of
                the message are closed again, and none of its names is known.
            OSError: EMSGSIZE, more than 253 fds; ENOTSOCK and others from recvmsg.
        """
        data, fds = host.recv_fds(sock, MESSAGE_SIZE, MAX_FDS)
        with UndoStack() as undo:
            for fd in fds:
                undo.push(host.close, fd)
            names = _names(data)
            if len(names) != len(fds):
                raise ValueError(f"{len(fds)} fds came with {len(names)} names")
            for name, fd in zip(names, fds, strict=True):
                self.register(name, fd)
                undo.push(self._named.pop, name)
        return names

    def resolve(self, reference: FdRef, path: str) -> int:
        """The fd that a property names.

        Raises:
            ConfigError: nothing was passed under the name.
        """
        if reference.number is not None:
            return reference.number
        name = reference.name or ""
        if name not in self._named:
            known = ", ".join(sorted(self._named)) or "none"
            message = f"no fd named {name!r} was passed; named: {known}"
            hint = "pass it (LISTEN_FDNAMES, a socket), register it (FdTable), or give its number"
            raise ConfigError([Problem(path, message, hint)])
        return self._named[name]


def _names(data: bytes) -> list[str]:
    if not data:
        return []
    try:
        names = json.loads(data)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the message is no JSON list of names")
    return names
