"""The names of error numbers, as the kernel has them."""

from __future__ import annotations

import errno
from types import MappingProxyType

_SECOND_NAMES = MappingProxyType(
    {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK", errno.EAGAIN: "EAGAIN"}
)
"""Numbers for which C libraries have another name besides, which Python may give."""


def errno_name(number: int | None) -> str:
    """``ENOMEM`` for 12; the number itself if it has no name."""
    return _SECOND_NAMES.get(number or 0) or errno.errorcode.get(number or 0, str(number))
