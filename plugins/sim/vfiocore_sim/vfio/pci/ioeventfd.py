"""VFIO_DEVICE_IOEVENTFD: a store into a BAR each time an eventfd is signalled."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeAlias

from vfiocore.uapi.vfio import vfio_device_ioeventfd
from vfiocore_sim.refusal import fail
from vfiocore_sim.user import UserArg
from vfiocore_sim.vfio.eventfd import EventHook, EventWatcher

_MINSZ = 28
_MAX_IOEVENTFDS = 1000
_QUADWORD = 8

#: (bar, offset in bytes, data, width in bytes)
Store: TypeAlias = tuple[int, int, int, int]


class IoEventFds:
    """The ioeventfds of one function (``vfio_pci_rdwr.c:vfio_pci_ioeventfd``)."""

    def __init__(
        self,
        watcher: EventWatcher,
        allowed: Callable[[int, int, int], bool],
        store: Callable[[Store], None],
    ) -> None:
        """`allowed` takes file offset and width: inside a BAR, clear of the MSI-X table.

        `store` carries one out.
        """
        self._watcher = watcher
        self._allowed = allowed
        self._store = store
        self._hooks: dict[Store, EventHook] = {}

    def ioctl(self, user: UserArg, locate: Callable[[int], tuple[int, int]]) -> int:
        """Add or remove one; `locate` splits a file offset into region and offset.

        Raises:
            OSError: EINVAL, EEXIST, ENODEV, ENOSPC, and EBADF or EINVAL for the eventfd.
        """
        request = user.struct(vfio_device_ioeventfd, _MINSZ)
        width = request.flags
        if width not in (1, 2, 4, _QUADWORD) or request.fd < -1:
            fail(errno.EINVAL)
        bar, offset = locate(request.offset)
        # 8-byte stores are refused: iowrite64 is not to be had on every architecture.
        if not self._allowed(bar, offset, width) or width == _QUADWORD:
            fail(errno.EINVAL)
        store = (bar, offset, request.data & ((1 << 8 * width) - 1), width)
        if store in self._hooks:
            if request.fd != -1:
                fail(errno.EEXIST)
            self._watcher.remove(self._hooks.pop(store))
            return 0
        if request.fd < 0:
            fail(errno.ENODEV)
        if len(self._hooks) >= _MAX_IOEVENTFDS:
            fail(errno.ENOSPC)
        self._hooks[store] = self._watcher.add(request.fd, lambda: self._store(store))
        return 0

    def close(self) -> None:
        """Last close: all of them go."""
        for hook in self._hooks.values():
            self._watcher.remove(hook)
        self._hooks.clear()
