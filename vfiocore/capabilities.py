"""Capability chains: the lists that the kernel appends to an info struct.

The kernel's word is not taken for bounds: every offset is checked against the buffer, and a
chain that loops ends in an error. Unknown ids and versions are the caller's to skip.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import TypeVar

from attrs import frozen

from vfiocore.errors import MalformedReplyError
from vfiocore.uapi.vfio import vfio_info_cap_header

Struct = TypeVar("Struct", bound=ctypes.Structure)
Element = TypeVar("Element", bound=ctypes.Structure)

HEADER_SIZE = ctypes.sizeof(vfio_info_cap_header)

CHAIN_LIMIT = 64
"""More capabilities than any struct has; a kernel that chains more is not believed."""


@frozen
class Capability:
    """One capability.

    Attributes:
        id: Its id in the number space of the struct that it was appended to.
        version: The version of its layout.
        data: Its bytes from its header on, up to the end of the reply.
    """

    id: int
    version: int
    data: bytes

    def as_struct(self, layout: type[Struct]) -> Struct:
        """The capability as `layout`; MalformedReplyError if it is cut short."""
        if len(self.data) < ctypes.sizeof(layout):
            raise MalformedReplyError(
                f"capability {self.id} has {len(self.data)} bytes,"
                f" {layout.__name__} needs {ctypes.sizeof(layout)}"
            )
        return layout.from_buffer_copy(self.data)

    def array_after(
        self, layout: type[Struct], element: type[Element], count: int
    ) -> list[Element]:
        """The `count` elements that follow the fixed part of the capability."""
        start, size = ctypes.sizeof(layout), ctypes.sizeof(element)
        if start + count * size > len(self.data):
            raise MalformedReplyError(
                f"capability {self.id} announces {count} elements of {size} bytes,"
                f" but only {max(len(self.data) - start, 0)} bytes follow"
            )
        return [element.from_buffer_copy(self.data, start + i * size) for i in range(count)]


def walk(reply: bytes, first: int) -> Iterator[Capability]:
    """The capabilities of a reply whose first one is at offset `first`; 0 means none.

    Raises:
        MalformedReplyError: an offset points outside the reply, or the chain loops or does not end.
    """
    seen: set[int] = set()
    offset = first
    while offset:
        if offset in seen:
            raise MalformedReplyError(f"the capability chain loops at offset {offset}")
        if offset + HEADER_SIZE > len(reply):
            raise MalformedReplyError(
                f"a capability at offset {offset} is outside the {len(reply)} bytes of the reply"
            )
        if len(seen) == CHAIN_LIMIT:
            raise MalformedReplyError(f"the capability chain has more than {CHAIN_LIMIT} links")
        seen.add(offset)
        header = vfio_info_cap_header.from_buffer_copy(reply, offset)
        yield Capability(header.id, header.version, reply[offset:])
        offset = header.next
