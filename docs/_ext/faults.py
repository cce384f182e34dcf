"""What goes wrong, and which exception it becomes: asked of the simulated host, not written down."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import frozen

from _ext.tables import code, table
from vfiocore import Framework, Session
from vfiocore.errors import KernelError
from vfiocore.memory import DmaMapping, address_of

if TYPE_CHECKING:
    from vfiocore.container import Container

BACKENDS = ("legacy", "iommufd")
ENTRY_LIMIT = 4
MEMLOCK_LIMIT = 1 << 24
MSI_WINDOW = 0xFEE00000

Step: TypeAlias = Callable[[Session], object]


# -- mistakes --------------------------------------------------------------------------------------
def mistakes() -> str:
    """The same mistake on each backend: the exception, and its errno."""
    rows = (
        (name, *(code(outcome(do, backend)) for backend in BACKENDS))
        for name, do in MISTAKES.items()
    )
    return table(("mistake", *BACKENDS), rows)


def outcome(mistake: Step, backend: str) -> str:
    """``DmaOverlapError EEXIST``: what a mistake becomes on a backend."""
    with _open(backend, dma_entry_limit=ENTRY_LIMIT, memlock_limit=MEMLOCK_LIMIT) as session:
        try:
            mistake(session)
        except KernelError as error:
            return f"{type(error).__name__} {error.errno_name}"
    return "no error"


def _container(session: Session) -> Container:
    return session.space.containers[0]


def _map(session: Session, iova: int, *, pages: int = 1, size: int | None = None) -> None:
    page = session.host.page_size
    memory = mmap.mmap(-1, pages * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping = DmaMapping(iova, pages * page if size is None else size, address_of(memory))
    session.space.map([mapping])


def _map_twice(session: Session) -> None:
    _map(session, 0)
    _map(session, 0)


def _map_bad_address(session: Session) -> None:
    page = session.host.page_size
    session.space.map([DmaMapping(0, page, page)])


def _map_too_many(session: Session) -> None:
    for number in range(ENTRY_LIMIT + 1):
        _map(session, number * session.host.page_size)


def _cut(session: Session) -> None:
    _map(session, 0, pages=2)
    _container(session).dma_unmap([(0, session.host.page_size)])


MISTAKES: dict[str, Step] = {
    "map 0 bytes": lambda session: _map(session, 0, size=0),
    "map half a page": lambda session: _map(session, 0, size=session.host.page_size // 2),
    "map over a mapping": _map_twice,
    "map into the MSI window of an x86 machine": lambda session: _map(session, MSI_WINDOW),
    "map past 2^64": lambda session: _map(session, (1 << 64) - session.host.page_size, pages=2),
    "map more than RLIMIT_MEMLOCK": lambda session: _map(
        session, 0, pages=MEMLOCK_LIMIT // session.host.page_size + 1
    ),
    "map an address without memory": _map_bad_address,
    f"map more often than dma_entry_limit ({ENTRY_LIMIT} here)": _map_too_many,
    "unmap where nothing is mapped": lambda session: _container(session).dma_unmap([(0, 1 << 20)]),
    "unmap a part of a mapping": _cut,
}


# -- refusals --------------------------------------------------------------------------------------
@frozen
class Refusal:
    """An operation that the kernel may refuse.

    Attributes:
        operation: As `SimHost.fail` takes it.
        errnos: What it may be refused with, by name.
        do: What is done when the session is open; opening alone if None.
        backends: Those that have the operation.
    """

    operation: str
    errnos: str
    do: Step | None = None
    backends: Sequence[str] = BACKENDS


def _dma(session: Session) -> None:
    session.dma_alloc(session.host.page_size).close()


def _dma_shared(session: Session) -> None:
    session.dma_alloc(session.host.page_size, shared=True).close()


def _device(session: Session) -> Any:
    return session["edu"]


LEGACY = ("legacy",)
IOMMUFD = ("iommufd",)

REFUSALS = (
    Refusal("open /dev/vfio/1", "ENOENT EACCES EPERM EBUSY ENODEV", backends=LEGACY),
    Refusal("open /dev/vfio/vfio", "ENOENT ENODEV EACCES", backends=LEGACY),
    Refusal("VFIO_GROUP_SET_CONTAINER", "EPERM EBUSY EINVAL", backends=LEGACY),
    Refusal("VFIO_SET_IOMMU", "EPERM EBUSY ENODEV EINVAL", backends=LEGACY),
    Refusal("VFIO_GROUP_GET_DEVICE_FD", "EAGAIN EACCES EBUSY ENODEV", backends=LEGACY),
    Refusal("open /dev/iommu", "ENOENT ENODEV EACCES", backends=IOMMUFD),
    Refusal("open /dev/vfio/devices/vfio0", "ENOENT EACCES ENODEV", backends=IOMMUFD),
    Refusal("VFIO_DEVICE_BIND_IOMMUFD", "EPERM EACCES EBUSY ENODEV EINVAL", backends=IOMMUFD),
    Refusal("IOMMU_HWPT_ALLOC", "EOPNOTSUPP ENOMEM", backends=IOMMUFD),
    Refusal("VFIO_DEVICE_ATTACH_IOMMUFD_PT", "ENOMEM EFAULT EBUSY EINVAL", backends=IOMMUFD),
    Refusal("VFIO_IOMMU_MAP_DMA", "ENOMEM EFAULT EEXIST EINVAL EOVERFLOW ENOSPC", _dma, LEGACY),
    Refusal("IOMMU_IOAS_MAP", "ENOMEM EFAULT EEXIST EINVAL EOVERFLOW ENOSPC", _dma, IOMMUFD),
    Refusal("IOMMU_IOAS_MAP_FILE", "EBADF ENOMEM EINVAL", _dma_shared, IOMMUFD),
    Refusal("VFIO_IOMMU_UNMAP_DMA", "ENOENT EINVAL EOVERFLOW EBUSY", _dma, LEGACY),
    Refusal("IOMMU_IOAS_UNMAP", "ENOENT EINVAL EOVERFLOW EBUSY EDEADLK", _dma, IOMMUFD),
    Refusal("VFIO_DEVICE_GET_INFO", "EINVAL", backends=IOMMUFD),
    Refusal(
        "VFIO_DEVICE_SET_IRQS", "EINVAL EIO EBUSY", lambda s: _device(s).msi.enable(1), IOMMUFD
    ),
    Refusal("VFIO_DEVICE_RESET", "EINVAL EAGAIN ENOTTY", lambda s: _device(s).reset(), IOMMUFD),
    Refusal("pread", "EIO", lambda s: _device(s).bars[0].read32(0), IOMMUFD),
    Refusal("mmap", "EINVAL EPERM", lambda s: s["shared"].bars[2].map(), IOMMUFD),
    Refusal("eventfd", "EMFILE", lambda s: _device(s).msi.enable(1), IOMMUFD),
)


def refusals() -> str:
    """What each errno of each operation becomes, and what the user is told to do."""
    parts = []
    for title, backends in SECTIONS:
        rows = [row for item in REFUSALS if item.backends == backends for row in _rows(item)]
        parts.append(f"### {title}\n\n{table(('operation', 'errno', 'exception', 'hint'), rows)}")
    return "\n\n".join(parts)


SECTIONS = (("The legacy backend", LEGACY), ("The iommufd backend, and every device", IOMMUFD))


def _rows(refusal: Refusal) -> Iterator[Sequence[str]]:
    for name in refusal.errnos.split():
        error = refused(refusal, getattr(errno, name))
        kind = "none: there is another way" if error is None else code(type(error).__name__)
        hint = "" if error is None else error.hint or ""
        yield code(refusal.operation), code(name), kind, hint


def refused(refusal: Refusal, number: int) -> KernelError | None:
    """The exception when an operation fails with an errno; None if there is a way around."""
    from vfiocore_sim.host import SimHost  # noqa: PLC0415 - only here is the host itself needed

    host = SimHost()
    if refusal.do is None:
        host.fail(refusal.operation, number)
    try:
        with _open(refusal.backends[0], host=host) as session:
            if refusal.do is not None:
                host.fail(refusal.operation, number)
                refusal.do(session)
    except KernelError as error:
        return error
    return None


# --------------------------------------------------------------------------------------------------
def _open(backend: str, host: Any = None, **options: Any) -> Session:
    from vfiocore_sim.host import SimHost  # noqa: PLC0415 - see above

    link = "" if backend == "legacy" else f",{backend}={backend}0"
    objects = f"-object {backend},id={backend}0 " if link else ""
    devices = (("edu", "0000:02:00.0"), ("shared", "0000:07:00.0"))
    words = (f"-device vfio-pci,id={name},host={address}{link}" for name, address in devices)
    return Framework(host=host or SimHost(**options)).open(objects + " ".join(words))
