"""What stops the bed before a guest could say anything."""

from __future__ import annotations


class BedError(Exception):
    """The bed cannot do what it was asked for; the text says why and what helps."""

    def __init__(self, problem: str, *hints: str) -> None:
        super().__init__("\n".join([problem, *(f"  hint: {hint}" for hint in hints)]))
