"""The ``vfiocore`` command. Needs the extra ``cli``."""

from __future__ import annotations

import importlib.util
import signal
import sys

EXTRA = ("click", "rich")

MISSING_EXTRA = """\
vfiocore: the command needs {modules}, which {verb} not installed
  install what it needs with: pip install 'vfiocore[cli]'"""


def main() -> None:
    """Entry point of the command; exits with a code of `vfiocore.cli.exit_codes`."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        text = MISSING_EXTRA.format(modules=" and ".join(missing), verb=verb)
        print(text, file=sys.stderr)  # noqa: T201 - no click to do it
        raise SystemExit(2)
    from vfiocore.cli.app import run  # noqa: PLC0415 - the extra may be missing

    # A service manager stops with SIGTERM: everything is taken down, as on an interrupt.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run()
