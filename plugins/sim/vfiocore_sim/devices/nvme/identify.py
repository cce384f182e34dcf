"""The 4096-byte data structures of the Identify command."""

from __future__ import annotations

import struct

from attrs import frozen

IDENTIFY_SIZE = 4096
LBA_SHIFT = 9


@frozen(kw_only=True)
class ControllerIdentity:
    """What Identify Controller tells."""

    vendor_id: int
    serial: str
    model: str
    firmware: str
    version: int
    namespaces: int
    #: Largest transfer as a power of two of 4096 bytes.
    max_transfer: int

    def encode(self) -> bytes:
        """CNS 01h."""
        data = bytearray(IDENTIFY_SIZE)
        struct.pack_into("<HH", data, 0, self.vendor_id, self.vendor_id)
        data[4:24] = self.serial.encode().ljust(20)[:20]
        data[24:64] = self.model.encode().ljust(40)[:40]
        data[64:72] = self.firmware.encode().ljust(8)[:8]
        data[77] = self.max_transfer
        struct.pack_into("<I", data, 80, self.version)
        data[512] = 0x66  # submission queue entries of 2**6 bytes
        data[513] = 0x44  # completion queue entries of 2**4 bytes
        struct.pack_into("<I", data, 516, self.namespaces)
        data[525] = 0x01  # a volatile write cache: Flush is meaningful
        return bytes(data)


def identify_namespace(blocks: int) -> bytes:
    """CNS 00h: a namespace of `blocks` blocks of 512 bytes."""
    data = bytearray(IDENTIFY_SIZE)
    struct.pack_into("<QQQ", data, 0, blocks, blocks, blocks)
    struct.pack_into("<HBB", data, 128, 0, LBA_SHIFT, 0)
    return bytes(data)


def namespace_list(after: int, namespaces: int) -> bytes:
    """CNS 02h: the active namespaces above `after`."""
    idents = range(after + 1, namespaces + 1)
    return b"".join(struct.pack("<I", ident) for ident in idents).ljust(IDENTIFY_SIZE, b"\0")
