"""Run in an interpreter of its own: what happens while modules are imported, or a session is used.

Prints one line for each thing that happened. What the modules of others do is not looked for: those
are imported before the watch begins.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OTHERS = (
    "asyncio", "attrs", "click", "ctypes", "fcntl", "importlib.metadata", "json", "pluggy", "pytest",
    "resource", "rich.console", "rich.table", "select", "socket", "structlog", "tomllib", "tempfile",
)  # fmt: skip

PACKAGES = (
    "vfiocore", "vfiocore_legacy", "vfiocore_iommufd", "vfiocore_sim",
    "vfiocore_pci", "vfiocore_platform", "vfiocore_ap", "vfiocore_ccw",
)  # fmt: skip

IMPORT_SYSTEM = ("<frozen importlib", "<frozen zipimport")

PROCESS = (
    "os.putenv", "os.unsetenv", "os.system", "os.fork", "os.exec", "os.posix_spawn", "subprocess.",
    "socket.", "syslog.", "_thread.start_new_thread",
)  # fmt: skip
"""Audit events of what changes the process for others, or leaves it."""

FILES = (
    "open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "tempfile.",
    "fcntl.", "mmap.", "time.sleep",
)  # fmt: skip

BETWEEN = ("__main__", "os", "collections.abc", "_collections_abc")
"""Modules through which somebody asks for a variable."""


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")


class Watch:
    """Says what happens, from `begin` on."""

    def __init__(self, events: tuple[str, ...]) -> None:
        self.on = False
        self.events = events
        sys.addaudithook(self._audit)

    def begin(self) -> None:
        self.before = facts()
        threading.Thread.start = self._instead("a thread starts", threading.Thread.start)  # type: ignore[method-assign]
        atexit.register = self._instead("atexit", atexit.register)
        signal.signal = self._instead("signal", signal.signal)
        os.environ = Environment(self.say, os.environ)  # type: ignore[assignment]  # noqa: B003 - it passes on
        self.on = True

    def end(self) -> None:
        self.on = False
        after = facts()
        for name, value in self.before.items():
            if after[name] != value:
                tell(f"{name}: {value} became {after[name]}")

    def say(self, text: str) -> None:
        """Print `text`, if it is our code that asked."""
        asker = next(name for name in callers() if name not in BETWEEN)
        if self.on and asker.startswith("vfiocore"):
            tell(f"{asker}: {text}")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event.startswith(self.events) and not by_the_import_system():
            self.on = False  # what is printed is an event as well
            tell(f"{event} {args}")
            self.on = True

    def _instead(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **kwargs: Any) -> Any:
            self.say(f"{what}: {args}")
            return function(*args, **kwargs)

        return told


class Environment(MutableMapping[str, str]):
    """``os.environ`` that tells who looks."""

    def __init__(self, say: Callable[[str], None], real: MutableMapping[str, str]) -> None:
        self._say = say
        self._real = real

    def __getitem__(self, name: str) -> str:
        self._say(f"reads ${name}")
        return self._real[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._say(f"sets ${name}")
        self._real[name] = value

    def __delitem__(self, name: str) -> None:
        self._say(f"removes ${name}")
        del self._real[name]

    def __iter__(self) -> Iterator[str]:
        self._say("reads the whole environment")
        return iter(self._real)

    def __len__(self) -> int:
        return len(self._real)


def callers() -> Iterator[str]:
    """The modules that the call at hand comes from, the nearest first."""
    frame = sys._getframe(2)
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back  # type: ignore[assignment]


def by_the_import_system() -> bool:
    return sys._getframe(2).f_code.co_filename.startswith(IMPORT_SYSTEM)


def facts() -> dict[str, object]:
    """What a module might set for the whole process."""
    loggers = [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    return {
        "threads": _thread._count(),
        "log handlers": [handler for logger in loggers for handler in logger.handlers],
        "log level": logging.root.level,
        "warning filters": list(warnings.filters),
        "signal handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "excepthook": sys.excepthook,
        "working directory": os.getcwd(),
        "import path": list(sys.path),
        "importers": list(sys.meta_path),
    }


def modules(packages: Sequence[str]) -> Iterator[str]:
    """Every module of the packages that are installed."""
    for package in packages:
        spec = find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                parts = path.relative_to(Path(folder).parent).with_suffix("").parts
                yield ".".join(parts).removesuffix(".__init__")


def import_if_installed(name: str) -> None:
    """Import a module, unless it needs a distribution that is not there: an extra, or a plugin."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if find_spec(str(error.name).partition(".")[0]):
            raise


def use_what_is_given() -> None:
    """What a program does that gives its own host and plugins."""
    import vfiocore_legacy.plugin
    import vfiocore_pci.plugin
    from vfiocore import Framework
    from vfiocore_sim.host import SimHost

    plugins = [vfiocore_legacy.plugin, vfiocore_pci.plugin]
    framework = Framework(plugins, autoload=False, host=SimHost())
    with framework.open("-device vfio-pci,id=edu,host=0000:02:00.0") as session:
        session.dma_alloc(1)
        session["edu"].reset()


def use_what_is_installed() -> None:
    from vfiocore import Framework

    with Framework(host="sim").open("-device vfio-pci,id=edu,host=0000:02:00.0") as session:
        session.dma_alloc(1)


ACTS: dict[str, Callable[[], None]] = {
    "given": use_what_is_given,
    "installed": use_what_is_installed,
}


def main(act: str, *packages: str) -> None:
    for other in OTHERS:
        import_if_installed(other)
    names = list(modules(packages or PACKAGES))
    watch = Watch((*PROCESS, *FILES) if act == "import" else PROCESS)
    watch.begin()
    if act == "import":
        for name in names:
            import_if_installed(name)
    else:
        ACTS[act]()
    watch.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
