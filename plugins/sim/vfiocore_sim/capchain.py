"""Capability chains behind a VFIO info struct (``vfio_main.c:vfio_info_add_capability``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from attrs import frozen

from vfiocore.uapi.vfio import vfio_info_cap_header


@frozen
class Capability:
    """One entry of an info ioctl's capability chain: `body` is what follows the header."""

    ident: int
    body: bytes = b""
    version: int = 1

    @property
    def data(self) -> bytes:
        """Header, whose `next` is still open, and body."""
        return bytes(vfio_info_cap_header(id=self.ident, version=self.version)) + self.body


def chained(capabilities: Sequence[ctypes.Structure | bytes], start: int) -> bytes:
    """The capabilities behind `start` bytes of struct, each with its `next` filled in.

    `next` counts from the start of the whole struct; each capability is padded to 8 bytes.
    """
    chain = b""
    for number, capability in enumerate(capabilities):
        data = bytearray(capability)
        data.extend(bytes(-len(data) % 8))
        header = vfio_info_cap_header.from_buffer(data)
        header.next = start + len(chain) + len(data) if number + 1 < len(capabilities) else 0
        del header
        chain += bytes(data)
    return chain
