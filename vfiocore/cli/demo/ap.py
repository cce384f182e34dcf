"""An AP matrix: its queues notify a guest through memory, and a changed matrix interrupts."""

from __future__ import annotations

from typing import Any

from vfiocore.cli.demo.exercise import Moved, expect
from vfiocore.session import Session


def exercise(session: Session, matrix: Any) -> Moved:
    """Play the guest: have every queue set its indicator byte, then change the matrix.

    A guest talks to the queues with instructions, not through the device file, so its part is
    played on the simulated device itself.
    """
    machine = session.host.device(matrix.name)  # type: ignore[attr-defined]  # SimHost has it
    queues = [(queue.adapter, queue.domain) for queue in matrix.matrix.queues]
    with session.dma_alloc(len(queues)) as indicators:
        for offset, queue in enumerate(queues):
            machine.enable_notification(queue, indicators.iova + offset)
            machine.complete(queue)
        expect("the indicators", indicators.read(0, len(queues)), b"\x01" * len(queues))
        interrupts = _change(session, matrix)
        matrix.reset()
    plural = "" if len(queues) == 1 else "s"
    return Moved(f"{len(queues)} queue{plural} notified, matrix changed", len(queues), interrupts)


def _change(session: Session, matrix: Any) -> int:
    (changed,) = matrix.config_changed.enable(1)
    try:
        path = matrix.target.device.path
        session.host.write_file(f"{path}/assign_domain", b"0x6\n")
        session.host.write_file(f"{path}/unassign_domain", b"0x6\n")
        interrupts: int = changed.wait(timeout=1)
    finally:
        matrix.config_changed.disable()
    return interrupts
