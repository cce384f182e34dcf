from __future__ import annotations

import errno

import pytest

from vfiocore._errnos import errno_name


@pytest.mark.parametrize("name", ["EOPNOTSUPP", "EDEADLK", "EAGAIN", "ENOMEM"])
def test_a_number_has_the_name_that_the_kernel_uses(name: str) -> None:
    assert errno_name(getattr(errno, name)) == name


@pytest.mark.parametrize("number", [4711, None, 0])
def test_what_is_no_error_number_is_given_as_it_is(number: int | None) -> None:
    assert errno_name(number) == str(number)
