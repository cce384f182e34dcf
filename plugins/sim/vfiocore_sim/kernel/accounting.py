"""Locked memory: who is charged for pinned pages, and against which limit."""

from __future__ import annotations

import errno
from enum import Enum

from attrs import define, field

from vfiocore_sim.refusal import refused


class Charge(Enum):
    """Which account a pin goes to."""

    MM = "mm"  # mm_struct.locked_vm: type1 containers, and iommufd in RLIMIT_MODE 1
    USER = "user"  # user_struct.locked_vm: iommufd, shared between all of a user's files
    NOBODY = "nobody"


@define
class LockedMemory:
    """The accounts of the one simulated process, all in bytes."""

    limit: int | None
    cap_ipc_lock: bool
    #: What is pinned now, whoever is charged for it, if anybody.
    pinned: int = 0
    charged: dict[Charge, int] = field(factory=lambda: dict.fromkeys(Charge, 0))

    def pin(self, size: int, account: Charge, *, limited: bool) -> None:
        """Charge `size` bytes; ENOMEM beyond RLIMIT_MEMLOCK when `limited`."""
        over = self.limit is not None and self.charged[account] + size > self.limit
        if over and limited and account is not Charge.NOBODY:
            raise refused(errno.ENOMEM)
        self.charged[account] += size
        self.pinned += size

    def unpin(self, size: int, account: Charge) -> None:
        """Give back what `pin` charged."""
        self.charged[account] -= size
        self.pinned -= size
