from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.errors import MalformedReplyError
from vfiocore_ap.matrix import ApMatrix, ApQueue, parse_matrix

NUMBERS = st.sets(st.integers(0, 255), min_size=1, max_size=8)


def test_queues_are_where_adapters_and_domains_cross() -> None:
    assert parse_matrix("05.0004\n05.00ab\n06.0004\n06.00ab\n", "00ab\n") == ApMatrix(
        adapters=(5, 6),
        domains=(4, 0xAB),
        control_domains=(0xAB,),
        queues=(ApQueue(5, 4), ApQueue(5, 0xAB), ApQueue(6, 4), ApQueue(6, 0xAB)),
    )


@given(NUMBERS, NUMBERS, NUMBERS)
def test_what_the_kernel_prints_is_read_back(
    adapters: set[int], domains: set[int], control: set[int]
) -> None:
    lines = [f"{a:02x}.{d:04x}\n" for a in sorted(adapters) for d in sorted(domains)]
    found = parse_matrix("".join(lines), "".join(f"{d:04x}\n" for d in sorted(control)))
    assert found.adapters == tuple(sorted(adapters))
    assert found.domains == tuple(sorted(domains))
    assert found.control_domains == tuple(sorted(control))
    assert [f"{queue}\n" for queue in found.queues] == lines


def test_adapters_without_a_domain_make_no_queue() -> None:
    assert parse_matrix("05.\n06.\n") == ApMatrix(adapters=(5, 6))


def test_domains_without_an_adapter_make_no_queue() -> None:
    assert parse_matrix(".0004\n.0005\n") == ApMatrix(domains=(4, 5))


def test_an_empty_matrix_has_nothing() -> None:
    assert parse_matrix("") == ApMatrix()


@pytest.mark.parametrize("line", ["05", ".", "xx.0004", "05.000g"])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(MalformedReplyError, match="no line of an AP matrix"):
        parse_matrix(line)


def test_another_control_domain_is_refused() -> None:
    with pytest.raises(MalformedReplyError, match="no line of an AP matrix"):
        parse_matrix("", "0x4.")
