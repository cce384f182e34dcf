"""What an exercise of a device returns, and how it checks."""

from __future__ import annotations

from attrs import frozen

from vfiocore.errors import VfioError


class DemoFailed(VfioError):  # noqa: N818 - reads as the event it is
    """What came back is not what was sent."""


@frozen
class Moved:
    """What a device did.

    Attributes:
        did: In words.
        bytes: How many bytes went through the IOMMU and were compared.
        interrupts: How many interrupts came.
    """

    did: str
    bytes: int
    interrupts: int


def expect(what: str, found: object, wanted: object) -> None:
    """Raise DemoFailed unless `found` is what was `wanted`."""
    if found == wanted:
        return
    if isinstance(found, bytes) and isinstance(wanted, bytes) and len(found) == len(wanted):
        wrong = [
            at for at, (is_, should) in enumerate(zip(found, wanted, strict=True)) if is_ != should
        ]
        raise DemoFailed(
            f"{what}: {len(wrong)} of {len(wanted)} bytes came back wrong, the first at"
            f" {wrong[0]:#x}: {found[wrong[0]]:#04x} instead of {wanted[wrong[0]]:#04x}"
        )
    raise DemoFailed(f"{what}: {found!r} came back, {wanted!r} was expected")
