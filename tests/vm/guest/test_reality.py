"""The guest's kernel answers as it was recorded, or as the one that the simulated kernel is like."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest

from tests.reality.differences import sequences_of
from tests.reality.in_guest import devices_ready, script_of
from tests.reality.machines import BOARDS
from tests.reality.recordings import SIMULATED, Answers, differences, load, recording_of
from tests.reality.sequence import Sequence

MACHINE = os.environ["VFIOCORE_VM_MACHINE"]

if MACHINE in BOARDS:  # the others have other devices
    SEQUENCES = sequences_of(MACHINE)

    @pytest.fixture(scope="module")
    def devices() -> Iterator[None]:
        """All devices of the sequences, with VFIO."""
        with devices_ready():
            yield

    @cache
    def recorded() -> Answers:
        own = recording_of(os.uname().release, MACHINE)
        return load(own if own.exists() else recording_of(SIMULATED, MACHINE))

    @pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES)
    def test_a_sequence_goes_as_it_was_recorded(sequence: Sequence, devices: None) -> None:
        found = differences(script_of(sequence), recorded()[sequence.name], "now")
        if found:
            # Where in the sequence it is, not where in Python.
            pytest.fail("\n".join([sequence.name, *found]), pytrace=False)
