"""Which adapters and domains a matrix has, as its sysfs attributes tell.

Source: ``matrix``, ``guest_matrix`` and ``control_domains`` of the mdev (Documentation/arch/s390/
vfio-ap.rst; vfio_ap_ops.c:vfio_ap_mdev_matrix_show_common).
"""

from __future__ import annotations

import re

from attrs import frozen

from vfiocore.errors import MalformedReplyError

LARGEST = 255
"""The largest number of an adapter or a domain (s390's AP_DEVICES and AP_DOMAINS are 256)."""


@frozen(order=True)
class ApQueue:
    """An AP queue number (APQN): one domain of one adapter.

    Attributes:
        adapter: The adapter's number (APID), 0 to 255.
        domain: The usage domain's number (APQI), 0 to 255.
    """

    adapter: int
    domain: int

    def __str__(self) -> str:
        return f"{self.adapter:02x}.{self.domain:04x}"


@frozen
class ApMatrix:
    """Adapters, domains, and the queues where they cross; all sorted.

    Attributes:
        adapters: The numbers of the assigned adapters.
        domains: The numbers of the assigned usage domains.
        control_domains: The numbers of the domains that may be administered.
        queues: One for each domain of each adapter; empty while either is missing.
    """

    adapters: tuple[int, ...] = ()
    domains: tuple[int, ...] = ()
    control_domains: tuple[int, ...] = ()
    queues: tuple[ApQueue, ...] = ()


def parse_matrix(matrix: str, control_domains: str = "") -> ApMatrix:
    """Read the attributes' texts.

    Args:
        matrix: Lines of ``AA.DDDD`` in hex; ``AA.`` while no domain is assigned, ``.DDDD`` while
            no adapter is.
        control_domains: Lines of ``DDDD``.

    Raises:
        MalformedReplyError: A line is none of these.
    """
    pairs = [_pair(line) for line in matrix.split()]
    adapters = {adapter for adapter, _ in pairs if adapter is not None}
    domains = {domain for _, domain in pairs if domain is not None}
    return ApMatrix(
        tuple(sorted(adapters)),
        tuple(sorted(domains)),
        tuple(sorted(_number(line, line) for line in control_domains.split())),
        tuple(sorted(ApQueue(a, d) for a, d in pairs if a is not None and d is not None)),
    )


def _pair(line: str) -> tuple[int | None, int | None]:
    adapter, dot, domain = line.partition(".")
    if not dot or (not adapter and not domain):
        raise MalformedReplyError(f"{line!r} is no line of an AP matrix")
    return (
        _number(adapter, line) if adapter else None,
        _number(domain, line) if domain else None,
    )


def _number(text: str, line: str) -> int:
    # int() takes signs, underscores and 0x too.
    if not re.fullmatch("[0-9a-fA-F]{1,4}", text) or int(text, 16) > LARGEST:
        raise MalformedReplyError(f"{line!r} is no line of an AP matrix")
    return int(text, 16)
