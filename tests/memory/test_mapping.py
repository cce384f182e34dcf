from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import attrs
import pytest

from vfiocore.memory import Access, DmaMapping


def test_a_mapping_is_readable_and_writable_unless_told_otherwise() -> None:
    assert DmaMapping(0x1000, 0x1000, 0x7F0000).access is Access.READ | Access.WRITE


def test_a_mapping_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        DmaMapping(0x1000, 0x1000, 0x7F0000).iova = 0  # type: ignore[misc]


def test_a_mapping_is_equal_to_one_of_the_same_numbers_and_to_nothing_else() -> None:
    mapping = DmaMapping(0x1000, 0x2000, 0x3000, Access.READ, 7, 0x4000)

    assert mapping == DmaMapping(0x1000, 0x2000, 0x3000, Access.READ, 7, 0x4000)
    assert hash(mapping) == hash(attrs.evolve(mapping))
    assert mapping != attrs.evolve(mapping, fd_offset=0)
    assert mapping != attrs.astuple(mapping)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda mapping: pickle.loads(pickle.dumps(mapping))]
)
def test_a_copy_of_a_mapping_is_one_too(again: Callable[[DmaMapping], DmaMapping]) -> None:
    mapping = DmaMapping(0x1000, 0x2000, 0x3000, Access.READ, 7, 0x4000)

    assert again(mapping) == mapping


def test_the_last_byte_of_the_space_has_an_address() -> None:
    assert DmaMapping((1 << 64) - 0x1000, 0x1000, 0).last == (1 << 64) - 1


def test_a_mapping_reads_as_iova_to_vaddr() -> None:
    assert str(DmaMapping(0x1000, 0x1000, 0x7F0000)) == "0x1000-0x1fff → 0x7f0000"
