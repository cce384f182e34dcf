"""State machines of what the containers of two devices show: one on each backend."""

from __future__ import annotations

import errno
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vfiocore.errors import DmaError
from vfiocore_sim.host import SimHost

from .machine import EDU, OTHER_EDU, Part
from .reach import BOTH, Reached, container_of, on, reached

FAILING = ("VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA", "IOMMU_IOAS_MAP", "IOMMU_IOAS_UNMAP")
Fault: TypeAlias = tuple[str, int] | None
"""The operation that fails, and how many go well before."""

FAULTS = st.none() | st.tuples(st.sampled_from(FAILING), st.integers(0, 4))
CARDS = (EDU, OTHER_EDU)


class TwoContainers(RuleBasedStateMachine):
    """Containers come and go; each device reaches what `seen` says, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.host = SimHost()
        self.session = on(self.host).open(BOTH)
        self.containers = {part: container_of(self.session, part) for part in CARDS}

    def teardown(self) -> None:
        self.session.close()
        assert self.host.pinned_bytes == 0
        super().teardown()

    @abstractmethod
    def seen(self) -> Reached:
        """What is to be reached, page after page."""

    def try_with(
        self,
        fault: Fault,
        change: Callable[..., None],
        *args: object,
        wrong: type[Exception] | None = None,
    ) -> bool:
        """True if the change went through. It has to fail if it is `wrong`, it may with a fault."""
        if fault is not None:
            self.host.fail(fault[0], errno.ENOMEM, after=fault[1])
        try:
            if wrong is not None:
                with pytest.raises(wrong):
                    change(*args)
                return False
            change(*args)
        except DmaError:
            if fault is None:
                raise
            return False
        finally:
            self.host.clear_failures()
        return True

    @precondition(lambda self: len(self.session.space.containers) == len(CARDS))
    @rule(part=st.sampled_from(CARDS))
    def container_goes(self, part: Part) -> None:
        self.session.space.remove(self.containers[part])

    @precondition(lambda self: len(self.session.space.containers) < len(CARDS))
    @rule(fault=FAULTS)
    def container_comes(self, fault: Fault) -> None:
        (missing,) = set(self.containers.values()) - set(self.session.space.containers)
        self.try_with(fault, self.session.space.add, missing)

    @invariant()
    def devices_reach_what_is_seen(self) -> None:
        seen = self.seen()
        for part, container in self.containers.items():
            shown = container in self.session.space.containers
            assert reached(self.host, part) == (seen if shown else {})
