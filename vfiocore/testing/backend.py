"""What every backend has to show."""

from __future__ import annotations

from vfiocore.testing.topics.attach import AttachAndDetach, Sharing
from vfiocore.testing.topics.leaks import TeardownLeaks
from vfiocore.testing.topics.life_cycle import LifeCycle
from vfiocore.testing.topics.limits import OverlapAndLimits, Ranges
from vfiocore.testing.topics.mapping import BatchRollback, MapAndUnmap
from vfiocore.testing.topics.mistakes import Errors
from vfiocore.testing.topics.threads import Threads


class BackendSuite(
    LifeCycle,
    MapAndUnmap,
    OverlapAndLimits,
    BatchRollback,
    AttachAndDetach,
    Ranges,
    Sharing,
    TeardownLeaks,
    Errors,
    Threads,
):
    """Subclass it as ``Test…``, and give it the fixture ``backend``, a `BackendUnderTest`.

    The topics can be used alone: each is a class of `vfiocore.testing.topics`.
    """
