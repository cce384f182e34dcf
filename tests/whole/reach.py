"""What devices reach: which page of memory they find where, and what they may do there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vfiocore.container import Container
from vfiocore.framework import Framework
from vfiocore.memory import Access, Backing
from vfiocore.session import Session
from vfiocore_sim.host import SimHost

from .machine import EDU, OTHER_EDU, Part, installed

Reached = dict[int, tuple[int | None, Access]]
"""By IOVA of each page: the number in the memory, None where it may only be written."""

BOTH = (
    f"-object iommufd,id=iommufd0 -device vfio-pci,id=edu,host={EDU.name}"
    f" -device vfio-pci,id=other,host={OTHER_EDU.name},iommufd=iommufd0"
)
"""One device on each backend."""


def on(host: SimHost) -> Framework:
    return installed().on(host)


def numbered(host: SimHost, pages: int, first: int = 1) -> Backing:
    """Memory whose pages begin with their numbers, from `first` on."""
    backing = Backing.allocate(host, pages * host.page_size)
    view = backing.owner.view  # type: ignore[attr-defined]  # of the buffer that it is
    for page in range(pages):
        at = page * host.page_size
        view[at : at + 8] = (first + page).to_bytes(8, "little")
    return backing


def reached(host: SimHost, part: Part) -> Reached:
    found: Reached = {}
    for entry in host.page_table(part.name):
        access = Access(entry.readable * Access.READ.value | entry.writable * Access.WRITE.value)
        for iova in range(entry.iova, entry.iova + entry.size, host.page_size):
            data = host.device(part.name).dma.read(iova, 8) if entry.readable else None
            found[iova] = (data and int.from_bytes(data, "little"), access)
    return found


def container_of(session: Session, part: Part) -> Container:
    container: Container = session[part.id].container
    return container


@contextmanager
def opened(host: SimHost, words: str = BOTH) -> Iterator[Session]:
    """A session, and afterwards nothing that stays behind."""
    with on(host).open(words) as session:
        yield session
    assert host.pinned_bytes == 0
