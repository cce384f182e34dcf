"""What the command's exit codes mean; they are part of its interface."""

from __future__ import annotations

import enum

from vfiocore import errors


class ExitCode(enum.IntEnum):
    """Exit codes, the same for every subcommand."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_DEVICE = 3
    PERMISSION = 4
    NOT_VIABLE = 5
    BUSY = 6
    UNSUPPORTED = 7
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "an operation failed, or did not do what it should",
    ExitCode.USAGE: "the command line, the configuration or the set of plugins is wrong",
    ExitCode.NO_DEVICE: "no such device",
    ExitCode.PERMISSION: "permission or capability missing",
    ExitCode.NOT_VIABLE: "a device of the IOMMU group is on a host driver",
    ExitCode.BUSY: "somebody else holds it",
    ExitCode.UNSUPPORTED: "this machine, kernel, driver or device lacks it",
    ExitCode.INTERRUPTED: "interrupted",
}

_BY_ERROR: tuple[tuple[type[Exception], ExitCode], ...] = (
    (errors.ConfigError, ExitCode.USAGE),
    (errors.PluginError, ExitCode.USAGE),
    (errors.GroupNotViableError, ExitCode.NOT_VIABLE),
    (errors.DeviceNotFoundError, ExitCode.NO_DEVICE),
    (errors.AccessDeniedError, ExitCode.PERMISSION),
    (errors.BusyError, ExitCode.BUSY),
    (errors.HostUnsupportedError, ExitCode.UNSUPPORTED),
    (errors.UnsupportedError, ExitCode.UNSUPPORTED),
)


def exit_code_of(error: Exception) -> ExitCode:
    """The exit code for an error."""
    for kind, code in _BY_ERROR:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED
