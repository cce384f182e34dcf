"""Memory, addresses, and a look at them through the device's eyes."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import pytest
from attrs import define, field, frozen

from vfiocore.memory.buffer import DmaBuffer
from vfiocore.memory.mapping import Access, DmaMapping
from vfiocore.testing.checks import nothing_left, refused
from vfiocore.testing.under_test import BackendUnderTest, DeviceFault

if TYPE_CHECKING:
    from vfiocore.container import Container
    from vfiocore.device import Device
    from vfiocore.host import Host
    from vfiocore.session import Session

SAMPLE = 16
"""How many bytes are looked at, at each end of a mapping."""

START = 1 << 20
"""Where addresses are taken from, if they are usable there: clear of the zero page."""


@frozen(eq=False)
class Memory:
    """A piece of this process's memory, aligned as an IOMMU wants it.

    Attributes:
        buffer: What it is a part of.
        offset: Where in `buffer` it begins, in bytes.
        size: In bytes.
    """

    buffer: DmaBuffer
    offset: int
    size: int

    @property
    def vaddr(self) -> int:
        """Its address."""
        return self.buffer.vaddr + self.offset

    @property
    def fd(self) -> int | None:
        """The memory file that it is a part of, if it is shared."""
        return self.buffer.fd


@define(eq=False)
class MemoryMaker:
    """Makes memory, each piece with contents of its own, and frees all of it at the end."""

    host: Host
    _buffers: list[DmaBuffer] = field(factory=list, init=False)
    _patterns: itertools.count[int] = field(factory=lambda: itertools.count(1), init=False)

    def make(self, size: int, *, align: int, shared: bool = False) -> Memory:
        """`size` bytes, aligned to `align`, in a memfd if `shared`."""
        buffer = DmaBuffer(self.host, size + align, shared=shared)
        self._buffers.append(buffer)
        memory = Memory(buffer, -buffer.vaddr % align, size)
        for offset in range(0, size, align):
            mark = next(self._patterns).to_bytes(SAMPLE, "little")
            buffer.write(memory.offset + offset, mark)
            buffer.write(memory.offset + offset + align - SAMPLE, mark[::-1])
        return memory

    def close(self) -> None:
        """Free everything."""
        while self._buffers:
            self._buffers.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@define(eq=False)
class Workbench:
    """An open session, with mappings made to order.

    Attributes:
        backend: The backend under test.
        session: Its open devices.
        memory: Where memory comes from.
    """

    backend: BackendUnderTest
    session: Session
    memory: MemoryMaker

    @property
    def device(self) -> Device:
        """The first device."""
        device: Device = self.session["device0"]
        return device

    @property
    def devices(self) -> list[Device]:
        """Every device."""
        return list(self.session)

    @property
    def container(self) -> Container:
        """The container of the first device."""
        return self.device.container

    @property
    def page(self) -> int:
        """What can be mapped at least, in bytes."""
        return max(self.container.page_size, self.session.host.page_size)

    def iova(self, at: int = 0, *, room: int = 256) -> int:
        """The usable address of page number `at`, with `room` pages in a row."""
        return _base(self.container, room * self.page, self.page) + at * self.page

    def mapping(
        self,
        at: int = 0,
        pages: int = 1,
        *,
        access: Access = Access.READ_WRITE,
        shared: bool = False,
        room: int = 256,
    ) -> DmaMapping:
        """New memory of so many pages, to be seen at page number `at`."""
        memory = self.memory.make(pages * self.page, align=self.page, shared=shared)
        return DmaMapping(
            self.iova(at, room=room), memory.size, memory.vaddr, access, memory.fd, memory.offset
        )

    def mappings(self, *places: int, room: int = 256) -> list[DmaMapping]:
        """One page of new memory at each of these page numbers."""
        return [self.mapping(at, room=room) for at in places]

    def nowhere(self, at: int = 0) -> DmaMapping:
        """A mapping of memory that is not there: no process has anything at so low an address."""
        return DmaMapping(self.iova(at), self.page, self.page)

    # -- looking -----------------------------------------------------------------------------
    def reached(self, *mappings: DmaMapping, by: Sequence[Device] | None = None) -> None:
        """Each device must find the memory of each mapping, at both ends of it."""
        for device in self.devices if by is None else by:
            for mapping in mappings:
                self._reached(device, mapping)

    def not_reached(self, *mappings: DmaMapping, by: Sequence[Device] | None = None) -> None:
        """No device may reach any of them; none tries that would not survive it."""
        if not self.backend.survives_faults:
            return
        for device in self.devices if by is None else by:
            for mapping in mappings:
                for iova in (mapping.iova, mapping.last + 1 - SAMPLE):
                    what = f"{device.name} reads iova {iova:#x}, which must not be mapped"
                    with refused(DeviceFault, what):
                        self.backend.device_read(device, iova, SAMPLE)

    def empty(self) -> None:
        """Neither the library nor the kernel may think that anything is mapped."""
        known = list(self.container.mappings)
        assert not known, f"the container's account still has {', '.join(map(str, known))}"
        pinned = self.backend.pinned_bytes()
        assert not pinned, f"nothing is mapped, and {pinned} bytes are pinned"

    def close(self, after: str = "the session was closed") -> None:
        """Close the session; nothing may be left of it."""
        self.session.close()
        nothing_left(self.backend.leftovers, after)

    def _reached(self, device: Device, mapping: DmaMapping) -> None:
        for offset in (0, mapping.size - SAMPLE):
            iova, expected = mapping.iova + offset, ctypes.string_at(mapping.vaddr + offset, SAMPLE)
            try:
                found = self.backend.device_read(device, iova, SAMPLE)
            except DeviceFault as fault:
                pytest.fail(f"{device.name} cannot read iova {iova:#x}, which is mapped: {fault}")
            assert found == expected, f"{device.name} reads other memory at iova {iova:#x}"


def _base(container: Container, size: int, page: int) -> int:
    """The lowest usable address with `size` bytes after it, from `START` on if that will do."""
    if not container.iova_ranges:
        return -(-START // page) * page
    for start in (START, 0):
        for usable in container.iova_ranges:
            iova = -(-max(usable.start, start) // page) * page
            if usable.covers(iova, size):
                return iova
    ranges = ", ".join(map(str, container.iova_ranges))
    pytest.fail(f"{container.label}: no {size:#x} bytes in a row are usable in {ranges}")
