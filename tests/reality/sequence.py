"""The sequences: functions that make calls, registered under a sentence."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from vfiocore.host.protocol import Host

from .script import Script

FOLDER = "tests.reality.sequences"

CAP_IPC_LOCK = 14
CAP_SYS_RAWIO = 17
CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Privileges:
    """What the process may do while a sequence runs.

    Attributes:
        without: A capability that it lacks.
        memlock: How much memory it may lock, in bytes.
    """

    without: int | None = None
    memlock: int | None = None


@dataclass(frozen=True)
class Sequence:
    """Calls that are made on every machine.

    Attributes:
        name: Its topic and what it is about.
        steps: Makes the calls.
        privileges: What the process may do meanwhile.
    """

    name: str
    steps: Callable[[Script], object]
    privileges: Privileges = Privileges()

    def run(self, host: Host) -> Script:
        """Make the calls on a machine, then close everything that is open."""
        script = Script(host)
        try:
            self.steps(script)
        finally:
            script.end()
        return script


_found: dict[str, Sequence] = {}


def sequence(steps: Callable[[Script], object]) -> Callable[[Script], object]:
    """A function is a sequence; its name is the sentence."""
    return _add(steps, _words(steps), Privileges())


def with_privileges(
    privileges: Privileges,
) -> Callable[[Callable[[Script], object]], Callable[[Script], object]]:
    """A function is a sequence that runs with these privileges."""
    return lambda steps: _add(steps, _words(steps), privileges)


def sequences(
    cases: Mapping[str, Mapping[str, Any]],
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """A function is several sequences: each with arguments of its own, which are given a name."""

    def decorate(steps: Callable[..., object]) -> Callable[..., object]:
        for name, arguments in cases.items():
            _add(
                _bound(steps, arguments), f"{_words(steps)}: {name}", Privileges(), steps.__module__
            )
        return steps

    return decorate


def all_sequences() -> dict[str, Sequence]:
    """Every sequence, by name."""
    for module in iter_modules(import_module(FOLDER).__path__):
        import_module(f"{FOLDER}.{module.name}")
    return dict(sorted(_found.items()))


def _bound(
    steps: Callable[..., object], arguments: Mapping[str, Any]
) -> Callable[[Script], object]:
    return lambda script: steps(script, **arguments)


def _add(
    steps: Callable[[Script], object], words: str, privileges: Privileges, module: str = ""
) -> Callable[[Script], object]:
    topic = (module or steps.__module__).rpartition(".")[2].replace("_", " ")
    name = f"{topic}: {words}"
    assert name not in _found, f"there are two sequences {name!r}"
    _found[name] = Sequence(name, steps, privileges)
    return steps


def _words(steps: Callable[..., object]) -> str:
    return steps.__name__.replace("_", " ")


# -- privileges of this process --------------------------------------------------------------------
@contextmanager
def restricted(privileges: Privileges) -> Iterator[None]:
    """Give up privileges for a while: capabilities that are in effect, and the soft limit."""
    with _limit(privileges.memlock), _without(privileges.without):
        yield


@contextmanager
def _limit(size: int | None) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if size is not None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


@contextmanager
def _without(capability: int | None) -> Iterator[None]:
    if capability is None:
        yield
        return
    # Version 3 of the header, this process; then effective, permitted, inheritable, twice.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, after = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    _capabilities("capget", header, before)
    after[:] = list(before)
    after[0] &= ~(1 << capability)
    _capabilities("capset", header, after)
    try:
        yield
    finally:
        _capabilities("capset", header, before)


def _capabilities(call: str, header: Any, data: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), call)(header, data):
        raise OSError(ctypes.get_errno(), call)
