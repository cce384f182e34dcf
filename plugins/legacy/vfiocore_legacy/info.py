"""What a type1 container says of itself: VFIO_IOMMU_GET_INFO and its capabilities."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from attrs import frozen

from vfiocore import capabilities
from vfiocore.access import GROWTH_LIMIT, REPLY_LIMIT
from vfiocore.errors import MalformedReplyError, kernel_error
from vfiocore.memory.ranges import FULL_RANGE, IovaRange
from vfiocore.uapi import vfio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiocore.capabilities import Capability
    from vfiocore.host import Host


@frozen
class Type1Info:
    """The facts of a container now; they change when groups come and go.

    Attributes:
        page_sizes: Bitmap of page sizes in bytes.
        iova_ranges: Usable addresses, sorted; empty before Linux 5.4, without a real IOMMU, and
            where nothing limits them.
        available: How many mappings may still be made; None before Linux 5.10.
        dirty_page_sizes: Bitmap of the page sizes in bytes that dirty tracking can report in;
            0 before Linux 5.8.
        emulated: True if it is an iommufd that plays the part of type1 (Linux 6.2).
    """

    page_sizes: int
    iova_ranges: tuple[IovaRange, ...] = ()
    available: int | None = None
    dirty_page_sizes: int = 0
    emulated: bool = False


def read_info(host: Host, fd: int, subject: str) -> Type1Info:
    """Ask a container after SET_IOMMU.

    Raises:
        KernelError: the ioctl failed.
        MalformedReplyError: the capability chain leads out of the reply.
    """
    reply = _reply(host, fd, subject)
    head = vfio.vfio_iommu_type1_info.from_buffer_copy(reply)
    chain: dict[int, Capability] = {}
    if head.flags & vfio.VFIO_IOMMU_INFO_CAPS:
        chain = {item.id: item for item in capabilities.walk(reply, head.cap_offset)}
    known = head.flags & vfio.VFIO_IOMMU_INFO_PGSIZES and head.iova_pgsizes
    return Type1Info(
        page_sizes=head.iova_pgsizes if known else host.page_size,
        iova_ranges=_iova_ranges(chain),
        available=_available(chain),
        emulated=_is_emulated(chain),
        dirty_page_sizes=_dirty_page_sizes(chain),
    )


def _reply(host: Host, fd: int, subject: str) -> bytes:
    """The whole reply: the kernel says in argsz how much room its capabilities need."""
    size = ctypes.sizeof(vfio.vfio_iommu_type1_info)
    for _ in range(GROWTH_LIMIT):
        buffer = bytearray(size)
        buffer[:4] = bytes(ctypes.c_uint32(size))
        try:
            host.ioctl(fd, vfio.VFIO_IOMMU_GET_INFO, buffer)
        except OSError as error:
            raise kernel_error(error, "VFIO_IOMMU_GET_INFO", subject) from error
        wanted = int(vfio.vfio_iommu_type1_info.from_buffer_copy(buffer).argsz)
        if wanted <= size:
            return bytes(buffer)
        if wanted > REPLY_LIMIT:
            break
        size = wanted
    raise MalformedReplyError(f"{subject}: VFIO_IOMMU_GET_INFO asks for {wanted} bytes")


def _iova_ranges(chain: Mapping[int, Capability]) -> tuple[IovaRange, ...]:
    found = chain.get(vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
    if found is None:
        return ()
    layout = vfio.vfio_iommu_type1_info_cap_iova_range
    count = found.as_struct(layout).nr_iovas
    ranges = found.array_after(layout, vfio.vfio_iova_range, count)
    try:
        usable = tuple(sorted(IovaRange(item.start, item.end) for item in ranges))
    except ValueError as error:
        raise MalformedReplyError(f"VFIO_IOMMU_GET_INFO: {error}") from error
    return () if usable == (FULL_RANGE,) else usable


def _available(chain: Mapping[int, Capability]) -> int | None:
    found = chain.get(vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL)
    if found is None:
        return None
    return int(found.as_struct(vfio.vfio_iommu_type1_info_dma_avail).avail)


def _is_emulated(chain: Mapping[int, Capability]) -> bool:
    """Type1 that counts what is available (Linux 5.10) also tells of migration (5.8), always.

    iommufd counts, but does not tell (iommufd/vfio_compat.c:iommufd_vfio_iommu_get_info).
    """
    counts = vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL in chain
    return counts and vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION not in chain


def _dirty_page_sizes(chain: Mapping[int, Capability]) -> int:
    found = chain.get(vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION)
    if found is None:
        return 0
    return int(found.as_struct(vfio.vfio_iommu_type1_info_cap_migration).pgsize_bitmap)
