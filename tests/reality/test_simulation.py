"""The simulated kernel answers as real ones did: results, errnos and bytes, call by call.

``python -m tests.reality.record`` makes the recordings.
"""

from __future__ import annotations

from functools import cache

import pytest

from .differences import KNOWN, UNASKED, sequences_of
from .machines import BOARDS, simulated
from .recordings import SIMULATED, Answers, differences, load, recording_of
from .sequence import Sequence, all_sequences

CASES = [(machine, each) for machine in BOARDS for each in sequences_of(machine).values()]


@cache
def recorded(machine: str) -> Answers:
    """The answers of a machine with the kernel that the simulated one is like."""
    return load(recording_of(SIMULATED, machine))


@pytest.mark.parametrize(
    ("machine", "sequence"), CASES, ids=[f"{machine}-{each.name}" for machine, each in CASES]
)
def test_a_sequence_goes_as_on_a_real_kernel(machine: str, sequence: Sequence) -> None:
    script = sequence.run(simulated(sequence, machine))
    found = differences(script, recorded(machine)[sequence.name], "simulated")
    if sequence.name in KNOWN:
        assert found, f"{sequence.name!r} is no difference any more: take it off the list"
        return
    if found:
        # Where in the sequence it is, not where in Python.
        pytest.fail("\n".join([sequence.name, *found]), pytrace=False)


@pytest.mark.parametrize("machine", BOARDS)
def test_a_recording_has_every_sequence_and_no_other(machine: str) -> None:
    assert recorded(machine).keys() == sequences_of(machine).keys()


def test_the_list_of_differences_names_sequences_only() -> None:
    assert KNOWN.keys() <= all_sequences().keys()


def test_only_sequences_of_known_machines_are_left_out() -> None:
    assert UNASKED.keys() <= BOARDS.keys()
    assert {name for left_out in UNASKED.values() for name in left_out} <= all_sequences().keys()
