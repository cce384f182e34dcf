"""Those who follow an address space."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfiocore.memory.flatview import FlatRange


class MemoryListener:
    """Follows an address space. A listener overrides what it needs; the rest does nothing.

    Each round is `begin`, every `log_stop` and `region_del`, every `region_add`, `region_nop` and
    `log_start`, `commit`. It goes through the listeners step by step: removals reach the one with
    the highest priority first, everything else the one with the lowest.

    A call that raises has had no effect, and the round is taken back in all of them:

    - Who had begun is told the calls that had succeeded once more in reverse, an add for each del
      and a del for each add, and then `commit`; who had committed, in a round of its own, with
      its `begin`.
    - Whose `commit` raised has undone the whole round, and is told nothing.

    So one that acts in each call needs no memory of its own, and one that collects and acts in
    `commit` has one place that must be all or nothing.

    Attributes:
        priority: Its place among the listeners, read when it is added; among equals the one
            added first is before the others.
    """

    __slots__ = ()

    priority: int = 0

    def begin(self) -> None:
        """A round begins."""

    def region_del(self, flat: FlatRange) -> None:
        """`flat` goes."""

    def region_add(self, flat: FlatRange) -> None:
        """`flat` comes; nothing that is there overlaps it."""

    def region_nop(self, flat: FlatRange) -> None:
        """`flat` stays as it was.

        Told for every such range in every round, so a listener that overrides this makes each
        change cost as much as there are ranges. There is nothing to take back.
        """

    def log_start(self, flat: FlatRange) -> None:
        """What devices write to `flat`, which is there, is to be logged from now on."""

    def log_stop(self, flat: FlatRange) -> None:
        """What devices write to `flat`, which is there still, needs no log any more."""

    def log_sync(self, flat: FlatRange) -> None:
        """Bring the log of `flat` up to date. Asked for at any time, in no round."""

    def commit(self) -> None:
        """The round is complete."""
