"""The only place that calls the system."""

from vfiocore.host.linux import LinuxHost
from vfiocore.host.protocol import (
    EVENTFD_DEFAULT,
    EVENTFD_ONE,
    MADV_HUGEPAGE,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_HUGE_SHIFT,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    POLLIN,
    POLLNVAL,
    PROT_READ,
    PROT_WRITE,
    FileStat,
    Host,
)
from vfiocore.host.trace import TraceHost

__all__ = [
    "EVENTFD_DEFAULT",
    "EVENTFD_ONE",
    "MADV_HUGEPAGE",
    "MADV_POPULATE_WRITE",
    "MAP_ANONYMOUS",
    "MAP_HUGETLB",
    "MAP_HUGE_SHIFT",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "POLLIN",
    "POLLNVAL",
    "PROT_READ",
    "PROT_WRITE",
    "FileStat",
    "Host",
    "LinuxHost",
    "TraceHost",
]
