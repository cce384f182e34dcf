"""The conformance kit: what every backend and every frontend has to show. Needs pytest.

A backend's author subclasses one class and gives one fixture::

    from vfiocore.testing import BackendSuite, BackendUnderTest

    class TestAcme(BackendSuite):
        @pytest.fixture
        def backend(self) -> BackendUnderTest:
            return AcmeUnderTest(host=LinuxHost(), plugins=[vfiocore_acme.plugin], ...)

`DeviceSuite` with its fixture ``device`` does the same for a frontend. `vfiocore.testing.sim` has
a backend under test that is made already, for backends that talk to VFIO: on the simulated host.

What a backend cannot do is declared in the record; tests that need it are then skipped with the
reason, or check that it is refused: what is declared absent must raise, and never seem to work.
"""

from __future__ import annotations

try:
    import pytest
except ModuleNotFoundError as _error:  # the extra
    raise ModuleNotFoundError(
        "vfiocore.testing needs pytest: pip install 'vfiocore[testing]'", name="pytest"
    ) from _error

# Before anything below is imported: who runs the suite wants to see what was compared.
pytest.register_assert_rewrite(
    "vfiocore.testing.checks", "vfiocore.testing.topics", "vfiocore.testing.workbench"
)

from vfiocore.testing.backend import BackendSuite  # noqa: E402 - after the line above
from vfiocore.testing.device import DeviceSuite  # noqa: E402
from vfiocore.testing.under_test import (  # noqa: E402
    BackendUnderTest,
    DeviceFault,
    DeviceUnderTest,
    Faults,
    PassedDevice,
    Register,
)
from vfiocore.testing.workbench import Memory, MemoryMaker, Workbench  # noqa: E402

__all__ = [
    "BackendSuite",
    "BackendUnderTest",
    "DeviceFault",
    "DeviceSuite",
    "DeviceUnderTest",
    "Faults",
    "Memory",
    "MemoryMaker",
    "PassedDevice",
    "Register",
    "Workbench",
]
