"""The process ends without a word, before any of its calls: the kernel cleans up, the next run works."""

from __future__ import annotations

from functools import cache

import pytest
from attrs import frozen

from .faulty import FaultyHost, Killed, Step
from .path import PATHS, Path, held, steps
from .test_errnos import NOTHING


@frozen
class Moment:
    """Just before one call of one path."""

    path: Path
    step: Step

    def __str__(self) -> str:
        return f"{self.path}-{self.step}"


def kill() -> None:
    raise Killed


@cache
def moments() -> list[Moment]:
    return [Moment(path, step) for path, step in steps() if path.backend != "passed"]


@pytest.mark.parametrize("moment", moments(), ids=str)
def test_after_a_kill_at_any_call_nothing_is_left_and_the_next_run_works(moment: Moment) -> None:
    host = FaultyHost(moment.path.host(), moment.step.index, kill)
    with pytest.raises(Killed):
        moment.path.walk(host)
    assert len(host.steps) == moment.step.index + 1  # the dead do nothing
    host.end_process()
    machine = host.inner
    assert (machine.open_files(), machine.pinned_bytes, machine.live_mappings()) == ([], 0, [])

    after = FaultyHost(machine)
    moment.path.walk(after)
    assert held(after) == NOTHING
    assert [
        call.name for call in machine.calls if call.errno is not None and is_open(call.name)
    ] == []


def is_open(name: str) -> bool:
    """A node that is busy would be opened in vain."""
    return name.startswith("open /dev/")


def test_a_process_that_is_killed_holds_what_it_had_until_the_kernel_takes_it() -> None:
    path = PATHS[0]
    halfway = next(
        step for step in path.steps() if step.label == "ioctl VFIO_GROUP_UNSET_CONTAINER"
    )
    host = FaultyHost(path.host(), halfway.index, kill)
    with pytest.raises(Killed):
        path.walk(host)
    assert host.inner.open_files() == ["group 1", "container", "device 0000:02:00.0", "group 2"]
    assert host.inner.pinned_bytes > 0
    host.end_process()
    assert host.inner.pinned_bytes == 0
