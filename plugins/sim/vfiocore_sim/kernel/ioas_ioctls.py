"""The IOAS ioctls of an iommufd (drivers/iommu/iommufd/ioas.c), checks in their order."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from vfiocore.uapi.iommufd import (
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    IOMMU_OPTION_HUGE_PAGES,
    IOMMU_OPTION_OP_GET,
    IOMMU_OPTION_OP_SET,
    IOMMU_OPTION_RLIMIT_MODE,
    iommu_ioas_alloc,
    iommu_ioas_allow_iovas,
    iommu_ioas_change_process,
    iommu_ioas_copy,
    iommu_ioas_iova_ranges,
    iommu_ioas_map,
    iommu_ioas_map_file,
    iommu_ioas_unmap,
    iommu_iova_range,
    iommu_option,
)
from vfiocore_sim.kernel.accounting import Charge
from vfiocore_sim.kernel.dmabuf import DmaBufFile, DmaBufMemory
from vfiocore_sim.kernel.intervals import EVERYTHING, U64_MAX, Span
from vfiocore_sim.kernel.ioas import Area, Ioas
from vfiocore_sim.kernel.memory import FileMemory
from vfiocore_sim.kernel.pages import Pages
from vfiocore_sim.refusal import refused

if TYPE_CHECKING:
    from vfiocore_sim.kernel.iommufd import Iommufd

_PROTECTION = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE
_MAP_FLAGS = _PROTECTION | IOMMU_IOAS_MAP_FIXED_IOVA
_RANGE_SIZE = ctypes.sizeof(iommu_iova_range)


def alloc(context: Iommufd, wanted: iommu_ioas_alloc) -> None:
    """``iommufd_ioas_alloc_ioctl``."""
    if wanted.flags:
        raise refused(errno.EOPNOTSUPP)
    wanted.out_ioas_id = context.add(Ioas(context.machine))


def ranges(context: Iommufd, wanted: iommu_ioas_iova_ranges) -> None:
    """``iommufd_ioas_iova_ranges``: as many as fit; EMSGSIZE with the true number otherwise."""
    if wanted.__reserved:
        raise refused(errno.EOPNOTSUPP)
    ioas = context.find(wanted.ioas_id, Ioas)
    room = wanted.num_iovas
    spans = ioas.iova_ranges()
    wanted.num_iovas = len(spans)
    wanted.out_iova_alignment = ioas.alignment
    for number, span in enumerate(spans[:room]):
        entry = iommu_iova_range(span.first, span.last)
        context.machine.memory.write(wanted.allowed_iovas + number * _RANGE_SIZE, bytes(entry))
    if room < len(spans):
        raise refused(errno.EMSGSIZE)


def allow(context: Iommufd, wanted: iommu_ioas_allow_iovas) -> None:
    """``iommufd_ioas_allow_iovas``."""
    if wanted.__reserved:
        raise refused(errno.EOPNOTSUPP)
    ioas = context.find(wanted.ioas_id, Ioas)
    size = wanted.num_iovas * _RANGE_SIZE
    raw = context.machine.memory.read(wanted.allowed_iovas, size) if size else b""
    entries = (iommu_iova_range * wanted.num_iovas).from_buffer_copy(raw) if size else ()
    ioas.allow([Span(entry.start, entry.last) for entry in entries])


def _check_map(flags: int, *numbers: int) -> None:
    """What MAP, MAP_FILE and COPY check first."""
    if flags & ~_MAP_FLAGS:
        raise refused(errno.EOPNOTSUPP)
    if U64_MAX in numbers:
        raise refused(errno.EOVERFLOW)
    if not flags & _PROTECTION:
        raise refused(errno.EINVAL)


def _account(context: Iommufd) -> Charge:
    """``pages.c:iopt_alloc_pages``: whoever may lock memory is not counted."""
    return Charge.NOBODY if context.machine.locked.cap_ipc_lock else context.account


def insert(ioas: Ioas, flags: int, pages: Pages, length: int, iova: int | None) -> int:
    """``io_pagetable.c:iopt_map_common``: the IOVA of the new area."""
    place = ioas.place(length, iova, pages.start)
    read, write = flags & IOMMU_IOAS_MAP_READABLE, flags & IOMMU_IOAS_MAP_WRITEABLE
    ioas.insert(Area(place, length, pages, 0, bool(read), bool(write)))
    return place


def map_user(
    context: Iommufd, ioas: Ioas, flags: int, address: int, length: int, iova: int | None
) -> int:
    """``io_pagetable.c:iopt_map_user_pages``."""
    if address + length > U64_MAX:
        raise refused(errno.EOVERFLOW)
    writable = bool(flags & IOMMU_IOAS_MAP_WRITEABLE)
    pages = Pages(context.machine, address, writable=writable, account=_account(context))
    return insert(ioas, flags, pages, length, iova)


def map_memory(context: Iommufd, wanted: iommu_ioas_map) -> None:
    """``iommufd_ioas_map``."""
    if wanted.__reserved:
        raise refused(errno.EOPNOTSUPP)
    _check_map(wanted.flags, wanted.iova, wanted.length)
    ioas = context.find(wanted.ioas_id, Ioas)
    iova = wanted.iova if wanted.flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
    wanted.iova = map_user(context, ioas, wanted.flags, wanted.user_va, wanted.length, iova)


def map_file(context: Iommufd, wanted: iommu_ioas_map_file) -> None:
    """``iommufd_ioas_map_file``."""
    _check_map(wanted.flags, wanted.iova, wanted.length)
    ioas = context.find(wanted.ioas_id, Ioas)
    if not wanted.length:
        raise refused(errno.EINVAL)
    if wanted.start + wanted.length - 1 > U64_MAX:
        raise refused(errno.EOVERFLOW)
    if wanted.fd < 0:
        raise refused(errno.EBADF)
    writable = bool(wanted.flags & IOMMU_IOAS_MAP_WRITEABLE)
    pages = Pages(
        context.machine,
        wanted.start,
        writable=writable,
        account=_account(context),
        file=_memory_of(context, wanted),
    )
    iova = wanted.iova if wanted.flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
    pages.hold()  # so that the file is closed whether an area took it or not
    try:
        wanted.iova = insert(ioas, wanted.flags, pages, wanted.length, iova)
    finally:
        pages.drop()


def _memory_of(context: Iommufd, wanted: iommu_ioas_map_file) -> FileMemory | DmaBufMemory:
    """``io_pagetable.c:iopt_map_file_pages``: of a dma-buf, or of what ought to be a memfd."""
    file = context.machine.files.find(wanted.fd)
    if isinstance(file, DmaBufFile):
        return DmaBufMemory(file, wanted.start + wanted.length)
    return FileMemory(wanted.fd)


def copy(context: Iommufd, wanted: iommu_ioas_copy) -> None:
    """``iommufd_ioas_copy``: the same pages again, pinned and counted once."""
    _check_map(wanted.flags, wanted.length, wanted.dst_iova, wanted.src_iova)
    source = context.find(wanted.src_ioas_id, Ioas)
    pieces = source.pieces(wanted.src_iova, wanted.length)
    target = context.find(wanted.dst_ioas_id, Ioas)
    first, offset, _size = pieces[0]
    iova = wanted.dst_iova if wanted.flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
    place = target.place(wanted.length, iova, first.pages.start + offset)
    read = bool(wanted.flags & IOMMU_IOAS_MAP_READABLE)
    write = bool(wanted.flags & IOMMU_IOAS_MAP_WRITEABLE)
    areas: list[Area] = []
    try:
        at = place
        for area, offset, size in pieces:
            fresh = Area(at, size, area.pages, offset, read, write)
            target.insert(fresh)
            areas.append(fresh)
            at += size
    except OSError:
        for area in areas:
            target.remove(area)
        raise
    wanted.dst_iova = place


def unmap(context: Iommufd, wanted: iommu_ioas_unmap) -> None:
    """``iommufd_ioas_unmap``."""
    ioas = context.find(wanted.ioas_id, Ioas)
    if wanted.iova == 0 and wanted.length == U64_MAX:
        wanted.length = ioas.unmap(EVERYTHING)
        return
    if U64_MAX in (wanted.iova, wanted.length):
        raise refused(errno.EOVERFLOW)
    removed = ioas.unmap(checked_span(wanted.iova, wanted.length))
    if not removed:
        raise refused(errno.ENOENT)
    wanted.length = removed


def checked_span(iova: int, length: int) -> Span:
    """``io_pagetable.c:iopt_unmap_iova``: EINVAL for length 0, EOVERFLOW for a wrap."""
    if not length:
        raise refused(errno.EINVAL)
    if iova + length - 1 > U64_MAX:
        raise refused(errno.EOVERFLOW)
    return Span(iova, iova + length - 1)


def change_process(context: Iommufd, wanted: iommu_ioas_change_process) -> None:
    """``iommufd_ioas_change_process``: there is one process, so nothing moves."""
    if wanted.__reserved:
        raise refused(errno.EOPNOTSUPP)
    areas = [area for ioas in context.of_type(Ioas) for area in ioas.areas]
    if not all(area.pages.from_file for area in areas):
        raise refused(errno.EINVAL)


def option(context: Iommufd, wanted: iommu_option) -> None:
    """``main.c:iommufd_option``."""
    if wanted.__reserved or wanted.op not in (IOMMU_OPTION_OP_SET, IOMMU_OPTION_OP_GET):
        raise refused(errno.EOPNOTSUPP)
    if wanted.option_id == IOMMU_OPTION_RLIMIT_MODE:
        _rlimit_mode(context, wanted)
    elif wanted.option_id == IOMMU_OPTION_HUGE_PAGES:
        _huge_pages(context.find(wanted.object_id, Ioas), wanted)
    else:
        raise refused(errno.EOPNOTSUPP)


def _rlimit_mode(context: Iommufd, wanted: iommu_option) -> None:
    """``ioas.c:iommufd_option_rlimit_mode``."""
    if wanted.object_id:
        raise refused(errno.EOPNOTSUPP)
    if wanted.op == IOMMU_OPTION_OP_GET:
        wanted.val64 = int(context.account is Charge.MM)
        return
    if not context.machine.cap_sys_resource:
        raise refused(errno.EPERM)
    if not context.empty:
        raise refused(errno.EBUSY)
    if wanted.val64 > 1:
        raise refused(errno.EINVAL)
    context.account = Charge.MM if wanted.val64 else Charge.USER


def _huge_pages(ioas: Ioas, wanted: iommu_option) -> None:
    """``ioas.c:iommufd_ioas_option_huge_pages``."""
    if wanted.op == IOMMU_OPTION_OP_GET:
        wanted.val64 = int(ioas.huge_pages)
        return
    if wanted.val64 > 1:
        raise refused(errno.EINVAL)
    ioas.set_huge_pages(enabled=bool(wanted.val64))
