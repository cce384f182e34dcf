from __future__ import annotations

import errno
import inspect
import pickle

import pytest

from vfiocore import errors
from vfiocore.errors import (
    AccessDeniedError,
    BusyError,
    ConfigError,
    DeviceAccessError,
    DeviceNotFoundError,
    DmaError,
    DmaMemlockError,
    DmaOverlapError,
    KernelError,
    Problem,
    UnsupportedError,
    VfioError,
    kernel_error,
)

ALL = [
    value
    for _name, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, Exception)
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_exception_is_in_the_one_tree(kind: type[Exception]) -> None:
    assert issubclass(kind, VfioError)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_exception_is_drawn_in_the_docstring(kind: type[Exception]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_what_the_kernel_said_is_an_oserror_with_its_errno() -> None:
    error = BusyError(errno.EBUSY, "VFIO_DEVICE_BIND_IOMMUFD", "0000:02:00.0")
    assert isinstance(error, OSError)
    assert error.errno == errno.EBUSY
    assert error.errno_name == "EBUSY"


def test_a_text_has_subject_operation_reason_and_errno() -> None:
    error = KernelError(errno.EIO, "pread", "0000:02:00.0 BAR 0", "offset 0x10 size 0x4")
    assert str(error) == "0000:02:00.0 BAR 0: pread failed: offset 0x10 size 0x4 [EIO]"


def test_the_reason_is_the_systems_where_nothing_more_is_known() -> None:
    error = KernelError(errno.EIO, "pread", "dev")
    assert str(error) == "dev: pread failed: Input/output error [EIO]"


def test_a_hint_has_a_line_of_its_own() -> None:
    error = DmaMemlockError(errno.ENOMEM, "dma_map", "IOAS 1", hint="raise RLIMIT_MEMLOCK")
    assert str(error).splitlines()[1] == "  hint: raise RLIMIT_MEMLOCK"


def test_an_unknown_errno_is_shown_as_its_number() -> None:
    assert KernelError(4711, "ioctl", "dev").errno_name == "4711"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, DeviceNotFoundError),
        (errno.ENODEV, DeviceNotFoundError),
        (errno.EACCES, AccessDeniedError),
        (errno.EPERM, AccessDeniedError),
        (errno.EBUSY, BusyError),
        (errno.ENOTTY, UnsupportedError),
        (errno.EXDEV, KernelError),
    ],
)
def test_an_errno_means_the_general_thing_where_nothing_else_is_said(
    number: int, kind: type[KernelError]
) -> None:
    assert type(kernel_error(OSError(number, ""), "open", "dev")) is kind


def test_an_operation_can_give_an_errno_its_own_meaning() -> None:
    kinds = {errno.ENOENT: DeviceAccessError}
    made = kernel_error(OSError(errno.ENOENT, ""), "op", "dev", kinds=kinds, detail="why", hint="h")
    assert type(made) is DeviceAccessError
    assert (made.operation, made.subject, made.detail, made.hint) == ("op", "dev", "why", "h")


def test_an_oserror_without_errno_is_an_io_error() -> None:
    assert kernel_error(OSError("odd"), "op", "dev").errno == errno.EIO


@pytest.mark.parametrize(
    "kind",
    [kind for kind in ALL if issubclass(kind, KernelError)],
    ids=lambda kind: kind.__name__,
)
def test_a_kernel_error_survives_pickling_with_all_it_has(kind: type[KernelError]) -> None:
    error = kind(errno.EEXIST, "dma_map", "IOAS 1", "iova 0x1000", "a hint")
    error.add_note("and then")
    if isinstance(error, DmaError):
        error.index = 3
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.errno, copy.__notes__) == (str(error), errno.EEXIST, ["and then"])
    assert getattr(copy, "index", None) == getattr(error, "index", None)


def test_a_dma_error_is_about_the_first_item_unless_it_says_otherwise() -> None:
    assert DmaOverlapError(errno.EEXIST, "dma_map", "IOAS 1").index == 0


def test_a_configuration_error_lists_every_problem() -> None:
    error = ConfigError([Problem("a.x", "is wrong", "try y"), Problem("b", "is missing")])
    assert str(error) == "a.x: is wrong (try y)\nb: is missing"
    assert isinstance(error, ValueError)


def test_a_configuration_error_survives_pickling() -> None:
    error = ConfigError([Problem("a.x", "is wrong", "try y")])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
