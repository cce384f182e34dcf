"""Every call of the whole path fails, one after another, with whatever the kernel can say there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest
from attrs import frozen

from vfiocore._errnos import errno_name
from vfiocore.errors import KernelError, VfioError
from vfiocore_sim.host import SimHost

from .errnos import TABLE, TAKEN_AS_FACTS, answers, is_a_fact
from .faulty import NEVER_FAIL, FaultyHost, Step
from .path import PATHS, Absent, Held, Path, held, steps

NOTHING = Held(files=[], pinned=0, mappings=[], written=[], fds=[], memory=0)

PROBES = {
    "ioctl IOMMU_IOAS_MAP_FILE": ("iommufd", "passed"),
    "ioctl IOMMU_DESTROY": ("passed",),
}
"""The first of them only asks, by these ways: whether the kernel maps files (ENOTTY is the only no),
and whether an fd is an iommufd (ENOENT is the only yes)."""

STAYS = ("passed", "ioctl VFIO_DEVICE_DETACH_IOMMUFD_PT")
"""A device that does not detach, of an fd that stays open: its page table cannot be destroyed. (The
kernel's DETACH always succeeds.)"""


@frozen
class Case:
    """One call of one path, and the errno that it gets."""

    path: Path
    step: Step
    code: int
    is_probe: bool = False

    def __str__(self) -> str:
        return f"{self.path}-{self.step}-{errno_name(self.code)}"

    @property
    def may_pass(self) -> bool:
        return self.is_probe or is_a_fact(self.step.label, self.code)

    def host(self) -> FaultyHost:
        return FaultyHost(self.path.host(), self.step.index, self._strike)

    def _strike(self) -> None:
        raise OSError(self.code, os.strerror(self.code))


@cache
def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    seen: set[tuple[Path, str]] = set()
    for path, step in steps():
        if step.method in NEVER_FAIL:
            continue
        is_first = (path, step.label) not in seen
        seen.add((path, step.label))
        is_probe = is_first and path.backend in PROBES.get(step.label, ())
        for code in answers(step.label).errnos:
            yield Case(path, step, code, is_probe)


def failure(case: Case, host: FaultyHost) -> VfioError | None:
    """What the path ends with; anything but a typed error goes through."""
    try:
        told = case.path.walk(host)
    except VfioError as error:
        return error
    except Absent:
        assert case.may_pass
    else:
        assert case.may_pass or is_told_as_a_warning(case, told)
    return None


@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_call_that_fails_is_told_and_leaves_nothing_and_the_next_run_works(case: Case) -> None:
    host = case.host()
    error = failure(case, host)
    assert host.steps[case.step.index].method == case.step.method
    assert held(host) == NOTHING
    if error is not None and not case.may_pass:
        assert_told(error, case)
    case.path.open_again(host.inner)
    assert held(host) == NOTHING


def is_told_as_a_warning(case: Case, told: list[str]) -> bool:
    """True for a device that did not answer when it was done with, and was let go of all the same."""
    answer = f"[{errno_name(case.code)}]"
    unanswered = [text for text in told if "does not answer" in text and answer in text]
    return case.step.method in ("pread", "pwrite") and bool(unanswered)


def assert_told(error: VfioError, case: Case) -> None:
    """The error has the operation, the object and the cause, and nothing else went wrong."""
    assert isinstance(error, KernelError)
    assert error.errno == case.code
    assert error.operation
    assert error.subject
    assert str(error).startswith(f"{error.subject}: {error.operation} failed: ")
    assert f"[{errno_name(case.code)}]" in str(error)
    if (case.path.backend, case.step.label) != STAYS:
        assert not getattr(error, "__notes__", [])
    ioctl = case.step.label.removeprefix("ioctl ")
    if case.step.method == "ioctl" and ioctl not in error.operation:
        assert (ioctl, error.operation) in SAID_OTHERWISE


SAID_OTHERWISE = {
    ("VFIO_GROUP_SET_CONTAINER", "VFIO_GROUP_GET_STATUS"),  # not viable since it was asked
}


# -- the table -------------------------------------------------------------------------------------
def test_every_call_of_every_path_is_in_the_table() -> None:
    unknown = {
        step.label
        for _path, step in steps()
        if step.method not in NEVER_FAIL and not any(map(step.label.startswith, TABLE))
    }
    assert not unknown


def test_every_row_of_the_table_is_on_a_path_or_on_the_way_of_a_failure() -> None:
    labels = {step.label for _path, step in steps()}
    unused = {key for key in TABLE if not any(label.startswith(key) for label in labels)}
    assert unused == {"open /dev/char/"}


def test_what_is_taken_as_a_fact_is_something_that_the_kernel_says() -> None:
    assert all(code in TABLE[key].errnos for key, code in TAKEN_AS_FACTS)


def test_the_paths_are_the_same_each_time() -> None:
    for path in PATHS:
        assert path.steps() == path.steps()


def test_a_path_that_nothing_disturbs_leaves_nothing() -> None:
    for path in PATHS:
        host = FaultyHost(path.host())
        path.walk(host)
        assert held(host) == NOTHING
        assert isinstance(host.inner, SimHost)
