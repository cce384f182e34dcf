"""What the documentation takes from the code: the tables of its extension."""

from __future__ import annotations

import errno

import pytest

from vfiocore import errors

pytestmark = pytest.mark.usefixtures("extension")

DIFFERENT = {
    # type1 has an entry limit, an IOAS has none (peers of one mistake, not one of the library's).
    "map more often than dma_entry_limit (4 here)": ("DmaLimitError ENOSPC", "no error"),
}


def kinds(root: type[Exception]) -> set[str]:
    found = {root.__name__}
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            found |= kinds(child)
    return found


def test_every_exception_is_in_the_table() -> None:
    from _ext import tables

    text = tables.exceptions()
    assert {name for name in kinds(errors.VfioError) if f"| `{name}` |" not in text} == set()


def test_a_mistake_is_the_same_exception_on_each_backend() -> None:
    from _ext import faults

    found = {
        name: tuple(faults.outcome(mistake, backend) for backend in faults.BACKENDS)
        for name, mistake in faults.MISTAKES.items()
    }
    assert {name: pair for name, pair in found.items() if pair[0] != pair[1]} == DIFFERENT


def test_every_mistake_is_an_error_somewhere() -> None:
    from _ext import faults

    assert not [
        name
        for name, mistake in faults.MISTAKES.items()
        if faults.outcome(mistake, "legacy") == "no error"
    ]


def test_a_refusal_is_shown_with_the_class_that_it_becomes() -> None:
    from _ext import faults

    refusal = faults.Refusal("VFIO_SET_IOMMU", "EPERM", backends=faults.LEGACY)
    error = faults.refused(refusal, errno.EPERM)

    assert isinstance(error, errors.AccessDeniedError)
    assert error.operation == "VFIO_SET_IOMMU"
    assert error.hint is not None


def test_every_refusal_keeps_its_errno_or_finds_another_way() -> None:
    from _ext import faults

    for refusal in faults.REFUSALS:
        for name in refusal.errnos.split():
            number = getattr(errno, name)
            error = faults.refused(refusal, number)
            assert error is None or error.errno == number, (refusal.operation, name)


def test_every_type_of_object_and_device_has_its_table() -> None:
    from _ext import tables

    from vfiocore import Framework

    schema = Framework().schema
    text = tables.properties()
    for name in schema.objects:
        assert f"### `-object {name}`" in text
    for name in schema.devices:
        assert f"### `-device {name}`" in text
        for prop in schema.device_properties(name):
            assert f"| `{prop}` |" in text


def test_bars_and_newlines_do_not_break_a_table() -> None:
    from _ext import tables

    assert tables.table(("a",), [("on|off\nauto",)]).splitlines()[-1] == "| on\\|off auto |"
