"""The exception tree.

::

    VfioError
    ├── ConfigError (ValueError)          the configuration: every problem at once, each with its path
    ├── PluginError                       plugins
    │   ├── MissingPluginError            nothing installed provides a name
    │   ├── DuplicatePluginError          two distributions provide one name
    │   ├── BrokenPluginError             a plugin could not be imported, or breaks the contract
    │   └── PluginVersionError            a plugin was written for another contract version
    ├── ClosedError (ValueError)          use of something after its close()
    ├── InterruptTimeout (TimeoutError)   no interrupt came in time
    ├── MalformedReplyError (ValueError)  the kernel's answer cannot be what its header promises
    └── KernelError (OSError)             the kernel said no, or would have: errno, operation, subject
        ├── HostUnsupportedError          this machine lacks VFIO, or the interface asked for
        ├── DeviceNotFoundError           no such device, group, node or id
        ├── AccessDeniedError             permission or capability missing
        ├── BusyError                     somebody else holds it
        ├── GroupNotViableError           a device of the group is still on a host driver
        ├── UnsupportedError              this kernel, driver or device lacks the operation
        ├── DeviceAccessError             a register, config space or reset access failed
        └── DmaError                      a map or unmap; `.index` says which item of the batch
            ├── DmaAlignmentError         not aligned to the IOMMU's page
            ├── DmaOverlapError           something is mapped there already
            ├── DmaRangeError             outside the usable IOVA ranges, or wraps
            ├── DmaLimitError             no mapping entry or no IOVA left
            ├── DmaMemlockError           locked-memory limit
            ├── DmaAddressError           the memory cannot be pinned
            ├── DmaNotMappedError         nothing is mapped there
            └── DmaSplitError             the range cuts a mapping in two

A mistake gives the same class on every backend, whether it was found before the ioctl or by it.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from attrs import frozen

from vfiocore._errnos import errno_name


class VfioError(Exception):
    """Base of everything that this library raises on purpose."""


# -- configuration ---------------------------------------------------------------------------------
@frozen
class Problem:
    """One thing wrong in a configuration.

    Attributes:
        path: Where: ``device[0] "nic0" (vfio-pci).host``.
        message: What, and why.
        hint: What to do, where more can be said than the message does.
    """

    path: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}"
        return text if self.hint is None else f"{text} ({self.hint})"


class ConfigError(VfioError, ValueError):
    """The configuration is wrong; `problems` has all that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...], dict[str, Any]]:
        return type(self), (self.problems,), self.__dict__


# -- plugins ---------------------------------------------------------------------------------------
class PluginError(VfioError):
    """Something about a plugin; the text names the distribution and what to do."""


class MissingPluginError(PluginError, LookupError):
    """Nothing that is installed and allowed provides the name."""


class DuplicatePluginError(PluginError):
    """Two distributions provide one name; one of them has to be removed or blocked."""


class BrokenPluginError(PluginError):
    """A plugin failed to import, or its hooks do not fit the contract."""


class PluginVersionError(PluginError):
    """A plugin was written for another version of the contract."""


# -- use -------------------------------------------------------------------------------------------
class ClosedError(VfioError, ValueError):
    """The object has been closed."""


class InterruptTimeout(VfioError, TimeoutError):  # noqa: N818 - reads as the event it is
    """No interrupt came before the time was up."""


class MalformedReplyError(VfioError, ValueError):
    """The kernel returned a structure whose offsets or sizes contradict themselves."""


# -- kernel ----------------------------------------------------------------------------------------
class KernelError(VfioError, OSError):
    """The kernel refused an operation, or a check made beforehand shows that it would.

    Attributes:
        errno: The errno, the kernel's own also where the check was ours.
        operation: What was asked: an ioctl by its uAPI name, or ``open``, ``mmap``.
        subject: The object: ``container of group 7``, ``/dev/vfio/7``, ``0000:02:00.0``.
        detail: The reason or the addresses, in hex; empty if errno says it all.
        hint: What to do about it, where users are known to be stuck.
    """

    def __init__(
        self, errno: int, operation: str, subject: str, detail: str = "", hint: str | None = None
    ) -> None:
        self.operation = operation
        self.subject = subject
        self.detail = detail
        self.hint = hint
        super().__init__(errno, os.strerror(errno))

    @property
    def errno_name(self) -> str:
        """``ENOMEM`` for 12."""
        return errno_name(self.errno)

    def __str__(self) -> str:
        reason = self.detail or self.strerror
        text = f"{self.subject}: {self.operation} failed: {reason} [{self.errno_name}]"
        return text if self.hint is None else f"{text}\n  hint: {self.hint}"

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...], dict[str, Any]]:
        arguments = (self.errno, self.operation, self.subject, self.detail, self.hint)
        return type(self), arguments, self.__dict__  # which has the index and the notes


class HostUnsupportedError(KernelError):
    """This machine lacks VFIO, or the interface that was asked for."""


class DeviceNotFoundError(KernelError):
    """No such device, group, node or id."""


class AccessDeniedError(KernelError):
    """A permission or a capability is missing."""


class BusyError(KernelError):
    """Somebody else, or an object still alive, holds it."""


class GroupNotViableError(KernelError):
    """A device of the IOMMU group is still bound to a host driver."""


class UnsupportedError(KernelError):
    """This kernel, driver or device lacks the operation."""


class DeviceAccessError(KernelError):
    """A register, config space or interrupt access, or a reset, failed."""


class DmaError(KernelError):
    """A map or unmap failed; `index` is the item of the batch, and nothing of the batch remains."""

    index: int = 0


class DmaAlignmentError(DmaError):
    """An address or a size is not a multiple of the IOMMU's page size."""


class DmaOverlapError(DmaError):
    """Something is mapped in the range already."""


class DmaRangeError(DmaError):
    """Outside the usable IOVA ranges, in a reserved one, or past the end of the space."""


class DmaLimitError(DmaError):
    """No mapping entry, or no free IOVA, is left."""


class DmaMemlockError(DmaError):
    """The locked-memory limit does not allow this much to be pinned."""


class DmaAddressError(DmaError):
    """The memory at the address cannot be pinned."""


class DmaNotMappedError(DmaError):
    """Nothing is mapped there."""


class DmaSplitError(DmaError):
    """The range cuts a mapping; mappings go as a whole."""


ErrorKinds = Mapping[int, type[KernelError]]

GENERAL_KINDS: ErrorKinds = MappingProxyType(
    {
        _errno.ENOENT: DeviceNotFoundError,
        _errno.ENODEV: DeviceNotFoundError,
        _errno.ENXIO: DeviceNotFoundError,
        _errno.EACCES: AccessDeniedError,
        _errno.EPERM: AccessDeniedError,
        _errno.EBUSY: BusyError,
        _errno.ENOTTY: UnsupportedError,
        _errno.EOPNOTSUPP: UnsupportedError,
    }
)
"""What an errno means where an operation does not say otherwise."""


def kernel_error(
    error: OSError,
    operation: str,
    subject: str,
    *,
    kinds: ErrorKinds = MappingProxyType({}),
    detail: str = "",
    hint: str | None = None,
) -> KernelError:
    """The typed exception for what the host raised: `kinds` first, then `GENERAL_KINDS`.

    Use as ``raise kernel_error(error, "VFIO_GROUP_SET_CONTAINER", "group 7") from error``.
    """
    number = error.errno or _errno.EIO
    kind = kinds.get(number) or GENERAL_KINDS.get(number, KernelError)
    return kind(number, operation, subject, detail, hint)
