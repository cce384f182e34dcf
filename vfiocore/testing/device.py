"""What every frontend has to show."""

from __future__ import annotations

from vfiocore.testing.topics.irqs import Irqs
from vfiocore.testing.topics.regions import Regions, Reset


class DeviceSuite(Regions, Irqs, Reset):
    """Subclass it as ``Test…``, and give it the fixture ``device``, a `DeviceUnderTest`.

    The topics can be used alone: each is a class of `vfiocore.testing.topics`.
    """
