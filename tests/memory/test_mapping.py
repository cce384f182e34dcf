from __future__ import annotations

import attrs
import pytest

from vfiocore.memory import Access, DmaMapping


def test_a_mapping_is_readable_and_writable_unless_told_otherwise() -> None:
    assert DmaMapping(0x1000, 0x1000, 0x7F0000).access is Access.READ | Access.WRITE


def test_a_mapping_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        DmaMapping(0x1000, 0x1000, 0x7F0000).iova = 0  # type: ignore[misc]


def test_the_last_byte_of_the_space_has_an_address() -> None:
    assert DmaMapping((1 << 64) - 0x1000, 0x1000, 0).last == (1 << 64) - 1


def test_a_mapping_reads_as_iova_to_vaddr() -> None:
    assert str(DmaMapping(0x1000, 0x1000, 0x7F0000)) == "0x1000-0x1fff → 0x7f0000"
